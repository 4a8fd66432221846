# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Captures
--------

A capture is a sparse ELF vmcore, compressed with xz, of what this package
reads of a kernel, with the types and objects needed to read it. It is some
hundred times smaller than the dump it replays, holds none of the data users
keep in slab objects, and needs no debug info.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .open import attach, is_capture, left_out, manifest, open_capture

if TYPE_CHECKING:
    from .write import OBJECT_CONTENTS, CaptureSummary, write_capture

__all__ = (
    "OBJECT_CONTENTS",
    "CaptureSummary",
    "attach",
    "is_capture",
    "left_out",
    "manifest",
    "open_capture",
    "write_capture",
)


def __getattr__(name: str) -> Any:
    # Writing needs numpy; opening, which every drgn program with the plugin
    # may do, does without.
    if name in ("CaptureSummary", "OBJECT_CONTENTS", "write_capture"):
        from . import write

        return getattr(write, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
