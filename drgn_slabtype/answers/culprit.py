# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The word that a finding is about
--------------------------------

Rules know what is wrong and not where a kernel keeps it. Here the member of the
structure is named and its address found; no memory is read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from ..findings import Finding
from ..machine import Machine
from ..pages.scan import folio_order_offset


class _Spot(NamedTuple):
    # A member, and where it is.
    member: Optional[str]
    word: int


def locate(machine: Machine, finding: Finding) -> Finding:
    """Return a finding with the address of the word in which what it found stands."""
    if finding.word is not None:
        return finding
    find = _SPOTS.get(finding.code)
    try:
        spot = None if find is None else find(machine, finding)
    except LookupError:
        return finding
    if spot is None:
        return finding
    return replace(finding, word=spot.word, member=finding.member or spot.member)


def _at_address(machine: Machine, finding: Finding) -> Optional[_Spot]:
    # The rule has said where.
    return None if finding.address is None else _Spot(None, finding.address)


def _counter(machine: Machine, finding: Finding) -> Optional[_Spot]:
    # Of a node, whose member gives the place its name.
    return None if finding.address is None else _Spot(finding.place, finding.address)


def _of_slab(*members: str) -> Callable[[Machine, Finding], Optional[_Spot]]:
    def spot(machine: Machine, finding: Finding) -> Optional[_Spot]:
        structure = machine.structure(f"struct {machine.layout.slab_struct}")
        name = next((member for member in members if structure.has(member)), None)
        if name is None or finding.slab is None:
            return None
        return _Spot(name, finding.slab + structure.offset(name))

    return spot


def _count(machine: Machine, finding: Finding) -> Optional[_Spot]:
    # Objects in use, by the slab's own count.
    layout, slab = machine.layout, finding.slab
    if slab is None:
        return None
    if layout.active is None:
        return _of_slab("counters")(machine, finding)
    if layout.packed is not None:
        return _Spot("active", slab + layout.packed.offset)
    name = "active" if layout.active == "word" else layout.active
    return _Spot(name, slab + machine.page.word)


def _page(finding: Finding) -> Optional[int]:
    return finding.slab if finding.page is None else finding.page


def _type(machine: Machine, finding: Finding) -> Optional[_Spot]:
    page = _page(finding)
    return None if page is None else _Spot("page_type", page + machine.page.word)


def _free(machine: Machine, finding: Finding) -> Optional[_Spot]:
    # The rule names the member, if it is not the word.
    if finding.member is not None:
        return _of_page(finding.member)(machine, finding)
    page = _page(finding)
    if page is not None and finding.expected is None and finding.found is None:
        return _Spot(_compound_name(machine), page + machine.page.compound)
    return _type(machine, finding)


def _mark(machine: Machine, finding: Finding) -> Optional[_Spot]:
    of = _type if machine.layout.slab_flag is None else _flags
    return of(machine, finding)


def _flags(machine: Machine, finding: Finding) -> Optional[_Spot]:
    page = _page(finding)
    return None if page is None else _Spot("flags", page + machine.page.flags)


def _references(machine: Machine, finding: Finding) -> Optional[_Spot]:
    page = _page(finding)
    return None if page is None else _Spot("_refcount", page + machine.page.refcount)


def _flags_or_references(machine: Machine, finding: Finding) -> Optional[_Spot]:
    return (_references if finding.value_kind == "count" else _flags)(machine, finding)


def _compound(machine: Machine, finding: Finding) -> Optional[_Spot]:
    # Of a tail; what is wrong with a head shows in its tails.
    page = _page(finding)
    if page is None or finding.value_kind != "word":
        return None
    return _Spot(_compound_name(machine), page + machine.page.compound)


def _compound_name(machine: Machine) -> str:
    has_info = machine.structure("struct page").has("compound_info")
    return "compound_info" if has_info else "compound_head"


def _order(machine: Machine, finding: Finding) -> Optional[_Spot]:
    if finding.slab is None:
        return None
    return _Spot(None, finding.slab + folio_order_offset(machine))


def _of_page(member: str) -> Callable[[Machine, Finding], Optional[_Spot]]:
    def spot(machine: Machine, finding: Finding) -> Optional[_Spot]:
        if finding.page is None:
            return None
        return _Spot(member, finding.page + machine.structure("struct page").offset(member))

    return spot


# What places are called, and where each keeps its count and its entries.
_PLACES: Sequence[Tuple[str, str, str, str]] = (
    ("array", "struct array_cache", "avail", "entry"),
    ("sheaf", "struct slab_sheaf", "size", "objects"),
    ("barn", "struct slab_sheaf", "size", "objects"),
)


def _in_place(machine: Machine, finding: Finding, position: Optional[int]) -> Optional[_Spot]:
    # The count of a place, or one of its entries.
    for name, structure, count, entries in _PLACES:
        if finding.address is not None and name in (finding.place or ""):
            member = count if position is None else entries
            at = finding.address + machine.structure(structure).offset(member)
            return _Spot(member, at + (position or 0) * machine.memory.word_size)
    return None


def _entry(machine: Machine, finding: Finding) -> Optional[_Spot]:
    known = finding.position is not None
    return _in_place(machine, finding, finding.position) if known else None


def _held(machine: Machine, finding: Finding) -> Optional[_Spot]:
    return _in_place(machine, finding, None)


def _member(machine: Machine, finding: Finding) -> Optional[_Spot]:
    # A place that is in a wrong state names its member.
    for name, structure, _, _ in _PLACES:
        known = finding.address is not None and name in (finding.place or "")
        if known and finding.member is not None and finding.address is not None:
            offset = machine.structure(structure).offset(finding.member)
            return _Spot(finding.member, finding.address + offset)
    return None


def _variable(machine: Machine, finding: Finding) -> Optional[_Spot]:
    if finding.place is None:
        return None
    return _Spot(finding.place, machine.prog.symbol(finding.place).address)


_SPOTS: Dict[str, Callable[[Machine, Finding], Optional[_Spot]]] = {
    "slab-mark-lost": _mark,
    "slab-mark-stray": _type,
    "type-conflict": _type,
    "active-overflow": _type,
    "active-underflow": _type,
    "machine-wrong": _variable,
    "slab-cache-wrong": _of_slab("slab_cache"),
    "slab-order-wrong": _order,
    "slab-objects-wrong": _of_slab("counters"),
    "slab-base-wrong": _of_slab("s_mem"),
    "slab-flags-wrong": _flags,
    "slab-vector-wrong": _of_slab("obj_exts", "memcg_data", "obj_cgroups"),
    "slab-node-wrong": _flags,
    "page-zone-wrong": _flags,
    "count-range": _count,
    "count-mismatch": _count,
    "node-free-objects": _counter,
    "node-slabs": _counter,
    "node-objects": _counter,
    "node-list-length": _counter,
    "freelist-pointer": _at_address,
    "freelist-cycle": _at_address,
    "freelist-index": _at_address,
    "freelist-duplicate": _at_address,
    "freelist-array": _of_slab("freelist"),
    "claim-foreign": _entry,
    "claim-node": _entry,
    "container-limit": _held,
    "container-count": _held,
    "container-state": _member,
    "lock-wrong": _at_address,
    "lock-kept": _at_address,
    "redzone": _at_address,
    "poison": _at_address,
    "padding": _at_address,
    "track": _at_address,
    "shadow": _at_address,
    "page-free-type": _free,
    "page-free-flags": _flags_or_references,
    "page-free-order": _of_page("private"),
    "page-free-list": _of_page("lru"),
    "page-tail-type": _type,
    "page-tail-head": _compound,
    "page-refcount": _references,
    "page-type-mapped": _type,
    "slab-referenced": _references,
}
