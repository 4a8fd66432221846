# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Free pages of CPUs
------------------

Each CPU keeps some free pages of each zone for itself, on lists by order and
migrate type. Nothing in their struct pages says so; only the lists tell.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Iterator, List, NamedTuple, Tuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Object

from ..distinct import among
from ..machine import Machine
from ..machine.memory import U64, Bools
from ..machine.percpu import per_cpu_copies, per_cpu_region
from ..regions import Region
from .sections import PageNumbers, Rows
from .zones import online_nodes, zones_with_lists

Orders = npt.NDArray[np.int64]

LONGEST = 1 << 16
"""More pages than a CPU keeps on one list."""
_COSTLY_ORDER = 3  # lists of larger blocks are for huge pages only


class _Lists(NamedTuple):
    # The lists of all CPUs, by ascending address.
    arrays: List[Tuple[int, int]]
    """Where lists lie side by side, and how many."""
    addresses: U64
    orders: Orders


def orders_on_lists(
    machine: Machine, numbers: PageNumbers, pages: Rows, after: U64, before: U64
) -> Orders:
    """
    Return which of some pages stand on a list of a CPU.

    :param pages: Numbers of the pages that may, in ascending order.
    :param after: The ``lru.next`` of each, uint64.
    :param before: The ``lru.prev`` of each, uint64.
    :return: The order of the list that each is on, -1 if on none.
    """
    fields, lists = machine.page, _lists(machine)
    size, base = np.uint64(fields.size), np.uint64(fields.vmemmap + fields.compound)
    links = numbers.pfns(pages) * size + base
    # What leads to each page: another page, or the head of a list; nothing, if
    # that does not lead there.
    nothing = len(pages) + len(lists.addresses)
    leads = np.full(nothing + 1, nothing)
    leads[len(pages) :] = np.arange(len(pages), nothing + 1)
    # Where each page stands among these ones; anything for any other, which a
    # look at that one refutes. To search for the pages takes five times as long.
    where = np.empty(numbers.total, np.uint32)
    where[pages] = np.arange(len(pages))
    at = np.minimum(where[numbers.numbers((before - base) // size)], max(len(pages) - 1, 0))
    found = (links[at] == before) & (after[at] == links)
    leads[: len(pages)][found] = at[found]
    if len(lists.addresses):
        low, high = lists.addresses[0], lists.addresses[-1]
        rows = (~found & (before >= low) & (before <= high)).nonzero()[0]
        at = lists.addresses.searchsorted(before[rows])
        first = _first_links(machine, lists)
        found = (lists.addresses[at] == before[rows]) & (first[at] == links[rows])
        leads[rows[found]] = at[found] + len(pages)
    # Twice as far with each step, to where the list begins.
    for _ in range(len(pages).bit_length()):
        leads = leads.take(leads)
    orders = np.full(nothing + 1, -1)
    orders[len(pages) : nothing] = lists.orders
    return orders[leads[: len(pages)]]


def on_list(machine: Machine, pfn: int) -> bool:
    """Return whether a page is on a list of a CPU: whether its links lead back to one's head."""
    fields, lists, word = machine.page, _lists(machine), machine.memory.word_size
    heads, read = set(lists.addresses.tolist()), machine.memory.read_word
    link = fields.vmemmap + pfn * fields.size + fields.compound
    try:
        for _ in range(LONGEST):
            before = read(link + word)
            if not machine.memory.is_kernel_address(np.array([before], np.uint64))[0]:
                return False
            if read(before) != link:
                return False
            if before in heads:
                return True
            link = before
    except FaultError:
        pass
    return False


def may_be_free(machine: Machine, before: U64, others: Bools) -> Bools:
    """
    Return which links can be on a list of a CPU, by what comes before them alone.

    :param before: The ``prev`` of each ``struct list_head``.
    :param others: Whether that is in a struct page of which no such list has any.
    """
    pages = ~others & (before >= np.uint64(machine.page.vmemmap))
    found: Bools = pages | among(before, _lists(machine).addresses)
    return found


def among_free(machine: Machine, link: int) -> bool:
    """
    Return whether links are on a list of a CPU.

    :param link: ``struct list_head *`` in a struct page, of which :func:`may_be_free` says so.
    """
    fields = machine.page
    before = machine.memory.read_word(link + machine.memory.word_size)
    if before in set(_lists(machine).addresses.tolist()):
        return machine.memory.read_word(before) == link
    return on_list(machine, (link - fields.vmemmap) // fields.size)


def _lists(machine: Machine) -> _Lists:
    return machine.settled(_find_lists)


def _find_lists(machine: Machine) -> _Lists:
    types = machine.enumerators("migratetype").get("MIGRATE_PCPTYPES", 3)
    width = 2 * machine.memory.word_size
    arrays: List[Tuple[int, int]] = []
    for pages in _per_cpu_pages(machine):
        for copy in per_cpu_copies(machine, pages):
            lists = copy.lists
            arrays.append((lists.address_ or 0, lists.type_.length or 0))
    arrays.sort()
    addresses = [at + width * number for at, count in arrays for number in range(count)]
    orders = [order_of_list(number, types, count) for _, count in arrays for number in range(count)]
    return _Lists(arrays, np.array(addresses, np.uint64), np.array(orders, np.int64))


def _first_links(machine: Machine, lists: _Lists) -> U64:
    # What each list begins with; zero where that cannot be read.
    word = machine.memory.word
    parts = [np.zeros(0, np.uint64)]
    for address, count in lists.arrays:
        try:
            raw = machine.memory.read(address, count * 2 * word.itemsize)
        except FaultError:
            raw = bytes(count * 2 * word.itemsize)
        parts.append(np.frombuffer(raw, word)[::2].astype(np.uint64))
    return np.concatenate(parts)


def order_of_list(number: int, types: int, count: int) -> int:
    """
    Return the order of the blocks on one of a CPU's lists.

    :param types: Migrate types that have lists.
    :param count: How many lists there are.
    """
    # Since Linux kernel commit 44042b449872 ("mm/page_alloc: allow high-order
    # pages to be stored on the per-cpu lists") (in v5.14), lists are by order
    # and migrate type; the last ones hold huge pages.
    order = number // types
    if order <= _COSTLY_ORDER or count <= types:
        return order
    return 9


def _per_cpu_pages(machine: Machine) -> Iterator[Object]:
    # struct per_cpu_pages __percpu * of each zone that has pages.
    with suppress(FaultError):
        for _, _, zone in zones_with_lists(machine):
            yield pages_of_cpus(zone)


def pages_of_cpus(zone: Object) -> Object:
    """
    Return where the CPUs keep free pages of a zone.

    :return: ``struct per_cpu_pages __percpu *``
    :raises AttributeError: if zones are not as any known kernel has them.
    """
    # Since Linux kernel commit 28f836b6777b ("mm/page_alloc: split per
    # cpu page lists and zone stats") (in v5.14), it is a pointer to
    # the lists themselves.
    try:
        return zone.per_cpu_pageset
    except AttributeError:
        return zone.pageset.pcp.address_of_()


def regions(machine: Machine) -> Iterator[Region]:
    """Yield the lists of free pages that CPUs keep of every zone."""
    for node in online_nodes(machine):
        for zone in node.node_zones:
            for member in ("per_cpu_pageset", "pageset"):
                if hasattr(zone, member):
                    yield per_cpu_region(machine, "nodes", zone.member_(member))
