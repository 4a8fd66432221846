# SPDX-License-Identifier: LGPL-2.1-or-later

"""A kernel booted as a guest, and made busy."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator, Optional, Sequence

from . import cache, emulator, initramfs
from .architectures import ARCHITECTURES
from .errors import BootError, GuestError
from .guests import Guest
from .library import KernelFiles
from .packages import install
from .process import say
from .qemu import Machine, machine

__all__ = ("initial", "running")

_READY_SECONDS = 60
_TRIES = 4
_BALLOON_MIB = 16


def _command_line(guest: Guest) -> str:
    architecture = ARCHITECTURES[guest.architecture]
    words = [
        f"console={architecture.console}",
        "panic=-1",
        "oops=panic",
        # A busy host is late with timer interrupts.
        "no_timer_check",
        # Pointers as they are, where dump_page() prints them.
        "no_hash_pointers",
        f"lab.seconds={guest.seconds}",
        f"lab.busy={int(guest.busy)}",
        f"lab.lines={architecture.lines}" if architecture.lines else "",
        guest.parameters,
    ]
    return " ".join(word for word in words if word)


def initial(kernel: KernelFiles, *, first: str = "", besides: Sequence[str] = ()) -> Path:
    """
    Return the initramfs of a kernel, made once.

    :param first: Program that is started first.
    :param besides: Modules that not all guests load.
    """
    name = "-".join([kernel.kernel.name, *([first] if first else []), *besides[-1:]])
    recipe = initramfs.recipe(kernel.kernel.machine)
    if first:
        recipe = cache.key(1, recipe, initramfs.first_recipe(first))
    image = cache.root() / "guest" / f"{name}-{kernel.key}-{recipe}.img"
    image.parent.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        for old in image.parent.glob(f"{name}-{'?' * 12}-{'?' * 12}.img"):
            old.unlink()
        # In one step: half an image, left by whoever was stopped here, would be booted.
        part = image.with_suffix(f".{os.getpid()}")
        part.write_bytes(initramfs.build(kernel, first=first, besides=besides))
        part.replace(image)
    return image


@contextlib.contextmanager
def running(
    kernel: KernelFiles,
    guest: Guest,
    words: Sequence[str] = (),
    options: Sequence[str] = (),
    *,
    image: Optional[Path] = None,
) -> Iterator[Machine]:
    """
    Run a guest for as long as the context lasts; its load has begun.

    :param words: Added to the command line of its kernel.
    :param options: Further arguments for QEMU.
    :param image: Its initramfs, if that is not the usual one.
    :raises BootError: if it does not come up in several tries.
    """
    install(kernel.kernel.machine.packages, log=cache.log_file("packages"))
    # Multi-threaded TCG now and then runs a breakpoint that the kernel has
    # already patched away, and the guest panics while it boots.
    for remaining in reversed(range(_TRIES)):
        with contextlib.ExitStack() as stack:
            try:
                started = _boot(kernel, guest, words, options, image, stack)
            except BootError as error:
                if not remaining:
                    raise
                say(f"{kernel.kernel.name}/{guest.name}: once more: {error}")
                continue
            yield started
            return


def _boot(
    kernel: KernelFiles,
    guest: Guest,
    words: Sequence[str],
    options: Sequence[str],
    image: Optional[Path],
    stack: contextlib.ExitStack,
) -> Machine:
    log = cache.log_file(f"console-{kernel.kernel.name}-{guest.name}")
    image = image or initial(kernel, first=guest.first, besides=guest.modules)
    line = " ".join([_command_line(guest), *words])
    architecture = kernel.kernel.machine
    options = [*architecture.machine, *kernel.kernel.board, *guest.options, *options]
    recent = guest.recent or kernel.kernel.recent
    program = emulator.recent(architecture) if recent else (architecture.emulator,)
    started = stack.enter_context(
        machine(kernel.vmlinuz, image, line, options, console=log, program=program)
    )
    # CPUs that share a thread of the host are slower, the more of them there are.
    seconds = _READY_SECONDS * (guest.cpus if guest.cx16 else 1) * kernel.kernel.patience
    seconds *= guest.patience
    try:
        started.wait_for("ready", seconds)
        # Pages that are in the balloon are offline.
        balloon = (guest.memory_mib - _BALLOON_MIB) << 20
        started.qmp.command("balloon", value=balloon)
        started.wait_for("load", seconds)
    except GuestError as error:
        raise BootError(str(error)) from None
    return started
