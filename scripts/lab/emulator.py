# SPDX-License-Identifier: LGPL-2.1-or-later

"""
A QEMU newer than the one that is installed, out of its packages.

cmpxchg16b, with which SLUB changes freelist and counters of a slab at once, is
atomic in it also where each CPU of a guest has a thread of its own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Tuple

from . import cache
from .debian import Archive, unpack

__all__ = ("recent",)

_SUITES = ("bookworm-backports", "trixie", "forky", "sid")
_PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios")
_FILES = r"usr/bin/qemu-system-x86_64|usr/share/(qemu|seabios)/.*|usr/lib/.*/qemu/.*"


def recent() -> Tuple[str, ...]:
    """
    Return the words that a command line of it begins with.

    :raises LabError: if it cannot be had.
    """
    folder = cache.root() / "tools" / "qemu"
    with cache.lock("tool-qemu"):
        if not folder.exists():
            _fetch(folder)
    share = folder / "usr" / "share"
    program = folder / "usr" / "bin" / "qemu-system-x86_64"
    return str(program), "-L", str(share / "qemu"), "-L", str(share / "seabios")


def _fetch(folder: Path) -> None:
    archive = Archive()
    with cache.entry(folder) as work, tempfile.TemporaryDirectory(prefix="slabtype-") as name:
        for package in _PACKAGES:
            file = archive.download(archive.newest(package, _SUITES), Path(name))
            unpack(file, _FILES, work, flat=False)
            file.unlink()
        (work / "usr" / "bin" / "qemu-system-x86_64").chmod(0o755)
