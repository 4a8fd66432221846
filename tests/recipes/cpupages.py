# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to the free pages that CPUs keep for themselves."""

from __future__ import annotations

from typing import Any, Callable, Iterator, List

from drgn import Object, offsetof
from drgn.helpers.linux.list import list_for_each
from drgn.helpers.linux.mmzone import NODE_DATA
from drgn.helpers.linux.percpu import per_cpu_ptr

from .changes import GARBAGE, LIST_POISON, Spot, add, push, put, store, unlink
from .language import NOW, Root, Suite, Victim
from .machine import node_ids
from .things import Thing
from .victims import first


class FreePage(Thing):
    """
    A page on a list of a CPU.

    :param list: Head of the list.
    """

    def __init__(self, machine: Any, link: int, pages: Object, list: int, **names: Any) -> None:
        super().__init__(machine, "struct page", link - 8, page=link - 8, slab=None, **names)
        self.link = link
        self.pages = pages
        """``struct per_cpu_pages *``."""
        self.list = list
        self.beside = list + 16
        """The next list."""

    @property
    def count(self) -> Spot:
        """Where the CPU counts its pages."""
        layout = self.pages.type_.type
        return Spot(self.machine.prog, self.pages.value_() + offsetof(layout, "count"), 4)


def _zones(prog: Any) -> Iterator[Any]:
    for nid in range(node_ids(prog)):
        for zone in NODE_DATA(prog, nid).node_zones:
            if zone.spanned_pages:
                yield nid, zone


def _kept(machine: Any) -> Iterator[FreePage]:
    # The second page of a list of three, with another list behind it.
    for nid, zone in _zones(machine.prog):
        try:
            pointer = zone.per_cpu_pageset
        except AttributeError:
            pointer = zone.pageset.pcp.address_of_()
        for cpu in machine.cpus:
            pages = per_cpu_ptr(pointer, cpu)
            for head in list(pages.lists)[:-1]:
                links = [link.value_() for link in list_for_each(head.address_of_())]
                if len(links) > 2:
                    at = head.address_ or 0
                    yield FreePage(machine, links[1], pages, at, node=nid, cpu=cpu)


_PAGE: Victim[Any] = first("list of three free pages of a CPU", _kept)


def _word(at: Callable[[Any], int]) -> Callable[[Any], Spot]:
    return lambda page: Spot(page.machine.prog, at(page))


def cpu_pages(suite: Suite[Any]) -> None:
    """Enter damage to lists of free pages."""
    follows = frozenset({"page-free-list", "page-free-count", "page-free-type"})
    torn = Root("page-free-list", place="pcp", also=follows)
    ahead, behind = _word(lambda page: page.link), _word(lambda page: page.link + 8)
    own: Any = lambda page: page.link  # noqa: E731
    suite.recipe("cpu-page-leads-to-itself", _PAGE, put(ahead, own) + put(behind, own), torn)
    found = torn.but(found=NOW)
    suite.recipe("cpu-page-next-poison", _PAGE, put(ahead, LIST_POISON[0]), found)
    suite.recipe("cpu-page-prev-null", _PAGE, put(behind, 0), found)
    text = store(lambda page: page.link, b"root=/drv/vda1 r")
    suite.recipe("cpu-page-links-text", _PAGE, text, torn)
    twice = push(lambda page: page.beside)
    suite.recipe("cpu-page-on-two-lists", _PAGE, twice, torn.but(changing=True))
    head = _word(lambda page: page.list)
    of_list = found.but(page=None)
    suite.recipe("cpu-list-garbage", _PAGE, put(head, GARBAGE), of_list)
    # What one CPU moves at once can be missing, or be too much.
    counted = Root("page-free-count", page=None, place="pcp", found=NOW, also=follows)
    suite.recipe("cpu-pages-one-lost", _PAGE, unlink(), counted.but(found=None, changing=True))
    count: Any = lambda page: page.count  # noqa: E731
    suite.recipe("cpu-pages-one-too-many", _PAGE, add(count, 1), counted.but(changing=True))
    suite.recipe("cpu-pages-counted-by-text", _PAGE, put(count, 0x6B6B6B6B), counted)
    _contents(suite, follows)


def _contents(suite: Suite[Any], follows: Any) -> None:
    held = Root("page-free-flags", place="pcp", found="1", also=follows)
    suite.recipe("cpu-page-held", _PAGE, put("_refcount.counter", 1), held)
    mapped = Root("page-free-type", place="pcp", also=follows)
    suite.recipe("cpu-page-mapped", _PAGE, put("_mapcount.counter", 0), mapped)


__all__: List[str] = ["cpu_pages"]
