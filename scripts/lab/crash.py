# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Crashes: a guest that panics, and its crash kernel that writes the dump.

The kernel is loaded once more by the guest itself (``guest/crash/load.c``), with an
initramfs of one program (``guest/second/write.c``) and Debian's makedumpfile. When the
guest panics, that kernel boots and writes ``/proc/vmcore`` onto disks: as it is, and in
each of :data:`FORMATS`. So there are the registers of all CPUs, KASLR, per-CPU notes,
and the files that people have.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Sequence, Tuple

from . import cache, initramfs, oracle
from .boot import running
from .dumps import Dump, describe, load
from .elfcore import Core
from .errors import GuestError
from .guests import Guest
from .initramfs import archive, member, program
from .library import KernelFiles
from .packages import install
from .process import output, run, say
from .qemu import Machine

__all__ = ("CUT", "FORMATS", "Crashing", "loaded", "take")

CUT = "crash-cut"
"""Format of a dump that ends where the disk was full."""
FORMATS = ("crash-l-31", "crash-d-1", "crash-c-17", CUT)
"""Formats besides ELF, in the order of the disks; the last disk is too small."""

_MAKEDUMPFILE = "/usr/bin/makedumpfile"
_DISK_MIB = 1024
_SMALL_MIB = 12
_ORACLE_SECONDS = 180
_CRASH_SECONDS = 600


def _libraries() -> List[Path]:
    lines = output(["ldd", _MAKEDUMPFILE])
    return [Path(name) for name in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", lines, re.MULTILINE)]


def _second(kernel: KernelFiles) -> bytes:
    # The initramfs of the crash kernel.
    install(("makedumpfile",), log=cache.log_file("packages"))
    machine = kernel.kernel.machine
    writer = program("second", machine)
    files: List[Tuple[str, bytes]] = [("bin/makedumpfile", Path(_MAKEDUMPFILE).read_bytes())]
    files += [(str(path)[1:], path.read_bytes()) for path in _libraries()]
    folders = {str(folder) for name, _ in files for folder in Path(name).parents} - {"."}
    return archive(
        [
            member("dev", 0o040755),
            member("dev/console", 0o020600, device=0x0501),
            *(member(folder, 0o040755) for folder in sorted(folders)),
            *(member(name, 0o100755, data) for name, data in files),
            member("init", 0o100755, writer),
        ]
    )


def _image(kernel: KernelFiles) -> bytes:
    more = [
        member("crash", 0o040755),
        member("crash/vmlinuz", 0o100644, kernel.vmlinuz.read_bytes()),
        member("crash/initramfs", 0o100644, _second(kernel)),
    ]
    return initramfs.build(kernel, first="crash", more=more)


def _disks(folder: Path) -> Tuple[List[Path], List[str]]:
    disks = [folder / f"disk{number}" for number in range(len(FORMATS) + 1)]
    options = ["-device", "nvme,id=disks,serial=lab"]
    for number, disk in enumerate(disks):
        with disk.open("wb") as stream:
            stream.truncate((_SMALL_MIB if disk == disks[-1] else _DISK_MIB) << 20)
        options += ["-drive", f"file={disk},if=none,id=disk{number},format=raw"]
        options += ["-device", f"nvme-ns,drive=disk{number},bus=disks"]
    return disks, options


@contextlib.contextmanager
def loaded(
    kernel: KernelFiles, guest: Guest, folder: Path, words: Sequence[str] = ()
) -> Iterator[Crashing]:
    """
    Run a guest that has loaded its crash kernel, for as long as the context lasts.

    :param folder: Where the disks are that the crash kernel writes to.
    :param words: Added to the command line of its kernel.
    """
    with tempfile.TemporaryDirectory() as name:
        image = Path(name) / "initramfs"
        image.write_bytes(_image(kernel))
        disks, options = _disks(folder)
        with running(kernel, guest, words, options=options, image=image) as started:
            yield Crashing(started, disks)


class Crashing(NamedTuple):
    """A guest that has loaded its crash kernel."""

    machine: Machine
    disks: List[Path]
    """The disks it writes to: as it is, and each of :data:`FORMATS`."""

    def panic(self) -> Dict[str, Path]:
        """
        Let it panic, wait until its crash kernel has written everything, and stop it.

        :return: The dumps by format, ``elf`` and :data:`FORMATS`.
        :raises GuestError: if it does not panic, or nothing is written.
        """
        machine = self.machine
        machine.may_panic = True
        # A CPU panics in its handler of an interrupt that nobody expects.
        machine.qmp.command("inject-nmi")
        machine.resume()
        machine.wait_for("second", _CRASH_SECONDS)
        size = int(machine.wait_for("size", _CRASH_SECONDS))
        for number in range(len(self.disks)):
            status = machine.wait_for("written", _CRASH_SECONDS)
            say(f"written {status}")
            if not status.endswith("status=0") and number < len(FORMATS):
                raise GuestError(f"the crash kernel could not write: {status}")
        machine.wait_for("done", _CRASH_SECONDS)
        machine.stop()
        with self.disks[0].open("r+b") as stream:
            stream.truncate(size)
        for disk in self.disks:
            run(["fallocate", "--dig-holes", str(disk)], log=cache.log_file("dumps"))
        return dict(zip(("elf", *FORMATS), self.disks))


def take(kernel: KernelFiles, guest: Guest) -> Dump:
    """
    Boot a guest, let it panic and take what its crash kernel writes.

    :raises GuestError: if it does not panic, or nothing is written.
    """
    dump = load(kernel, guest)
    with cache.entry(dump.folder) as folder:
        with loaded(kernel, guest, folder) as crashing:
            said = crashing.machine.wait_for("oracle", _ORACLE_SECONDS)
            dumps = crashing.panic()
            console = crashing.machine.console.read_bytes()
        for format, disk in dumps.items():
            disk.rename(folder / f"vmcore{'' if format == 'elf' else f'.{format}'}")
        if kernel.vmlinux is not None:
            (folder / "vmlinux").symlink_to(kernel.vmlinux)
        with Core(folder / "vmcore") as core:
            oracle.save(
                oracle.read_guest(core, said, kernel.kernel.machine.order), folder / "oracle"
            )
        describe(kernel, guest, 0, folder, has_oracle=True)
        (folder / "console.log").write_bytes(console)
    return dump
