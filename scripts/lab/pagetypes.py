# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The kernel's own page-types tool, compiled from the sources of a kernel.

It is made when sources are unpacked for a kernel, and stays in the cache.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Optional

from . import cache
from .errors import LabError
from .process import run, say

__all__ = ("find", "make")

# Since Linux 6.3 in tools/mm.
_SOURCES = ("tools/mm/page-types.c", "tools/vm/page-types.c")
_LIBRARY = ("fs/fs.c", "debug.c")


def _place() -> Path:
    return cache.root() / "tools" / "page-types"


def find() -> Optional[str]:
    """Return the path of the tool: that of the cache, or one that is installed."""
    place = _place()
    return str(place) if place.exists() else shutil.which("page-types")


def make(sources: Path) -> None:
    """
    Compile the tool, unless it is in the cache.

    :param sources: A kernel's source tree, which stays as it is. If the tool
        does not compile from it, there is none, and one line that says so.
    """
    place = _place()
    if place.exists():
        return
    main = next((sources / name for name in _SOURCES if (sources / name).exists()), None)
    if main is None:
        return
    library = sources / "tools" / "lib"
    files = [main, *(library / "api" / name for name in _LIBRARY)]
    place.parent.mkdir(parents=True, exist_ok=True)
    made = place.with_name(".page-types")
    command = ["gcc", "-O1", "-w", f"-I{library}", f"-I{library}/api", "-o", str(made)]
    try:
        run([*command, *map(str, files)], log=cache.log_file("page-types"))
    except LabError as error:
        say(f"no page-types: {error}")
        return
    made.rename(place)
