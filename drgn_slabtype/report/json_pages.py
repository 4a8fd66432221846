# SPDX-License-Identifier: LGPL-2.1-or-later
"""JSON about pages, schema 1."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Dict, Optional

from ..pages.flagnames import flag_names
from .documents import document, dump
from .values import address

if TYPE_CHECKING:
    from ..answers.page import PageInfo
    from ..pages.census import Census


def pages(census: Census) -> str:
    """Present the census of all pages, and what else was asked for."""
    parts: Dict[str, Any] = {
        "types": [asdict(row) for row in census.rows],
        "pages": census.pages,
        "page_size": census.page_size,
        "unreadable_pages": census.unreadable_pages,
        "zones": [asdict(place) for place in census.places],
        "conflicts": [
            {
                "pfn": conflict.pfn,
                "page": address(conflict.page),
                "word": f"0x{conflict.word:08x}",
                "meaning": conflict.meaning,
            }
            for conflict in census.conflicts
        ],
    }
    if census.flags is not None:
        parts["flags"] = [{**_flags(row.flags), "pages": row.pages} for row in census.flags]
    if census.runs is not None:
        parts["runs"] = [{**asdict(run), **_flags(run.flags)} for run in census.runs]
    if census.map is not None:
        parts["map"] = {
            "pages_per_cell": census.map.pages_per_cell,
            "cells": [
                {"pfn": cell.pfn, "pages": cell.pages, "types": dict(cell.types)}
                for cell in census.map.cells
            ],
        }
    return dump(document(**parts))


def _flags(flags: Optional[int]) -> Dict[str, Any]:
    if flags is None:
        return {"flags": None}
    return {"flags": f"0x{flags:016x}", "names": flag_names(flags)}


def page(info: PageInfo) -> str:
    """Present one page."""
    parts = asdict(info)
    for name in ("page", "physical", "flags", "kpageflags"):
        parts[name] = address(parts[name])
    parts["word"] = f"0x{info.word:08x}"
    if info.slab is not None:
        parts["slab"]["slab"] = address(info.slab.slab)
        parts["slab"]["slab_cache"] = address(info.slab.slab_cache)
    return dump(document(page=parts))
