# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where pointers have tags of KASAN: a recipe follows them as drgn does, reports tell none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List

from drgn import Program

from drgn_slabtype.machine.tags import Tags

from .language import Injury
from .overlay import Write, direct_map

_ADDRESSES = ("slab", "object", "page", "expected", "found")


def without_tags(prog: Program, injury: Injury) -> Injury:
    """Return an injury whose addresses have no tags; what it writes stays as it is."""
    tags = Tags(prog, direct_map(prog))
    if not tags.used:
        return injury
    writes: List[Write] = [
        write._replace(address=tags.removed_from(write.address)) for write in injury.writes
    ]
    told = {name: _bare(tags, getattr(injury, name)) for name in _ADDRESSES}
    return replace(injury, writes=writes, **told)


def _bare(tags: Tags, value: Any) -> Any:
    return tags.removed_from(value) if isinstance(value, int) and 0 <= value < 1 << 64 else value
