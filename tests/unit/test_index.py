# SPDX-License-Identifier: LGPL-2.1-or-later
"""The index of all slabs: rows, ways to find them, and slabs added later."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
import pytest
from drgn import sizeof

from drgn_slabtype.index import KnownBy, SlabIndex
from drgn_slabtype.machine import machine
from drgn_slabtype.pages import scan as scan_module
from drgn_slabtype.pages.scan import scan
from tests.direct_map import LINEAR, count_memory_map, make_mapped_kernel
from tests.synthetic.kernel import PAGE_SIZE, VMEMMAP, Kernel

CACHES = 0xFFFF888000100000
SLABS = [(4, 2), (8, 0), (16, 3), (63, 0)]


def make_kernel_with(slabs: List[Tuple[int, int]], num_pages: int = 64) -> Kernel:
    kernel = make_mapped_kernel(num_pages=num_pages)
    for pfn, order in slabs:
        kernel.make_slab(pfn, order)
        set_order(kernel, pfn, order)
        kernel.poke(kernel.slab(pfn).slab_cache, CACHES + 256 * pfn)
        kernel.poke(kernel.slab(pfn).inuse, pfn)
    return kernel


def set_order(kernel: Kernel, pfn: int, order: int) -> None:
    if order:
        tail = kernel.page(pfn + 1)
        offset = scan_module.folio_order_offset(machine(kernel.prog)) - sizeof(tail.type_.type)
        kernel.write(tail.value_() + offset, bytes([order]))


def make_index(kernel: Kernel) -> SlabIndex:
    return SlabIndex(machine(kernel.prog), scan(machine(kernel.prog)).heads)


def pages_of(*pfns: int) -> np.ndarray[Tuple[int], np.dtype[np.uint64]]:
    return np.array([VMEMMAP[8] + 64 * pfn for pfn in pfns], np.uint64)


def test_columns_are_those_of_the_slabs() -> None:
    index = make_index(make_kernel_with(SLABS))
    pfns = [pfn for pfn, _ in SLABS]
    assert len(index) == len(SLABS)
    assert index.pfns.tolist() == pfns
    assert index.orders.tolist() == [order for _, order in SLABS]
    assert index.pages.tolist() == pages_of(*pfns).tolist()
    assert index.addresses.tolist() == [LINEAR + PAGE_SIZE * pfn for pfn in pfns]
    assert index.spans.tolist() == [PAGE_SIZE << order for _, order in SLABS]
    assert index["slab_cache"].tolist() == [CACHES + 256 * pfn for pfn in pfns]
    assert index["inuse"].tolist() == pfns
    assert index.words.tolist() == [0xFFFFFFFF] * 4
    assert index.marked.all()
    assert (index.known_by == KnownBy.MARK).all()
    assert index.struct_page(int(index.pages[1])) == index.raw[1, :64].tobytes()
    assert index.struct_page(0) == b""


def test_rows_of_pages_are_those_of_heads_alone() -> None:
    index = make_index(make_kernel_with(SLABS))
    asked = pages_of(4, 5, 8, 16, 23, 24, 63, 64, 0)
    assert index.rows_of_pages(asked).tolist() == [0, -1, 1, 2, -1, -1, 3, -1, -1]
    assert index.rows_of_pages(asked + np.uint64(8)).tolist() == [-1] * len(asked)
    odd = np.array([0, 8, 1 << 63, (1 << 64) - 64], np.uint64)
    assert index.rows_of_pages(odd).tolist() == [-1] * 4


def test_rows_of_addresses_reach_to_the_end_of_the_slab() -> None:
    index = make_index(make_kernel_with(SLABS))
    asked = {
        LINEAR + 4 * PAGE_SIZE - 1: -1,
        LINEAR + 4 * PAGE_SIZE: 0,
        LINEAR + 8 * PAGE_SIZE - 1: 0,
        LINEAR + 8 * PAGE_SIZE + 77: 1,
        LINEAR + 9 * PAGE_SIZE: -1,
        LINEAR + 24 * PAGE_SIZE - 1: 2,
        LINEAR + 24 * PAGE_SIZE: -1,
        LINEAR + 64 * PAGE_SIZE - 1: 3,
        LINEAR + 64 * PAGE_SIZE: -1,
        0: -1,
        (1 << 64) - 1: -1,
    }
    rows = index.rows_of_addresses(np.array(list(asked), np.uint64))
    assert rows.tolist() == list(asked.values())


@pytest.mark.parametrize("order", [25, 63, 64, 200, 255])
def test_impossible_order_reaches_no_further_than_memory_can(order: int) -> None:
    kernel = make_kernel_with([(4, 2), (16, 3)])
    set_order(kernel, 4, order)
    index = make_index(kernel)
    assert index.orders.tolist() == [order, 3]
    assert index.spans[0] == PAGE_SIZE << 24
    inside = np.array([LINEAR + 17 * PAGE_SIZE, LINEAR + 4 * PAGE_SIZE], np.uint64)
    assert index.rows_of_addresses(inside).tolist() == [1, 0]


def test_slab_that_was_settled_reaches_as_far_as_said() -> None:
    index = make_index(make_kernel_with([(4, 2), (8, 0), (16, 3)]))
    index.settle(np.array([3, -1, 0]))
    asked = np.array([LINEAR + PAGE_SIZE * pfn for pfn in (4, 8, 11, 12, 16, 17)], np.uint64)
    assert index.rows_of_addresses(asked).tolist() == [0, 0, 0, -1, 2, -1]
    # Heads stay where they are.
    assert index.rows_of_pages(pages_of(4, 8, 16)).tolist() == [0, 1, 2]


def test_slab_that_lost_its_mark_is_added_once() -> None:
    kernel = make_kernel_with(SLABS)
    kernel.poke(kernel.slab(32).slab_cache, 0x1234)
    index = make_index(kernel)
    before = index["slab_cache"].tolist()
    index.add(pages_of(32, 8), KnownBy.LIST)
    index.add(pages_of(32), KnownBy.CPU)
    assert index.pfns.tolist() == [4, 8, 16, 63, 32]
    assert index["slab_cache"].tolist() == [*before, 0x1234]
    assert index.marked.tolist() == [True] * 4 + [False]
    assert index.known_by.tolist() == [
        KnownBy.MARK,
        KnownBy.MARK | KnownBy.LIST,
        KnownBy.MARK,
        KnownBy.MARK,
        KnownBy.LIST | KnownBy.CPU,
    ]
    assert index.rows_of_pages(pages_of(32, 63)).tolist() == [4, 3]
    asked = np.array([LINEAR + 32 * PAGE_SIZE], np.uint64)
    assert index.rows_of_addresses(asked).tolist() == [4]


def test_what_is_no_struct_page_is_not_added() -> None:
    index = make_index(make_kernel_with(SLABS))
    wild = [0, 8, 0x7F0000000000, VMEMMAP[8] + 32, VMEMMAP[8] - 64, (1 << 64) - 64, LINEAR]
    index.add(np.array(wild, np.uint64), KnownBy.LIST)
    assert index.pfns.tolist() == [pfn for pfn, _ in SLABS]
    # Beyond the memory map nothing can be read.
    index.add(pages_of(1 << 20), KnownBy.LIST)
    assert len(index) == len(SLABS)


def test_pages_can_be_looked_at_without_being_added() -> None:
    kernel = make_kernel_with(SLABS)
    index = make_index(kernel)
    (copy,) = index.peek(pages_of(40))
    assert copy.tobytes() == kernel.prog.read(kernel.page(40).value_(), 128)
    assert len(index.peek(pages_of(1 << 20))) == 0
    assert len(index) == len(SLABS)


def test_index_without_slabs_answers() -> None:
    index = make_index(make_mapped_kernel())
    assert len(index) == 0
    assert index.rows_of_pages(pages_of(1)).tolist() == [-1]
    assert index.rows_of_addresses(np.array([LINEAR], np.uint64)).tolist() == [-1]
    assert index["slab_cache"].tolist() == []
    index.add(pages_of(7), KnownBy.LIST)
    assert index.rows_of_pages(pages_of(7)).tolist() == [0]


def test_thousand_slabs_are_added_with_few_reads() -> None:
    kernel = make_mapped_kernel(num_pages=4096)
    counted = count_memory_map(kernel)
    index = make_index(kernel)
    counted.reads.clear()
    index.add(pages_of(*range(0, 4096, 4)), KnownBy.LIST)
    assert len(index) == 1024
    # The last page has none after it to be read with it.
    assert len(counted.reads) <= 4


@pytest.mark.parametrize(("nodes", "nids"), [(1 << 10, [0, 3]), (1, [0, 0])])
def test_nodes_are_in_the_top_bits_of_the_flags(nodes: int, nids: List[int]) -> None:
    kernel = make_kernel_with([(4, 0), (8, 0)])
    t = kernel.types
    t.struct(
        "kmem_cache",
        ("cpu_slab", t.pointer),
        ("offset", t.uint),
        ("oo", t.uint),
        ("node", t.array(t.pointer, nodes)),
    )
    kernel.write_page(8, flags=kernel.page(8).flags.value_() | 3 << 54)
    assert make_index(kernel).nids.tolist() == nids
