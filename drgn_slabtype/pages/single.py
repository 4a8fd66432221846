# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One page at a time
------------------

What the passes over the memory map know of every page, for a single one.
"""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
from drgn import Object
from drgn.helpers.linux.mm import page_to_pfn

from ..machine import Machine, machine
from .folios import MAX_BUDDY_ORDER, Folios, buddy_orders
from .scan import PageBlock


def one_page(page: Object) -> Tuple[Folios, int]:
    """
    Return a few pages with their heads, and the row of the one asked for.

    :param page: ``struct page *``
    :raises ~drgn.FaultError: if the page is not in the dump.
    """
    prog = page.prog_
    pfn = int(page_to_pfn(page).value_())
    # The page after a head tells of the folio; folios are aligned.
    first = pfn - pfn % 4
    address, size = page.value_() - (pfn - first) * machine(prog).page.size, machine(prog).page.size
    raw = np.frombuffer(prog.read(address, 4 * size), np.uint8).reshape(4, size)
    block = PageBlock(first, address, raw, machine(prog).page, machine(prog).memory.byteorder)
    return Folios(machine(prog), block), pfn - first


def free_block(page: Object) -> Optional[Tuple[int, int]]:
    """
    Return the free block of the buddy allocator that a page lies in, if it does.

    :param page: ``struct page *``
    :return: Page frame number of the first page, and the order.
    """
    return free_block_at(machine(page.prog_), int(page_to_pfn(page).value_()))


def free_block_at(machine: Machine, pfn: int) -> Optional[Tuple[int, int]]:
    """Return the same by page frame number."""
    layout, fields = machine.layout, machine.page
    orders = np.arange(MAX_BUDDY_ORDER + 1, dtype=np.uint64)
    starts = np.uint64(pfn) >> orders << orders
    rows = machine.rows("struct page", fields.vmemmap + starts * np.uint64(fields.size))
    words = rows["_mapcount"].astype(np.uint32)
    found = buddy_orders(rows["private"])
    fits = rows.ok & layout.encoding.is_type(words, "buddy") & (found >= orders)
    if not fits.any():
        return None
    first = int(np.flatnonzero(fits)[0])
    return int(starts[first]), int(found[first])
