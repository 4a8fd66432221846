# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages of zeroes where no structure is all zeroes are missing; one word of zeroes is damage."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterator, Optional

import numpy as np
import pytest
from drgn import Object, Program, sizeof
from drgn.helpers.linux.list import list_for_each_entry

from drgn_slabtype.allocators.percpu import every_copy
from drgn_slabtype.allocators.slab.view import slab_counts
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.blanks import _led_to, _slabs, blank_pages
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.files.elf import PT_LOAD, Segment
from drgn_slabtype.files.hidden import hide
from drgn_slabtype.findings import Finding
from drgn_slabtype.machine import machine
from drgn_slabtype.machine.percpu import per_cpu_addresses
from drgn_slabtype.reading import Reading

from ..recipes.overlay import Write, overlay

_HERE = Path(__file__).parent
_PAGE = 4096
_SLAB_RED_ZONE = 0x400


def _open(name: str) -> Program:
    return open_capture(str(_HERE / name / "capture.xz"))


def _caches(prog: Program) -> Iterator[Object]:
    head = prog["slab_caches"].address_of_()
    yield from list_for_each_entry("struct kmem_cache", head, "list")


def _node(prog: Program) -> int:
    cache = prog["kmem_cache"]
    return int(cache.node[0] if hasattr(cache, "node") else cache.per_node[0].node)


def _cache(prog: Program) -> int:
    return int(prog["slab_caches"].next.value_())


def _mask(prog: Program) -> int:
    return int(prog["__cpu_possible_mask"].address_of_().value_())


def _struct_page(prog: Program) -> int:
    of = machine(prog)
    pfn = (_cache(prog) - of.memory.linear_base) >> of.memory.page_shift
    return int(of.page.vmemmap) + pfn * of.page.size


def _of_a_cpu(prog: Program) -> int:
    # Of caches that are on their CPUs' lists alone.
    pointers = np.array([cache.cpu_slab.value_() for cache in _caches(prog)], np.uint64)
    return int(per_cpu_addresses(machine(prog), pointers).min())


def _order_of_objects(prog: Program) -> int:
    return next(int(cache.random_seq.value_()) for cache in _caches(prog) if cache.random_seq)


def _with_zeroes(name: str, place: Callable[[Program], int]) -> Program:
    # In the page of something.
    prog = _open(name)
    overlay(prog, [Write(place(_open(name)) // _PAGE * _PAGE, bytes(_PAGE))])
    return prog


@pytest.fixture(autouse=True)
def as_a_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures leave out nothing of what they have; dumps may."""
    monkeypatch.setattr(sys.modules[check.__module__], "is_dump", lambda kernel: True)


@pytest.mark.parametrize("name", ["slab-6.1-plain", "debian-7-plain"])
@pytest.mark.parametrize("place", [_node, _cache, _struct_page, _mask])
def test_page_of_zeroes_is_missing(name: str, place: Callable[[Program], int]) -> None:
    report = check(_with_zeroes(name, place))
    assert report.findings == []
    assert report.unavailable
    assert report.exit_status == 3
    assert report.totals.zero_filled_pages >= 1


def test_page_of_zeroes_that_a_pointer_leads_to() -> None:
    report = check(_with_zeroes("debian-7-plain", _order_of_objects))
    assert report.findings == []
    assert len(report.caches) == len(check(_open("debian-7-plain")).caches)


def test_a_pointer_into_free_memory_that_is_zeroes_is_damage() -> None:
    # The same pointer, one bit of it wrong: no slab is where it leads.
    prog = _open("debian-7-plain")
    reading = Reading(machine(_open("debian-7-plain")))
    (pointer,) = [
        int(cache.random_seq.address_of_())
        for cache in _caches(prog)
        if cache.random_seq.value_() == _order_of_objects(prog)
    ]
    right = _order_of_objects(prog)
    wrong = next(
        right ^ 1 << bit
        for bit in range(12, 28)
        if reading.index.rows_of_addresses(np.array([right ^ 1 << bit], np.uint64))[0] < 0
    )
    overlay(prog, [Write(wrong // _PAGE * _PAGE, bytes(_PAGE))])
    overlay(prog, [Write(pointer, wrong.to_bytes(8, "little"))])
    (finding,) = check(prog).findings
    assert (finding.code, finding.found, finding.word) == ("cache-wrong", wrong, pointer)
    assert _led_to(Reading(machine(prog)), [finding]) == set()
    sound = _with_zeroes("debian-7-plain", _order_of_objects)
    assert _led_to(Reading(machine(sound)), [replace(finding, found=right)]) == {right // _PAGE}


def test_what_a_cpu_lost_to_zeroes_is_not_on_its_way() -> None:
    report = check(_with_zeroes("debian-6.1-plain", _of_a_cpu))
    assert report.findings == []
    assert "slab-in-transit" not in {finding.code for finding in report.changing}
    assert "kmem_cache_cpu" in " ".join(finding.message for finding in report.unavailable)
    assert report.exit_status == 3


@pytest.mark.parametrize("mapped", [True, False])
def test_a_cache_that_is_zeroes_where_no_struct_page_tells_what_is_there(mapped: bool) -> None:
    prog = _with_zeroes("slab-6.1-plain", _cache)
    if not mapped:
        page = machine(_open("slab-6.1-plain")).page
        hide(prog, [Segment(PT_LOAD, 0, 0, page.vmemmap, (1 << 64) - 1, 64 << 20)])
    report = check(prog)
    assert report.findings == []
    assert report.exit_status == 3


def test_damage_in_another_place_stays() -> None:
    prog = _with_zeroes("debian-7-plain", _node)
    overlay(prog, [Write(0xFFFFF473C01B7430, bytes.fromhex("0000ffff"))])
    report = check(prog)
    assert report.unavailable
    assert {finding.code for finding in report.findings} == {"type-conflict"}


def test_sound_memory_is_not_searched_for_zeroes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["drgn_slabtype.check"], "blank_pages", None)
    report = check(_open("debian-7-plain"))
    assert report.exit_status == 0


def test_structures_of_a_cpu_that_never_allocated_may_be_zeroes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    of = machine(_open("debian-6.1-plain"))
    reading = Reading(of)
    caches = reading.allocator.caches
    owner, addresses = every_copy(of, caches, "cpu_slab")
    pages = addresses.reshape(-1, len(of.cpus))[:, of.cpus == 0].reshape(-1) // _PAGE
    page, owner = int(pages[0]), owner.reshape(-1, len(of.cpus))[:, 0]
    there = caches.names[int(owner[pages == page][0])]
    elsewhere = caches.names[int(owner[pages != page][0])]
    monkeypatch.setattr(
        sys.modules["drgn_slabtype.blanks"], "_is_blank", lambda of, number: number == page
    )

    def blank(cache: str, slab: Optional[int]) -> int:
        said = Finding("slab-lost", "a slab is lost", cache=cache, slab=slab)
        return len(blank_pages(reading, [said]))

    assert blank(elsewhere, 1) == 0
    assert blank(there, None) == 0
    assert blank(there, 1) == 1


def test_pages_of_zeroes_can_be_read_after_a_check() -> None:
    path = str(_HERE / "debian-7-plain" / "capture.xz")
    address = _node(open_capture(path)) // _PAGE * _PAGE
    prog = open_capture(path)
    overlay(prog, [Write(address, bytes(_PAGE))])
    first = check(prog)
    assert prog.read(address, _PAGE) == bytes(_PAGE)
    again = check(prog)
    assert [one.message for one in again.unavailable] == [one.message for one in first.unavailable]


def test_an_index_array_that_is_too_long_brings_in_no_other_slab() -> None:
    of = machine(_open("slab-5.10-plain"))
    reading = Reading(of)
    index, rows = reading.index, reading.allocator.caches.rows
    heads, owner = index["freelist"], reading.allocator.ownership.cache
    inside = index.rows_of_addresses(heads) == np.arange(len(index))
    left = index.addresses + index.spans - heads - rows["freelist_size"][owner]
    several = rows["num"][owner].astype(np.int64) - slab_counts(index) > 1
    row = int(np.flatnonzero(inside & (left < 8) & several)[0])
    start = int(index.addresses[row]) // _PAGE
    own = set(range(start, start + int(index.spans[row]) // _PAGE))
    told = [Finding("freelist-array", "it is not there", slab=int(index.pages[row]))]
    assert _slabs(reading, told) == own
    rows["freelist_size"][owner[row]] += np.uint64(8)
    assert _slabs(reading, told) == own


def _last_free(reading: Reading, *, inside: bool, of_kmalloc: bool) -> int:
    # The row of a slab with one free object, whose array lies in another than the first.
    index, caches = reading.index, reading.allocator.caches
    owner = reading.allocator.ownership.cache
    one = caches.rows["num"][owner].astype(np.int64) - slab_counts(index) == 1
    heads, sizes = index["freelist"], caches.rows["size"][owner].astype(np.uint64)
    within = index.rows_of_addresses(heads) == np.arange(len(index))
    in_another = within & (heads - index.addresses >= sizes)
    kmalloc = np.array([name.startswith("kmalloc") for name in caches.names])[owner]
    several = within & ~in_another & (2 * sizes <= _PAGE)
    wanted = one & (in_another if inside else several) & (kmalloc == of_kmalloc)
    return int(np.flatnonzero(wanted)[0])


@pytest.mark.parametrize(("inside", "of_kmalloc"), [(True, True), (False, False)])
def test_a_page_of_zeroes_that_an_array_of_one_free_object_lies_in(
    inside: bool, of_kmalloc: bool
) -> None:
    # The array of a slab of kmalloc(), before its objects, can be: all that is in use may be.
    reading = Reading(machine(_open("slab-6.1-plain")))
    index = reading.index
    row = _last_free(reading, inside=inside, of_kmalloc=of_kmalloc)
    told = [Finding("claim-twice", "it is in two places", slab=int(index.pages[row]))]
    assert int(index["freelist"][row]) // _PAGE in _slabs(reading, told)
    row = _last_free(reading, inside=False, of_kmalloc=True)
    told = [Finding("claim-twice", "it is in two places", slab=int(index.pages[row]))]
    assert _slabs(reading, told) == set()


def _large_free_object(prog: Program) -> int:
    # In the middle of one, which is neither in its first page nor in its last.
    free, size = objects(prog, "task_struct", "free"), sizeof(prog.type("struct task_struct"))
    ends = ((int(one.address), int(one.address) + size) for one in free)
    return next(first + _PAGE for first, end in ends if first // _PAGE + 1 < end // _PAGE)


def _full_slab(prog: Program) -> int:
    # Without index arrays that could tell of it.
    reading = Reading(machine(prog))
    index, caches = reading.index, reading.allocator.caches
    owner = reading.allocator.ownership.cache
    full = caches.rows["num"][owner].astype(np.int64) == slab_counts(index)
    several = caches.rows["size"][owner].astype(np.int64) * 4 < _PAGE
    debugged = (caches.rows["flags"][owner].astype(np.int64) & _SLAB_RED_ZONE) != 0
    return int(index.addresses[np.flatnonzero(full & several & debugged)[0]])


@pytest.mark.parametrize(
    ("name", "victim"),
    [("debian-7-debug", _large_free_object), ("slab-6.1-debug-plain", _full_slab)],
)
def test_a_page_of_zeroes_among_objects_under_debugging(
    name: str, victim: Callable[[Program], int]
) -> None:
    report = check(_with_zeroes(name, victim))
    assert report.findings == []
    assert report.exit_status == 3
    # A byte of it that is something else tells that it was written.
    damaged = _with_zeroes(name, victim)
    overlay(damaged, [Write(victim(_open(name)) // _PAGE * _PAGE + _PAGE - 1, b"x")])
    assert check(damaged).findings != []
