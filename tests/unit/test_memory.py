# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bulk reads: right bytes, whole masks, few reads."""

from __future__ import annotations

from random import Random
from typing import List, Sequence, Tuple

import numpy as np
import pytest
from drgn import FaultError, Object
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_slabtype.machine import machine as machine_of
from drgn_slabtype.machine.combs import Combs, gather_combs
from drgn_slabtype.machine.memory import Gathered, Memory
from tests.direct_map import LINEAR, CountedMemory, make_mapped_kernel
from tests.synthetic import make_kernel
from tests.synthetic.kernel import PAGE_SIZE, PHYS_BASE, Kernel

BASE = LINEAR + (1 << 30)
IMAGE = 0xFFFFFFFF80000000
PAGES = 64
HOLES = (3, 4, 17, 40, 63)
DATA = bytearray(Random(1).randbytes(PAGES * PAGE_SIZE))
NULL_PAGE = bytearray(b"\xaa" * PAGE_SIZE)


class Machine:
    """A kernel with one stretch of memory; its physical memory can be readable too."""

    def __init__(self, physical: bool = False, holes: Sequence[int] = HOLES) -> None:
        self.kernel: Kernel = make_mapped_kernel()
        self.holes = frozenset(holes)
        self.counted = CountedMemory(BASE, DATA, holes).add_to(self.kernel, physical)
        # QEMU's dumps map small virtual addresses onto physical memory.
        self.low = CountedMemory(0, NULL_PAGE).add_to(self.kernel)
        prog = self.kernel.prog
        if physical:
            first = {"next": BASE + PAGE_SIZE, "prev": 0}
            self.kernel.objects["slab_caches"] = Object(prog, self.kernel.list_head, value=first)
        self.memory = Memory(prog)
        self.counted.reads.clear()

    def gather(self, addresses: Sequence[int], width: int) -> Gathered:
        return self.memory.gather(np.array(addresses, np.uint64), width)

    def readable(self, address: int, width: int) -> bool:
        inside = address >= BASE and address + width <= BASE + len(DATA)
        first, last = (address - BASE) // PAGE_SIZE, (address + width - 1 - BASE) // PAGE_SIZE
        return inside and self.holes.isdisjoint(range(first, last + 1))


@pytest.fixture(scope="module", params=[False, True], ids=["virtual", "physical"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


addresses = st.lists(
    st.one_of(
        st.integers(BASE - 64, BASE + len(DATA)),
        st.integers(0, 4096),
        st.integers(0, (1 << 64) - 1),
        st.sampled_from([0, LINEAR, BASE, BASE + len(DATA) - 8, (1 << 64) - 8, (1 << 64) - 1]),
    ),
    max_size=30,
)


@given(wanted=addresses, width=st.sampled_from([1, 8, 64, 200, 4096, 20_000]))
@settings(max_examples=150)
def test_gather_returns_each_piece_in_its_place(
    machine: Machine, wanted: List[int], width: int
) -> None:
    gathered = machine.gather(wanted, width)
    assert gathered.bytes.shape == (len(wanted), width)
    assert gathered.ok.tolist() == [machine.readable(address, width) for address in wanted]
    for address, ok, row in zip(wanted, gathered.ok, gathered.bytes):
        there = DATA[address - BASE : address - BASE + width] if ok else bytes(width)
        assert row.tobytes() == bytes(there)


@given(
    pages=st.lists(st.integers(0, PAGES + 2), max_size=30),
    pages_each=st.sampled_from([1, 2, 8]),
    at=st.lists(st.integers(0, PAGE_SIZE // 8 - 1), min_size=1, max_size=20),
)
@settings(max_examples=100)
def test_words_are_those_of_the_pieces(
    machine: Machine, pages: List[int], pages_each: int, at: List[int]
) -> None:
    wanted = np.array([BASE + page * PAGE_SIZE for page in pages], np.uint64)
    width = pages_each * PAGE_SIZE
    found = machine.memory.gather_words(wanted, width, np.array(at))
    pieces = machine.memory.gather(wanted, width)
    assert found.ok.tolist() == pieces.ok.tolist()
    assert found.words.tolist() == pieces.bytes.view(machine.memory.word)[:, at].tolist()


@given(
    pieces=st.lists(
        st.tuples(
            st.one_of(st.integers(-1, PAGES + 1), st.sampled_from([-(1 << 40), 1 << 60])),
            st.sampled_from([1, 2, 8]),
            st.integers(0, 64),
            st.sampled_from([1, 3, 8, 24, 200, 1000]),
            st.integers(0, 20),
        ),
        max_size=30,
    )
)
@settings(max_examples=150)
def test_teeth_are_the_words_of_their_combs(
    machine: Machine, pieces: List[Tuple[int, int, int, int, int]]
) -> None:
    address = [(BASE + page * PAGE_SIZE) % (1 << 64) for page, *_ in pieces]
    others = np.array([piece[1:] for piece in pieces], np.int64).reshape(-1, 4).T
    width = others[0] * PAGE_SIZE
    others[3] = np.minimum(others[3], (width - 8 - others[1]) // others[2] + 1)
    combs = Combs(np.array(address, np.uint64), width.astype(np.uint64), *others[1:])
    teeth = gather_combs(machine.memory, combs)
    for at, (start, wide, (_, first, step, words)) in enumerate(zip(address, width, others.T)):
        read = machine.gather([start], int(wide))
        assert teeth.ok[at] == read.ok[0]
        if read.ok[0]:
            there = read.bytes.view(machine.memory.word)[0]
            expected = [there[(first + tooth * step) // 8] for tooth in range(words)]
            begin = teeth.begin[at]
            assert teeth.words[begin : begin + words].tolist() == expected


def test_combs_are_read_in_the_order_of_memory_once() -> None:
    machine = Machine(holes=())
    pages = np.arange(BASE, BASE + len(DATA), PAGE_SIZE, dtype=np.uint64)[::-1]
    columns = np.tile(np.array([[8], [64], [4]]), len(pages))
    gather_combs(machine.memory, Combs(pages, np.full(len(pages), PAGE_SIZE, "u8"), *columns))
    assert [read.size for read in machine.counted.reads] == [len(DATA)]


def test_words_are_read_as_their_pieces_are() -> None:
    machine = Machine(holes=())
    pieces = np.arange(BASE, BASE + len(DATA), PAGE_SIZE, dtype=np.uint64)
    machine.memory.gather_words(pieces, PAGE_SIZE, np.array([1, 7]))
    assert [read.size for read in machine.counted.reads] == [len(DATA)]


def test_gather_of_nothing() -> None:
    machine = Machine()
    assert machine.gather([], 8).bytes.shape == (0, 8)
    assert machine.gather([BASE], 0).bytes.shape == (1, 0)
    assert machine.counted.reads == []


def test_null_and_user_addresses_are_not_followed() -> None:
    machine = Machine()
    gathered = machine.gather([0, 8, 4088, 0x7FFF00000000, 0x0000800000000000], 8)
    assert not gathered.ok.any()
    assert not gathered.bytes.any()
    assert machine.low.reads == []


def test_addresses_below_the_direct_map_may_be_kernel_addresses() -> None:
    known = Memory(make_mapped_kernel().prog)
    tested = np.array([0, PAGE_SIZE, LINEAR - PAGE_SIZE, LINEAR, (1 << 64) - 1], np.uint64)
    assert known.is_kernel_address(tested).tolist() == [False, False, True, True, True]


def test_neighbours_are_read_together() -> None:
    machine = Machine(holes=())
    pieces = [BASE + offset for offset in range(0, len(DATA), 256)]
    assert machine.gather(pieces, 64).ok.all()
    assert len(machine.counted.reads) == 1
    assert len(machine.gather(pieces[::16], 64).ok) == PAGES
    assert len(machine.counted.reads) == 2


def test_far_pieces_are_read_apart_and_nothing_else() -> None:
    machine = Machine(holes=())
    pieces = [BASE + page * PAGE_SIZE for page in range(0, PAGES, 4)]
    machine.gather(pieces, 64)
    assert [(read.address, read.size) for read in machine.counted.reads] == [
        (piece, 64) for piece in pieces
    ]


def test_no_read_is_longer_than_a_mebibyte_and_a_piece() -> None:
    kernel = make_mapped_kernel()
    counted = CountedMemory(BASE, bytearray(5 << 20)).add_to(kernel)
    pieces = np.arange(BASE, BASE + (5 << 20) - 512, 512, dtype=np.uint64)
    assert Memory(kernel.prog).gather(pieces, 512).ok.all()
    assert max(read.size for read in counted.reads) <= (1 << 20) + 512
    assert len(counted.reads) <= 6


def test_a_hole_costs_a_bounded_number_of_reads() -> None:
    machine = Machine(holes=[7])
    pieces = [BASE + offset for offset in range(0, len(DATA), 512)]
    gathered = machine.gather(pieces, 512)
    assert np.count_nonzero(~gathered.ok) == PAGE_SIZE // 512
    # Halving down to each of the eight pieces in the hole: 2 reads a level and piece.
    assert len(machine.counted.reads) <= 2 * 10 + 2 * 8


def test_direct_map_is_read_by_physical_address_where_it_can_be() -> None:
    machine = Machine(physical=True)
    machine.gather([BASE], 64)
    assert [(read.address, read.physical) for read in machine.counted.reads] == [
        (BASE - LINEAR, True)
    ]


def test_physical_memory_that_differs_is_not_used() -> None:
    kernel = make_mapped_kernel()
    counted = CountedMemory(BASE, DATA).add_to(kernel)
    kernel.prog.add_memory_segment(
        BASE - LINEAR, len(DATA), lambda address, count, offset, physical: bytes(count), True
    )
    first = Object(kernel.prog, kernel.list_head, value={"next": BASE + 64, "prev": 0})
    kernel.objects["slab_caches"] = first
    found = Memory(kernel.prog).gather(np.array([BASE + 64], np.uint64), 64)
    assert found.bytes[0].tobytes() == bytes(DATA[64:128])
    assert not counted.reads[-1].physical


def test_what_no_page_table_leads_to_is_read_by_its_physical_address() -> None:
    machine = Machine(physical=True)

    def fault(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("address is not mapped", address)

    machine.kernel.prog.add_memory_segment(BASE, PAGE_SIZE, fault, False)
    assert machine.memory.read(BASE, 64) == bytes(DATA[:64])
    with pytest.raises(FaultError):
        machine.memory.read(BASE + HOLES[0] * PAGE_SIZE, 64)


def test_the_image_is_where_vmcoreinfo_says_if_no_page_table_does() -> None:
    kernel, moved = make_mapped_kernel(), 0x3000000
    prog, at = kernel.prog, IMAGE + moved
    kernel.objects["slab_caches"] = Object(prog, kernel.list_head, address=at)
    data = BASE.to_bytes(8, "little") + at.to_bytes(8, "little")
    prog.add_memory_segment(
        moved + PHYS_BASE,
        len(data),
        lambda address, count, offset, physical: data[offset:][:count],
        True,
    )
    with pytest.raises(FaultError):
        prog["slab_caches"].next.read_()
    Memory(prog)
    assert prog["slab_caches"].next.value_() == BASE


def test_the_image_stays_where_page_tables_have_it_if_one_page_of_it_is_missing() -> None:
    kernel, at = make_mapped_kernel(), IMAGE + 0x3000000
    kernel.objects["slab_caches"] = Object(kernel.prog, kernel.list_head, address=at)
    kernel.add_memory(at + PAGE_SIZE, PAGE_SIZE)
    Memory(kernel.prog)
    assert kernel.prog.read(at + PAGE_SIZE, 8) == bytes(8)


def test_blocks_cover_what_can_be_read() -> None:
    machine = Machine()
    step = 8 * PAGE_SIZE
    seen = bytearray(len(DATA))
    for address, data in machine.memory.blocks(BASE, BASE + len(DATA), step):
        at = address - BASE
        assert data.tobytes() == bytes(DATA[at : at + len(data)])
        seen[at : at + len(data)] = b"\1" * len(data)
    pages = [seen[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] for page in range(PAGES)]
    assert {page for page, marks in enumerate(pages) if not any(marks)} == set(HOLES)
    assert all(all(marks) for page, marks in enumerate(pages) if page not in HOLES)
    # One read a piece, and one a page of the pieces with holes.
    assert len(machine.counted.reads) <= PAGES // 8 + 8 * 4


@pytest.mark.parametrize(("little", "bits"), [(True, 64), (False, 64), (True, 32), (False, 32)])
def test_word_is_that_of_the_target(
    monkeypatch: pytest.MonkeyPatch, little: bool, bits: int
) -> None:
    kernel = make_kernel("5.10-slub", little, bits)
    where = Object(kernel.prog, kernel.types.ulong, value=0x80000000)
    monkeypatch.setattr("drgn_slabtype.machine.directmap.phys_to_virt", lambda prog, address: where)
    known = Memory(kernel.prog)
    assert known.word_size == bits // 8
    assert known.word.itemsize == bits // 8
    data = (1).to_bytes(bits // 8, "little" if little else "big")
    assert np.frombuffer(data, known.word).tolist() == [1]


def test_memory_is_made_once_a_program() -> None:
    prog = make_mapped_kernel().prog
    assert machine_of(prog).memory is machine_of(prog).memory
