# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Compare what the library says of every page with the guest's ``kpageflags``, and
of some with what the guest's ``dump_page()`` printed.

Run as a program, with the folder and the core of a dump; writes JSON. It is a
process of its own so that one broken dump does not end a whole matrix.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import numpy.typing as npt
from drgn import Object, Program
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.slab import for_each_slab_cache

from drgn_slabtype.machine import machine, page_type_layout
from drgn_slabtype.machine.tags import untagged_pointer
from drgn_slabtype.pages.scan import PageBlock, page_blocks
from lab import pagewords
from lab.oracle import KPF

__all__ = ("caches_with_cx16", "compare", "partial_free")

Bools = npt.NDArray[np.bool_]


class _Map:
    # The memory map, put together from the scan's blocks.
    def __init__(self, prog: Program, pages: int) -> None:
        layout = page_type_layout(prog)
        self.known: Bools = np.zeros(pages, np.bool_)
        self.types: Dict[str, Bools] = {
            name: np.zeros(pages, np.bool_) for name in ("slab", "buddy", "offline", "table")
        }
        self.head: Bools = np.zeros(pages, np.bool_)
        self.tail: Bools = np.zeros(pages, np.bool_)
        self.head_pfn = np.arange(pages, dtype=np.uint64)
        self.private = np.zeros(pages, np.uint64)
        page, order = prog.type("struct page"), machine(prog).memory.word
        for block in page_blocks(machine(prog)):
            rows = slice(block.pfn, min(block.pfn + len(block), pages))
            count = rows.stop - rows.start
            if count <= 0:
                continue
            words, flags = block.words[:count], block.flags[:count]
            self.known[rows] = True
            self.types["slab"][rows] = layout.is_slab(flags, words)
            for name in ("buddy", "offline", "table"):
                self.types[name][rows] = layout.encoding.is_type(words, name)
            self.tail[rows] = block.tails[:count]
            self.head[rows] = (flags >> np.uint64(layout.head_flag)) & np.uint64(1) != 0
            self.head[rows] &= ~self.tail[rows]
            offset = (page.member("private").bit_offset or 0) // 8
            column = block.raw[:count, offset : offset + 8]
            self.private[rows] = np.ascontiguousarray(column).view(order)[:, 0]
            self._find_heads(block, rows, page.size or 64)

    def _find_heads(self, block: PageBlock, rows: slice, page_size: int) -> None:
        # A tail points at its head, or (since Linux 7.1) holds a mask that leads
        # there from its own address. No struct page is in the last 4 GiB.
        tails = np.flatnonzero(block.tails[: rows.stop - rows.start])
        links = block.compound[tails]
        own = np.uint64(block.address) + tails.astype(np.uint64) * np.uint64(page_size)
        is_mask = links > np.uint64(0xFFFFFFFF00000000)
        heads = np.where(is_mask, own & links & ~np.uint64(1), links - np.uint64(1))
        first = np.uint64(block.address - block.pfn * page_size)
        self.head_pfn[rows.start + tails] = (heads - first) // np.uint64(page_size)

    def free_blocks(self) -> Bools:
        """Every page of the buddy allocator's free blocks."""
        inside = np.zeros(len(self.known), np.bool_)
        for pfn in np.flatnonzero(self.types["buddy"]):
            inside[pfn : pfn + (1 << int(self.private[pfn] & np.uint64(63)))] = True
        return inside


def _expected(prog: Program, memory: _Map) -> Dict[str, Bools]:
    heads = np.minimum(memory.head_pfn, np.uint64(len(memory.known) - 1)).astype(np.int64)

    def of_head(column: Bools) -> Bools:
        result: Bools = column[heads]
        return result

    expected = {
        "SLAB": of_head(memory.types["slab"]),
        "BUDDY": memory.free_blocks(),
        "OFFLINE": memory.types["offline"],
        "PGTABLE": memory.types["table"],
        "COMPOUND_HEAD": memory.head,
        "COMPOUND_TAIL": memory.tail,
    }
    # Since Linux 6.17, kpageflags works on a snapshot of the page and asks the
    # head for these types.
    if has_type(prog, "struct page_snapshot"):
        for name in ("OFFLINE", "PGTABLE"):
            expected[name] = of_head(expected[name])
    return expected


def compare(prog: Program, flags: npt.NDArray[np.uint64]) -> Dict[str, Dict[str, object]]:
    """
    Compare each page's type with the bits the kernel gave it.

    :param flags: Word of each page frame in ``/proc/kpageflags``.
    :return: For each bit how many pages have it, how many differ, and some of
        the page frame numbers that do.
    """
    memory = _Map(prog, len(flags))
    bits = {name: (flags >> np.uint64(bit)) & np.uint64(1) != 0 for name, bit in KPF.items()}
    judged = memory.known & ~bits["NOPAGE"]
    result: Dict[str, Dict[str, object]] = {}
    for name, ours in _expected(prog, memory).items():
        theirs = bits[name]
        differ = np.flatnonzero((ours != theirs) & judged)
        differ = np.concatenate([differ, np.flatnonzero(theirs & ~memory.known)])
        examples: List[Tuple[int, bool, bool]] = [
            (int(pfn), bool(ours[pfn]), bool(theirs[pfn])) for pfn in differ[:5]
        ]
        result[name] = {
            "pages": int(theirs.sum()),
            "compared": int(judged.sum()),
            "differ": len(differ),
            "examples": examples,
        }
    return result


def partial_free(prog: Program) -> Dict[str, int]:
    """
    Return the free objects of slabs on SLUB's node partial lists.

    It is what ``/proc/slabinfo`` takes off, read from the lists as they are.

    :return: By address of the cache; empty with SLAB.
    """
    result: Dict[str, int] = {}
    # A macro without CONFIG_NUMA.
    nodes = int(prog["nr_node_ids"]) if "nr_node_ids" in prog else 1
    for cache in for_each_slab_cache(prog):
        if not cache_has(cache, "oo"):
            break
        free = 0
        for nid in range(nodes):
            # Since Linux 7.1, the nodes are in per_node.
            if cache_has(cache, "per_node"):
                node = cache.per_node[nid].node
            else:
                node = cache.node[nid]
            if not node:
                continue
            type = "struct slab" if has_type(prog, "struct slab") else "struct page"
            link = "slab_list" if type == "struct slab" else "lru"
            for slab in list_for_each_entry(type, node.partial.address_of_(), link):
                free += int(slab.objects) - int(slab.inuse)
        # With KASAN's tags in its pointers, drgn's have them.
        result[hex(untagged_pointer(prog, cache))] = free
    return result


def caches_with_cx16(prog: Program) -> int:
    """Return how many SLUB caches change freelist and counters of a slab by cmpxchg16b."""
    # A bit number of enum _slab_flag_bits since Linux 6.9, a macro before.
    try:
        flag = 1 << int(prog["_SLAB_CMPXCHG_DOUBLE"])
    except LookupError:
        flag = 0x40000000
    return sum(bool(cache.flags & flag) for cache in for_each_slab_cache(prog))


def cache_has(cache: Object, name: str) -> bool:
    """Return whether ``struct kmem_cache`` has a member of that name."""
    return bool(cache.prog_.type("struct kmem_cache").has_member(name))


def has_type(prog: Program, name: str) -> bool:
    """Return whether the debug information has a type of that name."""
    try:
        prog.type(name)
    except LookupError:
        return False
    return True


def main() -> int:
    """Compare the dump in a folder; write JSON."""
    folder, vmcore = Path(sys.argv[1]), sys.argv[2]
    prog = pagewords.open_dump(folder, vmcore)
    flags = np.fromfile(folder / "oracle" / "kpageflags", "<u8")
    words = pagewords.load(folder / "oracle")
    said = pagewords.compare(prog, words, partial="-31" in Path(vmcore).name)
    answer = {
        "bits": compare(prog, flags),
        "partial_free": partial_free(prog),
        "cx16": caches_with_cx16(prog),
        "words": said.compared,
        # A filtered dump may lack slab pages, and so names of files.
        "words_differ": said.differ,
    }
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
