# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to counts and to the word that holds them."""

from __future__ import annotations

from typing import Any, Callable

from .. import both
from ..changes import add, put
from ..language import WAS, Root
from ..things import Page
from ..victims import PARTIAL, either, given, quiet, slab, stands
from .machine import Slab
from .suite import ANY, COUNT, SUITE, recipe

_MISMATCH = Root("count-mismatch", expected=WAS, also=COUNT)
_RANGE = Root("count-range", also=ANY)
# Nothing but the node's sum tells: the array has no entry for it.
_UNSEEN = Root("node-free-objects", slab=None)

_FULL = slab("full slab", stands("full"), lambda slab: slab.objects > 4)
_FULL_ON_SLAB = slab(
    "full slab with its array at its end",
    lambda slab: slab.where == "full" and slab.cache.mode == "on-slab",
)
_ONE_FREE = slab("slab with one free object", lambda s: s.counted == s.objects - 1 > 0)


def _rfc_v3(victim: Any) -> bool:
    return bool(victim.machine.layout == "rfc-v3")


recipe("active-one-too-high", PARTIAL, add("active", 1), _UNSEEN)
recipe("active-says-full", _ONE_FREE, add("active", 1), _MISMATCH)
recipe("active-one-too-low-in-full-slab", _FULL, add("active", -1), _MISMATCH)
recipe("active-one-too-low-in-full-on-slab", _FULL_ON_SLAB, add("active", -1), _MISMATCH)
recipe("active-zero", PARTIAL, put("active", 0), _MISMATCH)
recipe("active-zero-in-full-slab", _FULL_ON_SLAB, put("active", 0), _MISMATCH)
recipe("active-one-over-num", PARTIAL, put("active", lambda slab: slab.objects + 1), _RANGE)
recipe("active-65535", PARTIAL, put("active", 65535), _RANGE)

_WIDE = given(lambda m: m.layout != "alternative-2", "the count has 16 bits", PARTIAL)
for _number in (65536, 131072):
    _code = _RANGE.but(code=lambda v: "active-overflow" if _rfc_v3(v) else "count-range")
    recipe(f"active-{_number}", _WIDE, put("active", _number), _code)

# A store to 16 bits leaves 65535.
recipe(
    "active-below-zero",
    either(slab("empty slab", stands("free")), PARTIAL),
    put("active", -1),
    _RANGE.but(code=lambda v: "active-underflow" if _rfc_v3(v) else "count-range"),
)

# What the last taken entry of the index array tells.


def _last(slab: Slab) -> int:
    return slab.indexes[slab.counted - 1]


def _in_use(slab: Slab) -> bool:
    taken = _last(slab) in slab.free or _last(slab) in slab.parked()
    # Under debugging the bytes of the object tell.
    return _last(slab) < slab.objects and not taken and not slab.cache.flags & 0xC00


recipe(
    "active-one-too-low-object-in-array",
    slab("slab whose last taken object is in an array", quiet, lambda s: _last(s) in s.parked()),
    add("active", -1),
    _MISMATCH,
)
recipe(
    "active-one-too-low-stale-entry",
    slab(
        "slab with such a stale entry",
        quiet,
        lambda slab: _last(slab) >= slab.objects or _last(slab) in slab.free,
    ),
    add("active", -1),
    _MISMATCH,
)
recipe(
    "active-one-too-low-object-in-use",
    slab("slab whose last taken object is in use", quiet, _in_use),
    add("active", -1),
    _UNSEEN,
)

# The page_type word, and the flag that stands for it.

_TYPED = given(lambda m: m.slab_flag is None, "slab is no page type", PARTIAL)
_WORD = Root("slab-mark-lost", also=lambda slab: ANY if _rfc_v3(slab) else frozenset())
_GUARD = _WORD.but(code=lambda v: "active-overflow" if _rfc_v3(v) else "type-conflict")


def _with_count(word: int) -> Callable[[Slab], int]:
    # A word with what it holds of the count.
    return lambda slab: word - slab.counted if _rfc_v3(slab) else word


recipe("word-idle", _TYPED, put("word", 0xFFFFFFFF), _WORD)
recipe("word-zero", _TYPED, put("word", 0), _WORD)
recipe("word-of-another-type", _TYPED, put("word", 0xFFFBFFFF), _WORD)
# With a count in the lower half this is what a count of 0x80000 looks like.
recipe("word-slab-and-guard", _TYPED, put("word", 0xFFE7FFFF), _GUARD)
_RESERVED = put("word", _with_count(0xFFCFFFFF))
recipe("word-reserved-bit", _TYPED, _RESERVED, _WORD.but(code="type-conflict"))


def marked(page: Page) -> int:
    """Return the word or flags of a page with the mark of a slab."""
    flag = page.machine.slab_flag
    return 0xFFEFFFFF if flag is None else page.kept("flags") | flag


def _unmarked(slab: Slab) -> int:
    flag = slab.machine.slab_flag
    return _with_count(0xFFFFFFFF)(slab) if flag is None else slab.kept("flags") & ~flag


_TWO_PAGES = slab("slab of two pages", lambda slab: slab.cache.order == 1)
both.marks(SUITE, marked, _unmarked, _WORD, _TWO_PAGES)

# Nodes.

both.counters(
    SUITE,
    lambda machine: machine.cache("dentry").node(),
    (
        ("total-slabs-too-high", "total_slabs", 1, "node-list-length"),
        ("free-slabs-too-high", "free_slabs", 1, "node-list-length"),
        ("free-objects-too-high", "free_objects", 1, "node-free-objects"),
        ("free-objects-too-low", "free_objects", -1, "node-free-objects"),
        ("free-objects-below-zero", "free_objects", -(1 << 40), "node-free-objects"),
    ),
)
