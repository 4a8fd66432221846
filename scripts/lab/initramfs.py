# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The guest's initramfs: one static program and the modules of the kernel.

With the storm or the crowd, that is started first and becomes the other one. They are
programs of their own so that dumps of all other guests stay what they are.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Dict, List, Sequence

from . import cache
from .architectures import HERE, Architecture
from .library import KernelFiles
from .packages import install
from .process import run
from .stock import MODULES

__all__ = (
    "FLAGS",
    "archive",
    "build",
    "first_recipe",
    "first_sources",
    "member",
    "program",
    "recipe",
)

_SOURCES = Path(__file__).with_name("guest")
FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-static")
"""How the guest's programs are compiled."""

_RELOADED = ("qemu_fw_cfg",)


def recipe(architecture: Architecture) -> str:
    """Return the key of everything the guest's program is made from."""
    other = () if architecture.name == HERE else (architecture.name, architecture.compiler)
    return cache.key(1, FLAGS, *other, *sorted(_SOURCES.glob("*.[ch]")))


def first_sources(first: str) -> List[Path]:
    """Return what the program that is started first is compiled from."""
    return [*sorted((_SOURCES / first).glob("*.c")), _SOURCES / "ground.c"]


def first_recipe(first: str) -> str:
    """Return the key of everything that program is made from."""
    files = [*(_SOURCES / first).glob("*.[ch]"), *_SOURCES.glob("ground.[ch]")]
    return cache.key(1, FLAGS, *sorted(files))


def member(name: str, mode: int, data: bytes = b"", device: int = 0) -> bytes:
    """
    Return a member of an archive that a kernel unpacks.

    :param name: Its path, without a slash in front.
    :param mode: As in ``st_mode``.
    """
    # The "newc" format: a header of 8-digit hexadecimal numbers, name and data
    # padded to 4 bytes.
    encoded = name.encode() + b"\0"
    major, minor = device >> 8, device & 0xFF
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    whole = header + encoded
    whole += bytes(-len(whole) % 4)
    return whole + data + bytes(-len(data) % 4)


def archive(members: Sequence[bytes]) -> bytes:
    """Return members as a compressed archive that a kernel unpacks."""
    return gzip.compress(b"".join([*members, member("TRAILER!!!", 0)]), 1, mtime=0)


def program(first: str, architecture: Architecture) -> bytes:
    """
    Return one of the guest's programs, compiled once.

    :param first: A folder beside the ordinary one's files; empty for that one.
    :raises LabError: if it does not compile.
    """
    if first:
        return _compiled(first_sources(first), first_recipe(first), architecture)
    return _compiled(sorted(_SOURCES.glob("*.c")), recipe(architecture), architecture)


def _compiled(sources: Sequence[Path], key: str, architecture: Architecture) -> bytes:
    folder = cache.root() / "guest" / key
    if not folder.exists():
        log = cache.log_file("guest")
        install(architecture.packages, log=log)
        with cache.lock("guest"), cache.entry(folder) as work:
            files = [str(file) for file in sources]
            run([architecture.compiler, *FLAGS, "-o", str(work / "init"), *files], log=log)
    return (folder / "init").read_bytes()


def build(
    kernel: KernelFiles,
    *,
    first: str = "",
    besides: Sequence[str] = (),
    more: Sequence[bytes] = (),
) -> bytes:
    """
    Return the initramfs for a kernel.

    :param first: Program that is started first: a folder beside the ordinary one's files.
    :param besides: Modules that not all guests load.
    :param more: Members for that program.
    :raises LabError: if the guest's program does not compile.
    """
    modules: Dict[str, Path] = kernel.modules
    machine = kernel.kernel.machine
    order = [name for name in (*MODULES, *besides) if name in modules]
    parts = [
        member("dev", 0o040755),
        member("dev/console", 0o020600, device=0x0501),
        member("base" if first else "init", 0o100755, program("", machine)),
        member("modules", 0o040755),
        member("modules/order", 0o100644, "".join(f"{name}\n" for name in order).encode()),
    ]
    parts += [member(f"modules/{name}.ko", 0o100644, modules[name].read_bytes()) for name in order]
    if first:
        parts.append(member("init", 0o100755, program(first, machine)))
    if first == "storm":
        parts.append(member("storm", 0o040755))
        # What is loaded is deleted; the storm has its own.
        parts += [
            member(f"storm/{name}.ko", 0o100644, modules[name].read_bytes())
            for name in _RELOADED
            if name in modules
        ]
    return archive([*parts, *more])
