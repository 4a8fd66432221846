# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Kernels broken on purpose, by their own tests and by a module of ours.

A kernel is booted once for each way to boot it; what QEMU writes down of it then
is where every case begins. Each case is done in a guest of its own, which is
dumped right afterwards; after the dump the kernel is let look, and what it
printed says where damage must be found.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import socket
import tempfile
import time
from pathlib import Path
from typing import Iterator, List, Sequence

from . import cache
from .architectures import ARCHITECTURES, HERE
from .errors import GuestError
from .gdbstub import GdbStub
from .initramfs import FLAGS, member
from .library import KernelFiles
from .packages import install
from .process import run
from .qemu import Machine, connect, machine

__all__ = ("Broken", "Saved", "saved")

_INIT = Path(__file__).with_name("breaker") / "init.c"
_GUEST = Path(__file__).with_name("guest")
_MEMORY_MIB = 128
_READY_SECONDS = 120.0
_CASE_SECONDS = 60.0
_STOP_SECONDS = 20.0
_MACHINE = ARCHITECTURES[HERE]
_OPTIONS = (*_MACHINE.machine, "-accel", "tcg,thread=multi", "-cpu", "Nehalem,-cx16")
_TIME = re.compile(r"^\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ")


def _command_line(parameters: str) -> str:
    return f"console=ttyS0 panic=-1 no_timer_check no_hash_pointers slab_nomerge {parameters}"


def _image(kernel: KernelFiles, folder: Path) -> Path:
    # The program that does what it is asked for, and all modules.
    log = cache.log_file("guest")
    install(_MACHINE.packages, log=log)
    program, image = folder / "init", folder / "initramfs"
    sources = [str(_INIT), str(_GUEST / "ground.c")]
    run(["gcc", *FLAGS, f"-I{_GUEST}", "-o", str(program), *sources], log=log)
    parts = [
        member("dev", 0o040755),
        member("dev/console", 0o020600, device=0x0501),
        member("init", 0o100755, program.read_bytes()),
        member("modules", 0o040755),
    ]
    for name, file in kernel.modules.items():
        parts.append(member(f"modules/{name}.ko", 0o100644, file.read_bytes()))
    image.write_bytes(gzip.compress(b"".join([*parts, member("TRAILER!!!", 0)]), 1, mtime=0))
    return image


def _options(folder: Path) -> List[str]:
    return [
        *_OPTIONS,
        *("-m", f"{_MEMORY_MIB}M", "-smp", "2"),
        *("-chardev", f"socket,id=commands,path={folder}/commands,server=on,wait=off"),
        *("-serial", "chardev:commands"),
    ]


def _wait_for_status(guest: Machine, wanted: Sequence[str]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while guest.qmp.command("query-status")["status"] not in wanted:
        if time.monotonic() > deadline:
            raise GuestError("QEMU does not read the state of the guest back")
        time.sleep(0.05)


def _save(guest: Machine, path: Path) -> None:
    guest.stop()
    guest.qmp.command("migrate", uri=f"exec:cat > {path}")
    deadline = time.monotonic() + _READY_SECONDS
    while (status := guest.qmp.command("query-migrate")["status"]) != "completed":
        if status == "failed" or time.monotonic() > deadline:
            raise GuestError(f"QEMU does not write the state of the guest: {status}")
        time.sleep(0.05)


class Saved:
    """A guest that has booted and waits for a case, as often as one likes."""

    def __init__(self, kernel: KernelFiles, parameters: str, folder: Path) -> None:
        self.kernel = kernel
        """Its kernel."""
        self._line = _command_line(parameters)
        self._folder = folder
        self._image = _image(kernel, folder)
        self._state = folder / "state"
        with self._machine(()) as guest:
            guest.wait_for("cases", _READY_SECONDS)
            _save(guest, self._state)

    @contextlib.contextmanager
    def _machine(self, options: Sequence[str]) -> Iterator[Machine]:
        log = cache.log_file(f"console-{self.kernel.kernel.name}-broken")
        options = [*_options(self._folder), *options]
        program = (_MACHINE.emulator,)
        what = self.kernel.vmlinuz, self._image, self._line, options
        with machine(*what, program=program, console=log) as guest:
            yield guest

    @contextlib.contextmanager
    def resumed(self) -> Iterator[Broken]:
        """Have the guest as it was saved; it is stopped."""
        (self._folder / "commands").unlink(missing_ok=True)
        with self._machine(("-incoming", f"exec:cat {self._state}")) as guest:
            _wait_for_status(guest, ("paused", "prelaunch", "postmigrate"))
            with contextlib.closing(connect(self._folder / "commands")) as commands:
                yield Broken(guest, commands)


class Broken:
    """A guest that one case is done in."""

    def __init__(self, guest: Machine, commands: socket.socket) -> None:
        self._guest = guest
        self._commands = commands
        self._read = 0

    def ask(self, command: str) -> str:
        """
        Let the guest obey a command, stop it, and return how it went.

        ``0`` if all went well, ``died`` if the kernel killed who did it.
        """
        self._guest.resume()
        self._commands.sendall(command.encode() + b"\n")
        try:
            return self._guest.wait_for("done", _CASE_SECONDS)
        except GuestError as error:
            return str(error)
        finally:
            with contextlib.suppress(GuestError):
                self._guest.stop()

    def dump(self, path: Path) -> None:
        """Write the guest's memory."""
        self._guest.dump(path)

    def said(self) -> List[str]:
        """Return what the kernel has printed since this was called last, line by line."""
        console = self._guest.console
        if not console.exists():
            return []
        with console.open("rb") as stream:
            stream.seek(self._read)
            data = stream.read()
        self._read += len(data)
        text = data.decode("utf-8", "replace").replace("\r", "")
        return [_TIME.sub("", line) for line in text.splitlines()]

    def stops(self, command: str, address: int) -> Iterator[None]:
        """Give the guest a command, and stop wherever it enters a function meanwhile."""
        stub = GdbStub(self._guest.gdb_path)
        try:
            stub.breakpoint(address, on=True)
            self._commands.sendall(command.encode() + b"\n")
            while (thread := stub.run(_STOP_SECONDS)) is not None:
                yield
                stub.breakpoint(address, on=False)
                stub.step(thread)
                stub.breakpoint(address, on=True)
        finally:
            stub.close()


@contextlib.contextmanager
def saved(kernel: KernelFiles, parameters: str) -> Iterator[Saved]:
    """Boot a kernel, and have it for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="slabtype-broken-") as name:
        yield Saved(kernel, parameters, Path(name))
