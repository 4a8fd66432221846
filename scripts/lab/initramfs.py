# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The guest's initramfs: one static program and the modules of the kernel.

With the storm, that is started first and becomes the other one. It is a program
of its own so that dumps of all other guests stay what they are.
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

__all__ = ("FLAGS", "build", "member", "recipe", "storm_recipe", "storm_sources")

_SOURCES = Path(__file__).with_name("guest")
_STORM = _SOURCES / "storm"
FLAGS = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-static")
"""How the guest's programs are compiled."""

_RELOADED = ("qemu_fw_cfg",)


def recipe() -> str:
    """Return the key of everything the guest's program is made from."""
    return cache.key(1, FLAGS, *sorted(_SOURCES.glob("*.[ch]")))


def storm_sources() -> List[Path]:
    """Return what the storm is compiled from."""
    return [*sorted(_STORM.glob("*.c")), _SOURCES / "ground.c"]


def storm_recipe() -> str:
    """Return the key of everything the storm is made from."""
    return cache.key(1, FLAGS, *sorted([*_STORM.glob("*.[ch]"), *_SOURCES.glob("ground.[ch]")]))


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


def build(kernel: KernelFiles, *, storm: bool = False) -> bytes:
    """
    Return the initramfs for a kernel.

    :param storm: Whether to let the storm loose.
    :raises LabError: if the guest's program does not compile.
    """
    modules: Dict[str, Path] = kernel.modules
    order = [name for name in MODULES if name in modules]
    parts = [
        member("dev", 0o040755),
        member("dev/console", 0o020600, device=0x0501),
        member(
            "base" if storm else "init", 0o100755, _program(sorted(_SOURCES.glob("*.c")), recipe())
        ),
        member("modules", 0o040755),
        member("modules/order", 0o100644, "".join(f"{name}\n" for name in order).encode()),
    ]
    parts += [member(f"modules/{name}.ko", 0o100644, modules[name].read_bytes()) for name in order]
    if storm:
        parts += [
            member("init", 0o100755, _program(storm_sources(), storm_recipe())),
            member("storm", 0o040755),
        ]
        # What is loaded is deleted; the storm has its own.
        parts += [
            member(f"storm/{name}.ko", 0o100644, modules[name].read_bytes())
            for name in _RELOADED
            if name in modules
        ]
    parts.append(member("TRAILER!!!", 0))
    return gzip.compress(b"".join(parts), 1, mtime=0)
