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
from .library import KernelFiles
from .packages import GUEST_PACKAGES, install
from .process import run
from .stock import MODULES

__all__ = ("FLAGS", "build", "first_recipe", "first_sources", "member", "recipe")

_SOURCES = Path(__file__).with_name("guest")
FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-static")
"""How the guest's programs are compiled."""

_RELOADED = ("qemu_fw_cfg",)


def recipe() -> str:
    """Return the key of everything the guest's program is made from."""
    return cache.key(1, FLAGS, *sorted(_SOURCES.glob("*.[ch]")))


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


def _program(sources: Sequence[Path], key: str) -> bytes:
    folder = cache.root() / "guest" / key
    if not folder.exists():
        log = cache.log_file("guest")
        install(GUEST_PACKAGES, log=log)
        with cache.lock("guest"), cache.entry(folder) as work:
            files = [str(file) for file in sources]
            run(["gcc", *FLAGS, "-o", str(work / "init"), *files], log=log)
    return (folder / "init").read_bytes()


def build(kernel: KernelFiles, *, first: str = "") -> bytes:
    """
    Return the initramfs for a kernel.

    :param first: Program that is started first: a folder beside the ordinary one's files.
    :raises LabError: if the guest's program does not compile.
    """
    modules: Dict[str, Path] = kernel.modules
    order = [name for name in MODULES if name in modules]
    parts = [
        member("dev", 0o040755),
        member("dev/console", 0o020600, device=0x0501),
        member(
            "base" if first else "init", 0o100755, _program(sorted(_SOURCES.glob("*.c")), recipe())
        ),
        member("modules", 0o040755),
        member("modules/order", 0o100644, "".join(f"{name}\n" for name in order).encode()),
    ]
    parts += [member(f"modules/{name}.ko", 0o100644, modules[name].read_bytes()) for name in order]
    if first:
        program = _program(first_sources(first), first_recipe(first))
        parts.append(member("init", 0o100755, program))
    if first == "storm":
        parts.append(member("storm", 0o040755))
        # What is loaded is deleted; the storm has its own.
        parts += [
            member(f"storm/{name}.ko", 0o100644, modules[name].read_bytes())
            for name in _RELOADED
            if name in modules
        ]
    parts.append(member("TRAILER!!!", 0))
    return gzip.compress(b"".join(parts), 1, mtime=0)
