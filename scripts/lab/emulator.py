# SPDX-License-Identifier: LGPL-2.1-or-later

"""
A QEMU newer than the one that is installed, out of its packages.

cmpxchg16b, with which SLUB changes freelist and counters of a slab at once, is
atomic in it also where each CPU of a guest has a thread of its own; and its arm64
keeps tags of memory, as MTE has them, where QEMU 7.2 loses them.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Tuple

from . import cache
from .architectures import Architecture
from .debian import Archive, unpack

__all__ = ("recent",)

_SUITES = ("bookworm-backports", "trixie", "forky", "sid")
_FILES = r"usr/bin/{}|usr/share/(qemu|seabios)/.*|usr/lib/.*/qemu/.*"


def recent(architecture: Architecture) -> Tuple[str, ...]:
    """
    Return the words that a command line of it begins with.

    :raises LabError: if it cannot be had.
    """
    folder = cache.root() / "tools" / f"qemu-{architecture.name}"
    with cache.lock(f"tool-{folder.name}"):
        if not folder.exists():
            _fetch(architecture, folder)
    share = folder / "usr" / "share"
    program = folder / "usr" / "bin" / architecture.emulator
    return str(program), "-L", str(share / "qemu"), "-L", str(share / "seabios")


def _fetch(architecture: Architecture, folder: Path) -> None:
    archive, files = Archive(), _FILES.format(re.escape(architecture.emulator))
    with cache.entry(folder) as work, tempfile.TemporaryDirectory(prefix="slabtype-") as name:
        for package in architecture.recent:
            file = archive.download(archive.newest(package, _SUITES), Path(name))
            unpack(file, files, work, flat=False)
            file.unlink()
        (work / "usr" / "bin" / architecture.emulator).chmod(0o755)
