# SPDX-License-Identifier: LGPL-2.1-or-later
"""One pass over the memory map: what it finds, and how often it reads."""

from __future__ import annotations

from typing import Callable, List, Tuple

import numpy as np
import pytest
from drgn import Program, sizeof

from drgn_slabtype.check import check
from drgn_slabtype.errors import UnsupportedError
from drgn_slabtype.machine import machine, page_type_layout
from drgn_slabtype.machine.page import PageFields
from drgn_slabtype.pages import scan as scan_module
from drgn_slabtype.pages.census import census
from drgn_slabtype.pages.scan import (
    BLOCK_PAGES,
    page_blocks,
    page_ranges,
    scan,
)
from tests.direct_map import CountedMemory, count_memory_map, make_mapped_kernel
from tests.synthetic import SPECS
from tests.synthetic.kernel import PAGE_SIZE, VMEMMAP, Kernel

PAGES_PER_PAGE = PAGE_SIZE // 64  # struct pages in a page of the memory map
ALLOCATORS = [name for name, spec in SPECS.items() if spec.allocator in ("SLAB", "SLUB")]


def make_slabs(kernel: Kernel, slabs: List[Tuple[int, int]]) -> None:
    """Make slabs of (pfn, order), with the order where this kernel keeps it."""
    for pfn, order in slabs:
        kernel.make_slab(pfn, order, active=1)
        if not order:
            continue
        tail = kernel.page(pfn + 1)
        offset = scan_module.folio_order_offset(machine(kernel.prog)) - sizeof(tail.type_.type)
        kernel.write(tail.value_() + offset, bytes([order]))


@pytest.mark.parametrize("layout", ALLOCATORS)
def test_slab_heads_are_found(layout: str) -> None:
    kernel = make_mapped_kernel(layout)
    slabs = [(0, 0), (8, 3), (16, 1), (63, 0)]
    make_slabs(kernel, slabs)
    kernel.make_compound(24, 2)
    found = scan(machine(kernel.prog))
    assert found.heads.pfns.tolist() == [pfn for pfn, _ in slabs]
    assert found.heads.orders.tolist() == [order for _, order in slabs]
    assert found.typed["slab"] == len(slabs)
    assert (found.pages, found.unreadable, found.conflicts) == (64, 0, [])


@pytest.mark.parametrize("layout", ALLOCATORS)
def test_copies_are_the_head_pages(layout: str) -> None:
    kernel = make_mapped_kernel(layout)
    make_slabs(kernel, [(8, 1), (63, 0)])
    size = machine(kernel.prog).page.size
    heads = scan(machine(kernel.prog)).heads
    assert heads.raw.shape == (2, size)
    for row, pfn in enumerate((8, 63)):
        assert heads.raw[row].tobytes() == kernel.prog.read(kernel.page(pfn).value_(), size)
    # The last page of all has none after it, which would tell its order.
    assert heads.orders.tolist() == [1, 0]


@pytest.mark.parametrize("layout", ALLOCATORS)
def test_what_waits_to_be_judged_is_bounded(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = make_mapped_kernel(layout)
    make_slabs(kernel, [(8, 1), (20, 0), (63, 0)])
    once = scan(machine(kernel.prog))
    monkeypatch.setattr(scan_module, "_MOST_WORDS", 1)
    monkeypatch.setattr(scan_module, "_MOST_HEADS", 1)
    often = scan(machine(kernel.prog))
    assert (often.pages, often.typed, often.conflicts) == (once.pages, once.typed, once.conflicts)
    for name in ("pfns", "raw", "orders"):
        assert (getattr(often.heads, name) == getattr(once.heads, name)).all()


@pytest.mark.parametrize("layout", ALLOCATORS)
def test_types_and_damaged_words_are_told_apart(layout: str) -> None:
    kernel = make_mapped_kernel(layout)
    encoding = page_type_layout(kernel.prog).encoding
    kernel.write_page(3, word=encoding.set(encoding.idle, "table"))
    kernel.write_page(4, word=17)  # a map count
    kernel.write_page(5, word=0xFF7FFFFF if encoding.name != "top-byte" else 0x80000001)
    found = scan(machine(kernel.prog))
    assert {name: n for name, n in found.typed.items() if n} == {"table": 1}
    assert encoding.conflict(kernel.page(5)._mapcount.counter.value_())
    assert found.conflicts == [(5, kernel.page(5)._mapcount.counter.value_() & 0xFFFFFFFF)]


def test_tail_with_a_stale_slab_flag_is_no_slab() -> None:
    kernel = make_mapped_kernel("6.1-slub")
    make_slabs(kernel, [(8, 1)])
    kernel.write_page(9, flags=kernel.page(8).flags.value_())
    assert scan(machine(kernel.prog)).heads.pfns.tolist() == [8]


def test_never_initialised_page_is_no_slab() -> None:
    kernel = make_mapped_kernel("6.1-slub")
    kernel.write_page(9, flags=(1 << 64) - 1)
    assert len(scan(machine(kernel.prog)).heads.pfns) == 0


# Reading.


@pytest.mark.parametrize("pages", [1, 100, BLOCK_PAGES, BLOCK_PAGES + 1, 10 * BLOCK_PAGES])
def test_scan_reads_each_struct_page_once_in_large_blocks(pages: int) -> None:
    kernel = make_mapped_kernel(num_pages=pages)
    counted = count_memory_map(kernel)
    scan(machine(kernel.prog))
    assert len(counted.reads) == -(-pages // BLOCK_PAGES)
    assert sum(read.size for read in counted.reads) == pages * 64
    assert [read.address for read in counted.reads] == sorted(r.address for r in counted.reads)


def test_unreadable_pages_cost_one_read_a_page_of_their_block() -> None:
    kernel = make_mapped_kernel(num_pages=3 * BLOCK_PAGES)
    make_slabs(kernel, [(8, 3), (BLOCK_PAGES + 1024, 0), (3 * BLOCK_PAGES - 8, 2)])
    hole = (BLOCK_PAGES + 640) // PAGES_PER_PAGE
    counted = count_memory_map(kernel, holes=[hole, hole + 1])
    found = scan(machine(kernel.prog))
    assert found.unreadable == 2 * PAGES_PER_PAGE
    assert found.heads.pfns.tolist() == [8, BLOCK_PAGES + 1024, 3 * BLOCK_PAGES - 8]
    assert found.heads.orders.tolist() == [3, 0, 2]
    assert len(counted.reads) <= 3 + BLOCK_PAGES // PAGES_PER_PAGE


def test_readable_pages_between_holes_stay_together() -> None:
    # Or a slab's head would be parted from the tail that holds its order.
    kernel = make_mapped_kernel(num_pages=8 * PAGES_PER_PAGE)
    holes = [1, 4, 7]
    count_memory_map(kernel, holes)
    blocks = [
        (block.pfn // PAGES_PER_PAGE, len(block)) for block in page_blocks(machine(kernel.prog))
    ]
    assert blocks == [(0, 64), (2, 128), (5, 128)]


def test_blocks_begin_at_multiples_of_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = make_mapped_kernel(num_pages=3 * BLOCK_PAGES)
    ranges = [(100, BLOCK_PAGES + 5), (2 * BLOCK_PAGES + 7, 2 * BLOCK_PAGES + 9)]
    blocks = [(b.pfn, len(b)) for b in page_blocks(machine(kernel.prog), ranges=ranges)]
    first = BLOCK_PAGES - 100
    assert blocks == [(100, first), (BLOCK_PAGES, 5), (2 * BLOCK_PAGES + 7, 2)]


@pytest.mark.parametrize("size", [56, 72, 80])
def test_struct_pages_of_other_sizes_are_found_behind_holes(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    pages, hole = 400, 3
    kernel = make_mapped_kernel(num_pages=8)
    data = bytearray(b"".join(pfn.to_bytes(8, "little") * (size // 8) for pfn in range(pages)))
    data += bytes(-len(data) % PAGE_SIZE)
    CountedMemory(VMEMMAP[8], data, holes=[hole]).add_to(kernel)
    fields = machine(kernel.prog).page._replace(size=size)
    monkeypatch.setattr(machine(kernel.prog), "page", fields)
    seen: List[int] = []
    for block in page_blocks(machine(kernel.prog), ranges=[(0, pages)]):
        pfns = np.arange(block.pfn, block.pfn + len(block))
        assert (block.raw.view(np.uint64) == pfns[:, None]).all()
        assert block.address == VMEMMAP[8] + size * block.pfn
        seen += pfns.tolist()
    hit = range(hole * PAGE_SIZE // size, -(-(hole + 1) * PAGE_SIZE // size))
    assert seen == [pfn for pfn in range(pages) if pfn not in hit]


def test_progress_ends_at_the_total() -> None:
    kernel = make_mapped_kernel(num_pages=2 * BLOCK_PAGES + 1)
    calls: List[Tuple[str, int, int]] = []
    scan(machine(kernel.prog), lambda *call: calls.append(call))
    total = 2 * BLOCK_PAGES + 1
    assert calls == [("pages", done, total) for done in (BLOCK_PAGES, 2 * BLOCK_PAGES, total)]


def test_ranges_are_those_of_the_memory_map() -> None:
    assert page_ranges(machine(make_mapped_kernel(num_pages=77).prog)) == [(0, 77)]


@pytest.mark.parametrize(("order", "bits"), [("<", 64), (">", 64), ("<", 32), (">", 32)])
def test_columns_of_a_block_are_those_of_the_target(order: str, bits: int) -> None:
    long = bits // 8
    fields = PageFields(
        size=8 * long, flags=0, word=6 * long, compound=long, refcount=6 * long + 4, long=long
    )
    raw = np.zeros((4, fields.size), np.uint8)
    flat = raw.reshape(-1)
    flags, words = [1 << 9, 0, (1 << bits) - 1, 1 << 31], [0, 5, 0xFFFFFFFF, 0xF5000000]
    compound = [0, VMEMMAP[4] + 1, 0x100, 3]
    for row in range(4):
        at = row * fields.size
        for offset, width, value in (
            (0, long, flags[row]),
            (long, long, compound[row]),
            (6 * long, 4, words[row]),
        ):
            data = value.to_bytes(width, "little" if order == "<" else "big")
            flat[at + offset : at + offset + width] = list(data)
    block = scan_module.PageBlock(0, 0, raw, fields, order)
    assert block.flags.tolist() == flags
    assert block.words.tolist() == words
    assert block.compound.tolist() == compound
    assert block.tails.tolist() == [False, True, False, True]
    assert block.typed().tolist() == [3]
    assert block.flagged(9).tolist() == [0, 2]
    assert block.flagged(31).tolist() == [2, 3]


@pytest.mark.parametrize("ask", [check, census, lambda prog: scan(machine(prog))])
@pytest.mark.parametrize("little", [True, False])
def test_32_bit_kernels_are_refused(ask: Callable[[Program], object], little: bool) -> None:
    kernel = Kernel(SPECS["6.2-slub"], little, 32)
    with pytest.raises(UnsupportedError, match=r"^32-bit kernels are not supported: [^\n]+$"):
        ask(kernel.prog)
