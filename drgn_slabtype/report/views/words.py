# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people see of page type words, layouts and captures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import Column, View

if TYPE_CHECKING:
    from ...pagetype.detect import PageTypeLayout

DECODED = View(
    Column("layout"),
    Column("types", cell=lambda word: "|".join(word.types) or "-"),
    Column("printed as", "printed", lambda word: word.printed or "-"),
    Column("meaning"),
    quiet="active conflict",
)


def _mark(layout: PageTypeLayout) -> str:
    if layout.slab_flag is None:
        return f"page type slab ({layout.encoding.types['slab']:#x})"
    return f"PG_slab, bit {layout.slab_flag} of page flags"


LAYOUT = View(
    Column("page types", "encoding", lambda layout: layout.encoding.name),
    Column("allocator"),
    Column("slab mark", "slab_flag", _mark),
    Column("evidence"),
    Column("note", "notes"),
    quiet="head_flag slab_struct active packed page_slab_follows_head word_offset flags_offset "
    "flags_mask",
)

CAPTURE = View(quiet="path size memory kept regions unreadable left_out")
