# SPDX-License-Identifier: LGPL-2.1-or-later
"""Made-up kernels whose reads are counted."""

from __future__ import annotations

from typing import Collection, List, NamedTuple, Sequence, Union

from drgn import FaultError, Object, sizeof

from tests.synthetic.kernel import PAGE_SIZE, VMEMMAP, Kernel
from tests.synthetic.specs import SPECS

LINEAR = 0xFFFF888000000000


class Read(NamedTuple):
    """One read of the program."""

    address: int
    size: int
    physical: bool


class CountedMemory:
    """
    A stretch of target memory that remembers how it was read.

    :param holes: Numbers of pages of it that cannot be read.
    """

    def __init__(self, address: int, data: bytearray, holes: Collection[int] = ()) -> None:
        self.address = address
        self.data = data
        self.holes = frozenset(holes)
        self.reads: List[Read] = []

    def add_to(self, kernel: Kernel, physical: bool = False) -> CountedMemory:
        """Make it part of a kernel, by physical address too if it is in the direct map."""
        size = len(self.data)
        kernel.prog.add_memory_segment(self.address, size, self._read, False)
        if physical:
            kernel.prog.add_memory_segment(self.address - LINEAR, size, self._read, True)
        return self

    def _read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        self.reads.append(Read(address, count, physical))
        pages = range(offset // PAGE_SIZE, (offset + count - 1) // PAGE_SIZE + 1)
        if not self.holes.isdisjoint(pages):
            raise FaultError("not in this dump", address)
        return bytes(self.data[offset : offset + count])


def make_mapped_kernel(layout: str = "6.2-slub", num_pages: int = 64) -> Kernel:
    """Return a made-up x86-64 kernel with a direct map and a flat memory map."""
    kernel = Kernel(SPECS[layout], num_pages=num_pages)
    prog = kernel.prog
    kernel.objects["page_offset_base"] = Object(prog, "unsigned long", value=LINEAR)
    kernel.objects["vmemmap"] = kernel.objects["mem_map"] = kernel.page(0)
    node = kernel.types.struct(
        "pglist_data",
        ("node_mem_map", kernel.page(0).type_),
        ("node_start_pfn", kernel.types.ulong),
    )
    value = {"node_mem_map": kernel.page(0), "node_start_pfn": 0}
    kernel.objects["contig_page_data"] = Object(prog, node, value=value)
    kernel.objects["max_mapnr"] = Object(prog, "unsigned long", value=num_pages)
    return kernel


def count_memory_map(kernel: Kernel, holes: Union[Sequence[int], range] = ()) -> CountedMemory:
    """Count the reads of a kernel's memory map from now on; nothing can be changed after."""
    size = kernel.num_pages * sizeof(kernel.prog.type("struct page"))
    data = bytearray(kernel.prog.read(VMEMMAP[8], size))
    return CountedMemory(VMEMMAP[8], data, holes).add_to(kernel)
