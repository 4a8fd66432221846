# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Dumps: a guest stopped, asked and written down.

One folder for each dump: ``vmcore``, ``vmlinux`` (a link; not there if the kernel
comes without debug symbols), ``oracle/``, ``console.log`` and ``manifest.json``.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

from . import askpages, cache, initramfs, oracle
from .boot import running
from .elfcore import Core, Note, add_note
from .errors import GuestError, LabError
from .guests import Guest
from .library import KernelFiles
from .process import run, say
from .qemu import Machine

__all__ = ("Dump", "describe", "load", "present", "take", "vmcoreinfo")

_HIGHLIGHTS = (
    "SLAB",
    "SLUB",
    "DEBUG_SLAB",
    "SLUB_DEBUG",
    "SLUB_CPU_PARTIAL",
    "SLAB_FREELIST_HARDENED",
    "SLAB_FREELIST_RANDOM",
    "SLAB_MERGE_DEFAULT",
    "MEMCG",
    "KFENCE",
    "NR_CPUS",
    "NODES_SHIFT",
    "HUGETLB_PAGE_OPTIMIZE_VMEMMAP",
    "RANDOMIZE_BASE",
)
_ORACLE_SECONDS = 120
_PAUSE_SECONDS = (0.3, 1.5)


class Dump(NamedTuple):
    """A dump on disk."""

    folder: Path
    """Where its files are."""
    kernel: str
    """Name of its kernel."""
    guest: str
    """Name of its guest."""
    number: int
    """Which of several dumps of one boot."""

    @property
    def name(self) -> str:
        """A name for tables."""
        return f"{self.kernel}/{self.guest}" + (f"/{self.number}" if self.number else "")

    @property
    def vmcore(self) -> Path:
        """The memory."""
        return self.folder / "vmcore"

    @property
    def vmlinux(self) -> Optional[Path]:
        """The kernel with its debug information; ``None`` if there is none to be had."""
        file = self.folder / "vmlinux"
        return file if file.exists() else None

    @property
    def oracle(self) -> oracle.Oracle:
        """What the kernel said; false if there is none."""
        return oracle.Oracle(self.folder / "oracle")

    @property
    def manifest(self) -> Dict[str, object]:
        """What is known of it."""
        manifest: Dict[str, object] = json.loads((self.folder / "manifest.json").read_text())
        return manifest


def _folder(kernel: KernelFiles, guest: Guest, number: int) -> Path:
    key = cache.key(
        4,
        kernel.key,
        initramfs.recipe(kernel.kernel.machine),
        guest.options,
        guest.parameters,
        guest.seconds,
        guest.busy,
        *([initramfs.first_recipe(guest.first)] if guest.first else []),
        *([initramfs.first_recipe("second")] if guest.crash else []),
        *guest.modules,
    )
    suffix = f"-{number}" if number else ""
    return cache.root() / "dumps" / kernel.kernel.name / f"{guest.name}-{key}{suffix}"


def load(kernel: KernelFiles, guest: Guest, number: int = 0) -> Dump:
    """Return a dump, whether it has been taken or not."""
    return Dump(_folder(kernel, guest, number), kernel.kernel.name, guest.name, number)


def present(kernel: KernelFiles, guest: Guest, count: int = 1) -> Optional[List[Dump]]:
    """Return the dumps of a boot if all have been taken."""
    dumps = [load(kernel, guest, number) for number in range(count)]
    return dumps if all((dump.folder / "manifest.json").exists() for dump in dumps) else None


def _write(
    kernel: KernelFiles, guest: Guest, number: int, stopped: Machine, said: Optional[str]
) -> Dump:
    dump = load(kernel, guest, number)
    with cache.entry(dump.folder) as folder:
        stopped.dump(folder / "vmcore")
        (folder / "vmcore").chmod(0o644)
        # Most of a guest's memory is zero: let it take no room.
        run(["fallocate", "--dig-holes", str(folder / "vmcore")], log=cache.log_file("dumps"))
        if kernel.vmlinux is not None:
            (folder / "vmlinux").symlink_to(kernel.vmlinux)
        files: Dict[str, bytes] = {}
        _complete(kernel, folder / "vmcore")
        with Core(folder / "vmcore") as core:
            if said is not None:
                files = oracle.read_guest(core, said, kernel.kernel.machine.order)
                oracle.save(files, folder / "oracle")
        describe(kernel, guest, number, folder, has_oracle=bool(files))
        if stopped.console.exists():
            (folder / "console.log").write_bytes(stopped.console.read_bytes())
    return dump


def describe(
    kernel: KernelFiles, guest: Guest, number: int, folder: Path, *, has_oracle: bool
) -> None:
    """Write what is known of a dump into its folder."""
    config = kernel.config
    manifest = {
        "kernel": kernel.kernel.name,
        "guest": guest.name,
        "number": number,
        "architecture": kernel.kernel.architecture,
        "release": kernel.release,
        "package_version": kernel.version,
        "allocator": kernel.kernel.allocator,
        "page_type": kernel.kernel.page_type,
        "config": {name: config[name] for name in _HIGHLIGHTS if name in config},
        "parameters": guest.parameters,
        "memory_mib": guest.memory_mib,
        "cpus": guest.cpus,
        "nodes": guest.nodes,
        "format": "elf",
        "oracle": has_oracle,
        "dump_page": "it was not asked",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _complete(kernel: KernelFiles, vmcore: Path) -> None:
    # VMCOREINFO reaches QEMU through the module qemu_fw_cfg.
    with Core(vmcore) as core:
        if "VMCOREINFO" in {note.name for note in core.notes()}:
            return
        if not kernel.kernel.machine.tells:
            # The checker finds it where the kernel keeps it.
            return
        if kernel.modules or kernel.config:
            raise GuestError("the dump has no VMCOREINFO: qemu_fw_cfg did not load")
        note = Note("VMCOREINFO", 0, core.vmcoreinfo())
    add_note(vmcore, note)


def vmcoreinfo(kernel: KernelFiles, stopped: Machine, file: Path) -> Optional[Path]:
    """
    Write VMCOREINFO of a guest whose kernel comes without modules into a file.

    :return: The file; ``None`` if QEMU has it from the guest.
    """
    if kernel.modules or kernel.config:
        return None
    core = file.with_suffix(".core")
    stopped.dump(core)
    with Core(core) as opened:
        file.write_bytes(opened.vmcoreinfo())
    core.unlink()
    return file


def _ask(stopped: Machine, dump: Dump) -> None:
    # A dump is good without it; the comparison says what became of this.
    why = ""
    try:
        words = askpages.ask(stopped, dump.folder)
        (dump.folder / "oracle" / askpages.FILE).write_text(json.dumps(words, indent=1) + "\n")
    except LabError as error:
        why = str(error)
        say(f"the guest does not tell about its pages: {why}")
    manifest = json.dumps({**dump.manifest, "dump_page": why}, indent=1)
    (dump.folder / "manifest.json").write_text(manifest + "\n")


def take(kernel: KernelFiles, guest: Guest, *, count: int = 1, seed: int = 1) -> List[Dump]:
    """
    Boot a guest and dump it.

    :param count: How many times a busy guest is stopped.
    :param seed: For the moments at which a busy guest is stopped.
    :return: One dump, or as many as asked for of a busy guest.
    :raises GuestError: if the guest fails.
    """
    if guest.crash:
        from . import crash

        return [crash.take(kernel, guest)]
    moments = random.Random(seed)
    begin = time.monotonic()
    with running(kernel, guest) as started:
        booted = time.monotonic() - begin
        dumps = []
        if guest.busy:
            for number in range(count):
                time.sleep(moments.uniform(*_PAUSE_SECONDS))
                started.stop()
                dumps.append(_write(kernel, guest, number, started, None))
                started.resume()
        else:
            dumps.append(_write_steady(kernel, guest, started))
    say(
        f"{kernel.kernel.name}/{guest.name}: booted in {booted:.0f} s,"
        f" dumped after {time.monotonic() - begin:.0f} s"
    )
    return dumps


def _write_steady(kernel: KernelFiles, guest: Guest, started: Machine) -> Dump:
    # Dump until the guest finds its numbers unchanged after the dump. It gives
    # up by itself, with a line that wait_for() raises.
    seconds = _ORACLE_SECONDS * kernel.kernel.patience * guest.patience
    while True:
        said = started.wait_for("oracle", seconds)
        started.stop()
        if started.has_said("held"):
            # Too late: the guest went on before it was stopped.
            started.resume()
            started.wait_for("held", seconds)
            continue
        dump = _write(kernel, guest, 0, started, said)
        started.resume()
        held = started.wait_for("held", seconds)
        if held.startswith("changed=- "):
            if kernel.kernel.prints:
                # Last of all: a guest that was called from outside may not go on.
                started.stop()
                _ask(started, dump)
            return dump
        say(f"{dump.name}: dumped once more, {held}")
        shutil.rmtree(dump.folder)
