# SPDX-License-Identifier: LGPL-2.1-or-later
"""Zones and free blocks, which the rules about pages read."""

from __future__ import annotations

from typing import Any, Iterator, Tuple

from drgn import Object
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mmzone import NODE_DATA

from .layout import leaves
from .structures import PAGE_NAMES, Kernel, Structure


def page_structures(kernel: Kernel) -> Iterator[Structure]:
    """Yield the largest zone of the first node, and some free blocks of it."""
    prog = kernel.prog
    zones = NODE_DATA(prog, 0).node_zones
    sizes = [int(zone.present_pages) for zone in zones]
    at = sizes.index(max(sizes))
    zone, others = zones[at], [zones[n] for n in range(len(sizes)) if n != at and sizes[n]]
    peer = others[0].address_ if others else 0
    yield from kernel.copy(
        "zone",
        "struct zone",
        zone.address_ or 0,
        peer=peer or 0,
        entries=lambda name, length: min(length, 2),
    )
    fields, size = leaves(prog.type("struct page"), PAGE_NAMES), kernel.page_bytes
    blocks = list(_free_blocks(zone))
    for order, what in ((0, "of one page"), (None, "large")):
        found = [(n, page) for n, page in blocks if order is None or n == order]
        if not found:
            continue
        order, page = found[0] if order == 0 else max(found)
        peer = next((other for _, other in blocks if other != page), 0)
        yield Structure(f"free block ({what})", page, fields, peer=peer)
        if order:
            yield Structure("page inside a free block", page + size, fields, peer=page)


def _free_blocks(zone: Object) -> Iterator[Tuple[int, int]]:
    # Order and struct page * of the first blocks of each free list.
    link = "buddy_list" if _has(zone.prog_.type("struct page"), "buddy_list") else "lru"
    for order, area in enumerate(zone.free_area):
        for head in area.free_list:
            for number, page in enumerate(
                list_for_each_entry("struct page", head.address_of_(), link)
            ):
                yield order, page.value_()
                if number == 1:
                    break


def _has(type: Any, member: str) -> bool:
    found: bool = type.has_member(member)
    return found
