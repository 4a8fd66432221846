# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to page types and marks, and to what a slab says of itself."""

from __future__ import annotations

from typing import Callable, FrozenSet

from drgn import sizeof
from drgn.helpers.linux.mm import virt_to_page
from drgn.helpers.linux.pid import find_task

from ..language import Injury, NoVictim
from ..machine import on_slab
from ..overlay import Write
from ..writes import GARBAGE, value
from .machine import Machine, Slab
from .suite import NODE, recipe

# What a free block shows whose first page is not marked as free any more.
_FREE = frozenset({"page-free-count", "page-free-flags", "page-free-list", "page-free-type"})
_CLAIMS = frozenset({"claim-foreign", "freelist-pointer", "container-state"})


def _mark_lost(machine: Machine, page: int) -> Write:
    bit = machine.slab_flag
    if bit is None:
        return machine.word(page, 0xFFFFFFFF)
    return value(page, machine.prog.read_u64(page) & ~bit)


def _mark_set(machine: Machine, page: int) -> Write:
    bit = machine.slab_flag
    if bit is None:
        slab = machine.quiet()
        word = machine.prog.read_u32(machine.word_at(slab.page))
        return machine.word(page, word)
    return value(page, machine.prog.read_u64(page) | bit)


def _lost(machine: Machine, what: str, where: Callable[[Slab], bool]) -> Injury:
    slab = machine.slab(what, where)
    return on_slab(slab, "slab-mark-lost", _mark_lost(machine, slab.page))


@recipe
def mark_lost_on_partial(machine: Machine) -> Injury:
    return _lost(machine, "partial slab", lambda slab: slab.quiet)


def _need_counters(machine: Machine) -> None:
    # Without CONFIG_SLUB_DEBUG, nothing remembers a slab that is on no list.
    if not machine.prog.type("struct kmem_cache_node").has_member("nr_slabs"):
        raise NoVictim("nodes do not count their slabs")


@recipe
def mark_lost_on_full(machine: Machine) -> Injury:
    """Nothing but a counter and the page itself remembers the slab."""
    _need_counters(machine)
    return _lost(
        machine,
        "full slab",
        lambda slab: (
            slab.where in ("nowhere", "full")
            and slab.inuse == slab.objects
            and not any(slab.slot(i) in machine.parked for i in range(slab.objects))
        ),
    )


@recipe
def mark_lost_on_full_with_object_in_place(machine: Machine) -> Injury:
    return _lost(
        machine,
        "full slab with an object in a sheaf",
        lambda slab: (
            slab.where == "nowhere"
            and slab.inuse == slab.objects
            and any(slab.slot(i) in machine.parked for i in range(slab.objects))
        ),
    )


@recipe
def mark_lost_on_cpu_slab(machine: Machine) -> Injury:
    return _lost(machine, "CPU slab", lambda slab: slab.where == "cpu")


@recipe
def mark_lost_on_cpu_partial(machine: Machine) -> Injury:
    return _lost(machine, "slab kept by a CPU", lambda slab: slab.where == "cpu partial")


def _stray(machine: Machine, page: int, also: FrozenSet[str] = frozenset()) -> Injury:
    return Injury([_mark_set(machine, page)], "slab-mark-stray", slab=page, also=also)


@recipe
def mark_on_page_of_user(machine: Machine) -> Injury:
    return _stray(machine, machine.user_page())


@recipe
def mark_on_page_table(machine: Machine) -> Injury:
    page = _page_table(machine)
    pointer = machine.prog.read_u64(page + machine.offset("slab_cache"))
    if machine.slab_flag is None and not pointer:
        raise NoVictim("but for its type a page table is as a slab that is being made")
    return _stray(machine, page)


@recipe
def mark_on_free_page(machine: Machine) -> Injury:
    return _stray(machine, _free_page(machine), _FREE)


@recipe
def mark_on_tail(machine: Machine) -> Injury:
    """Where slab is a page type, a tail must not have one of its own."""
    if machine.slab_flag is not None:
        raise NoVictim("nobody asks a tail for its flags")
    slab = machine.slab("slab of two pages or more", lambda slab: slab.order > 0)
    return _stray(machine, slab.page + sizeof(machine.prog.type("struct page")))


# The page_type word.


def _word(machine: Machine, slab: Slab, word: int, code: str) -> Injury:
    write = machine.word(slab.page, word)
    return on_slab(slab, code, write, found=f"0x{word:08x}")


@recipe
def word_zero(machine: Machine) -> Injury:
    """A page that is mapped once."""
    code = "slab-mark-lost" if machine.slab_flag is None else "type-conflict"
    return _word(machine, machine.quiet(), 0, code)


@recipe
def word_of_page_table(machine: Machine) -> Injury:
    slab = machine.quiet()
    word = machine.prog.read_u32(machine.word_at(_page_table(machine)))
    code = "slab-mark-lost" if machine.slab_flag is None else "type-conflict"
    return _word(machine, slab, word, code)


@recipe
def word_of_slab_and_page_table(machine: Machine) -> Injury:
    """A word of bits can hold two types; one of values cannot."""
    slab = machine.quiet()
    own = machine.prog.read_u32(machine.word_at(slab.page))
    other = machine.prog.read_u32(machine.word_at(_page_table(machine)))
    if machine.slab_flag is not None:
        raise NoVictim("slab is no page type")
    if own >> 24 == 0xF5:
        raise NoVictim("one type per page since 6.12")
    return _word(machine, slab, own & other, "type-conflict")


@recipe
def word_with_stray_bits(machine: Machine) -> Injury:
    """Bits below the type, which no slab sets."""
    slab = machine.quiet()
    own = machine.prog.read_u32(machine.word_at(slab.page))
    if own >> 24 != 0xF5:
        raise NoVictim("bits, not values, before 6.12")
    return _word(machine, slab, own | 0x1234, "type-conflict")


@recipe
def word_of_page_table_also_buddy(machine: Machine) -> Injury:
    """Two types in a page that is no slab's."""
    page = _page_table(machine)
    word = machine.prog.read_u32(machine.word_at(page))
    if word >> 28 != 0xF or machine.slab_flag is None:
        raise NoVictim("one type per page since 6.12")
    both = word & ~0x80
    write = machine.word(page, both)
    return Injury([write], "type-conflict", page=page, found=f"0x{both:08x}")


# What a slab says of itself.


def _says(machine: Machine, slab: Slab, target: int) -> Injury:
    write = machine.member(slab, "slab_cache", target)
    return on_slab(slab, "slab-cache-wrong", write, found=target, also=_CLAIMS | NODE)


def _full(machine: Machine) -> Slab:
    return machine.slab(
        "full slab",
        lambda slab: slab.where == "nowhere" and slab.inuse == slab.objects > 4,
    )


def _other_cache(machine: Machine, slab: Slab) -> int:
    # A cache of other objects: in one of the same shape the slab could live.
    for cache in machine.caches:
        if cache.size != slab.cache.size and cache.nodes[slab.nid]:
            return cache.address
    raise NoVictim("no second cache")


@recipe
def cache_pointer_null(machine: Machine) -> Injury:
    return _says(machine, machine.quiet(), 0)


@recipe
def cache_pointer_garbage(machine: Machine) -> Injury:
    return _says(machine, machine.quiet(), GARBAGE & ~1)


@recipe
def cache_pointer_shifted(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _says(machine, slab, slab.cache.address + 8)


@recipe
def cache_pointer_of_another_cache(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _says(machine, slab, _other_cache(machine, slab))


@recipe
def cache_pointer_of_cpu_slab_null(machine: Machine) -> Injury:
    return _says(machine, machine.slab("CPU slab", lambda slab: slab.where == "cpu"), 0)


@recipe
def cache_pointer_of_full_slab_null(machine: Machine) -> Injury:
    """The slab is on no list; its objects in sheaves and the counters tell whose it is."""
    _need_counters(machine)
    return _says(machine, _full(machine), 0)


@recipe
def cache_pointer_of_full_slab_of_another_cache(machine: Machine) -> Injury:
    _need_counters(machine)
    slab = _full(machine)
    return _says(machine, slab, _other_cache(machine, slab))


@recipe
def order_too_great(machine: Machine) -> Injury:
    return _order(machine, 9)


@recipe
def order_zero(machine: Machine) -> Injury:
    return _order(machine, 0)


@recipe
def order_200(machine: Machine) -> Injury:
    return _order(machine, 200)


def _order(machine: Machine, order: int) -> Injury:
    slab = machine.slab(
        "slab of two pages or more", lambda slab: slab.order > 0 and slab.where == "partial"
    )
    write = value(machine.order_at(slab.page), order, 1)
    return on_slab(slab, "slab-order-wrong", write, found=order)


@recipe
def node_of_page_wrong(machine: Machine) -> Injury:
    if not machine.nodes_shift:
        raise NoVictim("without CONFIG_NUMA a page has no node")
    slab = machine.quiet()
    other = slab.nid ^ 1
    keep = (1 << (64 - machine.nodes_shift)) - 1
    flags = machine.flags(slab.page) & keep | other << (64 - machine.nodes_shift)
    return on_slab(slab, "slab-node-wrong", value(slab.page, flags), node=other, also=NODE)


def _page_table(machine: Machine) -> int:
    # The struct page of a page of the lowest level of page tables, found from
    # the top of the first process that has memory.
    mask = 0x000FFFFFFFFFF000
    base = machine.prog["page_offset_base"].value_()
    mm = find_task(machine.prog, 1).mm
    if not mm:
        raise NoVictim("no process with memory")
    table = mm.pgd.value_()
    for _ in range(3):
        entries = [machine.prog.read_u64(table + 8 * i) for i in range(256)]
        present = [entry for entry in entries if entry & 1 and not entry & 0x80]
        if not present:
            raise NoVictim("no page table")
        table = base + (present[0] & mask)
    return int(virt_to_page(machine.prog, table).value_())


def _free_page(machine: Machine) -> int:
    # The first page of a free block, which the page allocator marks.
    prog = machine.prog
    size, base = sizeof(prog.type("struct page")), prog["vmemmap"].value_()
    for pfn in range(int(prog["max_pfn"]) - 1, 0, -1):
        found = prog.read_u32(machine.word_at(base + pfn * size))
        if found in (0xFFFFFF7F, 0xF0000000) or found >> 24 == 0xF0:
            return int(base + pfn * size)
    raise NoVictim("no free page")
