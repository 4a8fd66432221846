# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is answered from a small reading is what the whole machine says, and costs little."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Iterator, List, Tuple

import numpy as np
import pytest
from drgn import Program

from drgn_slabtype import pagecheck
from drgn_slabtype.allocators.vectors import vector_words, vectors
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.describe import describe
from drgn_slabtype.answers.lookup import Lookup
from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.owners import owners
from drgn_slabtype.answers.page import page_info
from drgn_slabtype.answers.slabs import slabs
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.index import KnownBy
from drgn_slabtype.ledger import I64
from drgn_slabtype.machine import Machine, machine
from drgn_slabtype.machine.memory import U64
from drgn_slabtype.pagecheck import Owners, object_cgroups
from drgn_slabtype.pages.references import bits_of_no_flag

from ..counting import counted_capture
from ..recipes.overlay import Write, order_of, overlay
from ..recipes.scopes import differences
from ..recipes.suites import suite_of
from . import ONE_OF_EACH_SHAPE

HERE = Path(__file__).parent
_SLABS = 60  # of each kernel that are asked about


def _capture(kernel: str) -> Path:
    return HERE / kernel / "capture.xz"


@pytest.fixture(scope="module", params=ONE_OF_EACH_SHAPE)
def prog(request: pytest.FixtureRequest) -> Program:
    return open_capture(str(_capture(request.param)))


def _places(prog: Program) -> List[Tuple[int, int]]:
    # (an address inside a slab, its struct slab), anywhere in some of them.
    index = Lookup(machine(prog)).whole.index
    numbers = random.Random(1)
    rows = numbers.sample(range(len(index)), min(len(index), _SLABS))
    return [
        (
            int(index.addresses[row]) + numbers.randrange(int(index.spans[row])),
            int(index.pages[row]),
        )
        for row in rows
        if not index.known_by[row] & KnownBy.KFENCE
    ]


def test_one_slab_answers_as_the_whole_machine(prog: Program) -> None:
    places = _places(prog)
    for place in places:
        assert differences(prog, place) == []


@pytest.mark.parametrize("damage", ["emptied", "ends"])
@pytest.mark.parametrize("kernel", ONE_OF_EACH_SHAPE)
def test_the_head_of_a_long_list(kernel: str, damage: str) -> None:
    # Slabs in the middle do not meet it, whatever they look at on both sides.
    prog = open_capture(str(_capture(kernel)))
    of = suite_of(prog).open(prog)
    lists = [(cache, of.standing(cache, "partial")) for cache in of.caches]
    cache, slabs = max(lists, key=lambda one: len(one[1]))
    head = cache.node().head("partial")
    links = [head, head] if damage == "emptied" else [slabs[0].link + 8, slabs[-1].link + 8]
    data = b"".join(link.to_bytes(8, order_of(prog)) for link in links)
    overlay(prog, [Write(head, data)])
    assert differences(prog, [slabs[len(slabs) // 2].page]) == []


@pytest.mark.parametrize("damage", ["bit of no flag", "references", "vector"])
@pytest.mark.parametrize("kernel", ONE_OF_EACH_SHAPE)
def test_the_page_of_a_slab(kernel: str, damage: str) -> None:
    # Nothing in its cache speaks against it.
    prog = open_capture(str(_capture(kernel)))
    of, order = machine(prog), order_of(prog)
    found = [one for one in map(Lookup(of).at, (at for at, _ in _places(prog))) if one]
    page = next(one.page for one in found if one.is_alone)
    told, width = of.page.flags, of.memory.word_size
    bits = bits_of_no_flag(of)
    change = bits & -bits
    if damage == "references":
        told, width, change = of.page.refcount, 4, 1
    elif damage == "vector":
        slab = of.structure(f"struct {of.layout.slab_struct}")
        names = [one for one in ("obj_exts", "memcg_data", "obj_cgroups") if slab.has(one)]
        if not names:
            pytest.skip("this kernel has no vectors")
        told, change = slab.offset(names[0]), of.memory.linear_base | 0x12345001
    if not change:
        pytest.skip("every bit is a flag's")
    number = int.from_bytes(prog.read(page + told, width), order) ^ change
    overlay(prog, [Write(page + told, number.to_bytes(width, order))])
    assert differences(prog, [page]) == []
    (said,) = [one.code for one in check(prog).findings if one.slab == page and not one.because]
    assert (
        said
        in {
            "bit of no flag": {"slab-flags-wrong"},
            "references": {"slab-referenced", "page-refcount"},
            "vector": {"slab-vector-wrong"},
        }[damage]
    )


@pytest.mark.parametrize("kernel", ONE_OF_EACH_SHAPE)
def test_the_page_of_a_slab_that_others_are_held_against(kernel: str) -> None:
    prog = open_capture(str(_capture(kernel)))
    of, order = machine(prog), order_of(prog)
    sound = [one.page for one in map(Lookup(of).at, (at for at, _ in _places(prog))) if one]
    first = Lookup(of).at(int(Lookup(of).listed.addresses[0]))
    assert first is not None
    at = first.page + of.page.refcount
    count = int.from_bytes(prog.read(at, 4), order) + 5000  # nobody takes so many
    overlay(prog, [Write(at, count.to_bytes(4, order))])
    assert differences(prog, [first.page]) == []
    assert first.page in {one.slab for one in check(prog).findings}
    small = Lookup(machine(prog))
    asked = [small.of_page(page) for page in sound if page != first.page]
    assert sum(one is not None and one.is_alone for one in asked) >= 0.9 * len(asked)


@pytest.mark.parametrize("kernel", ["debian-6.12", "slab-6.1-rfc3"])
def test_slabs_with_vectors_need_no_reading_of_the_whole_machine(kernel: str) -> None:
    prog = open_capture(str(HERE / "percpu" / f"{kernel}.xz"))
    index = Lookup(machine(prog)).whole.index
    starts, _ = vectors(machine(prog), index.pages, np.uint64(8))
    rows = np.flatnonzero(starts != 0)
    assert len(rows)
    pages = index.pages[rows[:: len(rows) // 8]].tolist()
    assert differences(prog, pages) == []
    small = Lookup(machine(prog))
    asked = [small.of_page(page) for page in pages]
    assert all(slab is not None and slab.is_alone for slab in asked)


def test_sound_slabs_need_no_reading_of_the_whole_machine(prog: Program) -> None:
    small = Lookup(machine(prog))
    asked = [small.at(address) for address, _ in _places(prog)]
    alone = [slab is not None and slab.is_alone for slab in asked]
    # Index arrays of SLAB lie in objects that nothing tells from others.
    assert sum(alone) >= 0.9 * len(alone)


def test_addresses_in_no_slab(prog: Program) -> None:
    linear = machine(prog).memory.linear_base
    for address in (0, 1, linear, linear + (1 << 40), (1 << 64) - 1, prog["slab_caches"].address_):
        assert differences(prog, [address]) == []


def test_check_of_an_address_is_about_its_slab(prog: Program) -> None:
    address, page = _places(prog)[0]
    report = check(prog, addresses=[address])
    whole = check(prog)
    (result,) = report.caches
    assert report.exit_status == 0
    assert result.slabs == 1
    assert result.name in {cache.name for cache in whole.caches}
    assert report.totals.pages == result.pages
    assert check(prog, addresses=[page]).caches == report.caches


def test_check_of_a_cache_counts_what_the_whole_check_counts(prog: Program) -> None:
    whole = {cache.name: cache for cache in check(prog).caches}
    for name in list(whole)[:8]:
        (alone,) = check(prog, caches=[name]).caches
        assert alone == whole[name]


def _asked(kernel: str) -> List[int]:
    # Where slabs begin that need no reading of the whole machine.
    prog = open_capture(str(_capture(kernel)))
    places = _places(prog)
    slabs = [slab for slab in map(Lookup(machine(prog)).at, (a for a, _ in places)) if slab]
    alone = [slab.page for slab in slabs if slab.is_alone]
    index = Lookup(machine(prog)).whole.index
    start = dict(zip(index.pages.tolist(), index.addresses.tolist()))
    return [start[page] for page in alone[:20]]


@pytest.mark.parametrize("live", [False, True], ids=["still", "live"])
@pytest.mark.parametrize("kernel", ONE_OF_EACH_SHAPE)
def test_one_address_costs_one_address(kernel: str, live: bool) -> None:
    first, *others = _asked(kernel)
    prog, count = counted_capture(_capture(kernel))
    machine(prog).memory.is_live = live
    slab_object(prog, first)
    assert count.bytes < 1 << 20
    for address in others:
        before = (count.reads, count.bytes)
        slab_object(prog, address)
        # The slab, what could hold its objects, and the slabs beside it; of a target
        # that moves the list of caches once, and the names on it.
        assert count.reads - before[0] < (1500 if live else 200)
        assert count.bytes - before[1] < (1 << 20 if live else 128 << 10)


@pytest.mark.parametrize("kernel", ONE_OF_EACH_SHAPE)
def test_check_of_an_address_costs_one_address(kernel: str) -> None:
    for address in _asked(kernel)[:4]:
        prog, count = counted_capture(_capture(kernel))
        assert check(prog, addresses=[address]).exit_status == 0
        assert count.bytes < 1 << 20


def test_a_page_costs_a_page() -> None:
    prog, count = counted_capture(_capture("debian-6.1-plain"))
    path = open_capture(str(_capture("debian-6.1-plain")))
    address, _ = _places(path)[0]
    info = page_info(prog, address)
    assert info.kind == "slab"
    assert count.bytes < 1 << 20


def test_a_slab_of_no_cache_is_asked_of_the_whole_machine() -> None:
    prog = open_capture(str(_capture("debian-6.19-kfence")))
    index = Lookup(machine(prog)).whole.index
    guarded = index.pages[(index.known_by & KnownBy.KFENCE) != 0].tolist()
    for page in guarded[:5]:
        assert describe(Lookup(machine(prog)), page).kind == "struct slab"


def test_vectors_are_read_some_slabs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = machine(open_capture(str(HERE / "percpu" / "slab-6.1-rfc3.xz")))
    reading = Lookup(kernel).whole
    owners = Owners.told(reading.index, reading.allocator)
    rows = np.flatnonzero(owners.cache >= 0)[::-1]
    asked: List[int] = []

    def pages_of(of: Machine, pages: U64, stride: U64) -> Tuple[U64, U64]:
        asked.append(len(pages))
        return pages, stride

    def entries_of(of: Machine, starts: U64, steps: U64, counts: U64) -> Iterator[Tuple[I64, U64]]:
        yield np.arange(len(starts))[::2], starts[::2, None]
        yield np.arange(len(starts))[1::2], starts[1::2, None]

    # What vectors lead to is in no capture.
    monkeypatch.setattr(pagecheck, "names_cgroups", lambda of: True)
    monkeypatch.setattr(pagecheck, "vectors", pages_of)
    monkeypatch.setattr(pagecheck, "vector_entries", entries_of)
    monkeypatch.setattr(pagecheck, "_AT_A_TIME", 16)
    found = [*object_cgroups(kernel, owners, rows)]
    told = {int(row): int(page) for some, each in found for row, page in zip(some, each[:, 0])}
    (there,) = np.nonzero(vector_words(reading.index)[rows])
    assert 20 < len(there) < len(rows)
    assert told == dict(zip(there.tolist(), reading.index.pages[rows[there]].tolist()))
    assert max(asked) == 16
    assert sum(asked) == len(there)


@pytest.mark.parametrize("damage", ["tail", "first tail", "vector"])
@pytest.mark.parametrize("kernel", ["debian-6.12-plain", "slab-6.1-rfc3-plain"])
def test_what_is_wrong_with_a_page_is_told_in_every_scope(kernel: str, damage: str) -> None:
    prog = open_capture(str(_capture(kernel)))
    of, index = machine(prog), Lookup(machine(prog)).whole.index
    large = index.spans > np.uint64(of.memory.page_size)
    rows = np.flatnonzero(large & ((index.known_by & np.uint8(KnownBy.KFENCE)) == 0))
    slab = int(index.pages[rows[len(rows) // 2]])
    member = {"tail": "_mapcount", "first tail": "mapping", "vector": "memcg_data"}[damage]
    at = slab + of.structure("struct page").offset(member)
    at += 0 if damage == "vector" else of.page.size
    word = of.memory.linear_base | 0x12345001
    data = word.to_bytes(8, order_of(prog))
    overlay(prog, [Write(at, bytes(4) if damage == "tail" else data)])
    (told,) = [one for one in check(prog).findings if one.slab == slab]
    name = told.cache
    assert name is not None
    for scope in ({"caches": [name]}, {"addresses": [slab]}):
        if damage == "first tail" and "addresses" in scope:
            continue  # that takes a look at the first tails of many slabs
        (found,) = check(prog, **scope).findings
        assert (found.code, found.message) == (told.code, told.message)
    (usage,) = caches(prog, name)
    assert not usage.consistent
    assert objects(prog, name).damaged
    assert owners(prog, name).damaged
    assert {one.slab: one.finding for one in slabs(prog, name) if one.finding} == {slab: told.code}
    everywhere = damage == "first tail"
    assert told.message in slab_object(prog, slab, everywhere=everywhere).contradictions


@pytest.mark.parametrize("kernel", ["debian-6.12-plain", "slab-6.1-rfc3-plain"])
def test_the_struct_page_of_a_tail_is_told_with_its_slab(kernel: str) -> None:
    prog = open_capture(str(_capture(kernel)))
    of, index = machine(prog), Lookup(machine(prog)).whole.index
    row = int(np.flatnonzero(index.spans > np.uint64(of.memory.page_size))[-1])
    slab = int(index.pages[row])
    page = slab + of.page.size
    info = slab_object(prog, page + 8)
    assert (info.kind, info.slab, info.page, info.offset) == ("struct page", slab, page, 8)
    assert f"tail 1 of {info.cache} slab 0x{slab:x}" in info.meaning
    assert info.cache == slab_object(prog, slab).cache
    assert "in no slab" not in info.meaning
