# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to page types and marks, and to what a slab says of itself."""

from __future__ import annotations

from typing import Any

from .. import both
from ..changes import GARBAGE, put
from ..language import HEX, NOW, NoVictim, Root, Victim
from ..pages import free_page, page_table
from ..things import Page
from ..victims import PARTIAL, beside_a_cache, given, slab, stands, with_other
from .machine import Machine
from .suite import NODE, ON_CPU, SUITE, full_slab, kept, recipe

# What a free block shows whose first page is not marked as free any more.
_FREE = frozenset({"page-free-count", "page-free-flags", "page-free-list", "page-free-type"})
_CLAIMS = frozenset({"claim-foreign", "freelist-pointer", "container-state"})


def _typed(machine: Machine) -> bool:
    # Whether slab is a page type.
    return machine.slab_flag is None


def _unmarked(page: Page) -> int:
    flag = page.machine.slab_flag
    return 0xFFFFFFFF if flag is None else page.kept("flags") & ~flag


def _marked(page: Page) -> int:
    flag = page.machine.slab_flag
    if flag is None:
        return int(PARTIAL(page.machine).kept("word"))
    return page.kept("flags") | flag


def _in_counters(victim: Victim[Any]) -> Victim[Any]:
    # Without CONFIG_SLUB_DEBUG, nothing remembers a slab that is on no list.
    return given(
        lambda m: m.prog.type("struct kmem_cache_node").has_member("nr_slabs"),
        "nodes do not count their slabs",
        victim,
    )


def _has_parked(slab: Any) -> bool:
    return any(slab.slot(index) in slab.machine.parked for index in range(slab.objects))


_MARK_LOST, _STRAY = Root("slab-mark-lost"), Root("slab-mark-stray")
_MARK = put("mark", _marked)
# Nothing but a counter and the page itself remembers the full slab.
_FORGOTTEN = _in_counters(full_slab(lambda slab: not _has_parked(slab)))
_REMEMBERED = full_slab(stands("nowhere"), _has_parked)
for _name, _victim in (
    ("full", _FORGOTTEN),
    ("full-with-object-in-place", _REMEMBERED),
    ("cpu-slab", ON_CPU),
    ("cpu-partial", kept(0)),
):
    recipe(f"mark-lost-on-{_name}", _victim, put("mark", _unmarked), _MARK_LOST)


def _table(machine: Machine) -> Page:
    page = page_table(machine)
    if _typed(machine) and not page.kept("slab_cache"):
        raise NoVictim("but for its type a page table is as a slab that is being made")
    return page


def _large(slab: Any) -> bool:
    return bool(slab.order > 0)


_LARGE = slab("slab of two pages or more", _large)


both.marks(SUITE, _marked, _unmarked, _MARK_LOST, _LARGE)
recipe("mark-on-page-table", _table, _MARK, _STRAY)
recipe("mark-on-free-page", free_page, _MARK, _STRAY.but(also=_FREE))

# The page_type word.


def _values(word: int) -> bool:
    # One type per page since 6.12.
    return word >> 24 == 0xF5


_CONFLICT = Root("type-conflict", found=HEX)
_LOST = _CONFLICT.but(code=lambda v: "slab-mark-lost" if _typed(v.machine) else "type-conflict")
_WITH_TABLE = with_other(PARTIAL, lambda slab: page_table(slab.machine))
# Zero is a page that is mapped once.
recipe("word-zero", PARTIAL, put("word", 0), _LOST)
recipe("word-of-page-table", _WITH_TABLE, put("word", lambda v: v.other.kept("word")), _LOST)
# A word of bits can hold two types; one of values cannot.
recipe(
    "word-of-slab-and-page-table",
    given(
        lambda machine: _typed(machine) and not _values(PARTIAL(machine).kept("word")),
        "slab is no page type, or a page has only one",
        _WITH_TABLE,
    ),
    put("word", lambda v: v.kept("word") & v.other.kept("word")),
    _CONFLICT,
)
# Bits below the type, which no slab sets.
recipe(
    "word-with-stray-bits",
    given(
        lambda machine: _values(PARTIAL(machine).kept("word")),
        "bits, not values, before 6.12",
        PARTIAL,
    ),
    put("word", lambda slab: slab.kept("word") | 0x1234),
    _CONFLICT,
)


def _table_of_bits(machine: Machine) -> Page:
    page = page_table(machine)
    if page.kept("word") >> 28 != 0xF or _typed(machine):
        raise NoVictim("one type per page since 6.12")
    return page


# Two types in a page that is no slab's.
recipe(
    "word-of-page-table-also-buddy",
    _table_of_bits,
    put("word", lambda page: page.kept("word") & ~0x80),
    _CONFLICT.but(slab=None, page=lambda page: page.page),
)

# What a slab says of itself.

_SAYS = Root("slab-cache-wrong", found=NOW, also=_CLAIMS | NODE)
_NOWHERE = _in_counters(slab("full slab", stands("nowhere"), lambda s: s.counted == s.objects > 4))


def _other(cache: Any, slab: Any) -> bool:
    # In a cache of the same shape the slab could live.
    return bool(cache.size != slab.cache.size and cache.nodes[slab.nid])


_LARGE_LISTED = slab("slab of two pages or more", _large, stands("partial"))
both.descriptors(
    SUITE, _CLAIMS | NODE, _LARGE_LISTED, _other, {"zero": 0, "200": 200, "too-great": 9}
)
recipe("cache-pointer-garbage", PARTIAL, put("slab_cache", GARBAGE & ~1), _SAYS)
recipe("cache-pointer-of-cpu-slab-null", ON_CPU, put("slab_cache", 0), _SAYS)
# The slab is on no list; its objects in sheaves and the counters tell whose it is.
recipe("cache-pointer-of-full-slab-null", _NOWHERE, put("slab_cache", 0), _SAYS)
recipe(
    "cache-pointer-of-full-slab-of-another-cache",
    beside_a_cache(_NOWHERE, _other),
    put("slab_cache", lambda v: v.other.address),
    _SAYS,
)


def _other_node(slab: Any) -> int:
    shift = 64 - slab.machine.nodes_shift
    return slab.kept("flags") & (1 << shift) - 1 | (slab.nid ^ 1) << shift


recipe(
    "node-of-page-wrong",
    given(lambda machine: machine.nodes_shift, "without CONFIG_NUMA a page has no node", PARTIAL),
    put("flags", _other_node),
    Root("slab-node-wrong", node=lambda slab: slab.nid ^ 1, also=NODE | {"page-zone-wrong"}),
)
