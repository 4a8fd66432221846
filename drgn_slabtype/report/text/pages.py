# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages
-----

The census in tables, in rows as the kernel's page-types tool prints them, as a
list of runs, and as a map of memory; and one page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator

from ..values import plural, size
from ..views.pages import CONFLICT, PAGE, RUN, TYPE, flags, zones
from .lines import facts, stream, table, text
from .map import draw

if TYPE_CHECKING:
    from ...answers.page import PageInfo
    from ...pages.census import Census


def pages(census: Census) -> Iterator[str]:
    """Present the census of all pages, and what else was asked for."""
    yield text(table(TYPE.grid(census.rows)))
    if len(census.places) > 1:
        yield text(["", *table(zones(census))])
    if census.flags is not None:
        yield text(["", *table(flags(census.page_size).grid(census.flags))])
    if census.runs is not None:
        # There may be a great many: fixed widths, as they come.
        yield "\n"
        yield from stream(RUN, census.runs)
        if census.runs_found is not None and len(census.runs) < census.runs_found:
            yield text([f"{plural(census.runs_found, 'range')}, {len(census.runs)} shown"])
    if census.map is not None:
        yield "\n"
        yield from draw(census.map, census.page_size)
    if census.conflicts:
        yield text(["", *table(CONFLICT.grid(census.conflicts))])
    summary = f"{plural(census.pages, 'page')}, {size(census.pages * census.page_size)}"
    if census.unreadable_pages:
        summary += f"; {plural(census.unreadable_pages, 'page')} unreadable"
    yield text(["", summary])


def page(info: PageInfo) -> str:
    """Present one page: what the kernel would print, and what one asks next."""
    told = facts([("PAGE", f"PFN {info.pfn:#x}"), *PAGE.facts(info)])
    return text([*info.dump, "", *told])
