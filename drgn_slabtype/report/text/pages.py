# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Text about pages
----------------

The census in tables, in rows as the kernel's page-types tool prints them, as a
list of runs, and as a map of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, List, Optional, Sequence, Tuple

from ...pages.flagnames import flag_letters, flag_names
from ..tables import size, table, text
from ..values import plural

if TYPE_CHECKING:
    from ...answers.page import PageInfo, SlabOfPage
    from ...pages.census import Census, FlagRow, Run
    from ...pages.map import Cell, PageMap
    from ...pages.owner import PageOwner

_CELLS_IN_ROW = 64
_OBJECTS_IN_ROW = 64

# A letter for each kind, and the colour of its cells among the 256 of terminals.
_SYMBOLS = {
    "slab": ("S", 33),
    "buddy": (".", 236),
    "pcp": (",", 240),
    "anon": ("a", 71),
    "file": ("f", 137),
    "shmem": ("m", 101),
    "table": ("T", 134),
    "hugetlb": ("H", 64),
    "large_kmalloc": ("K", 38),
    "zsmalloc": ("Z", 173),
    "reserved": ("R", 95),
    "offline": ("O", 130),
    "balloon": ("O", 130),
    "guard": ("G", 124),
    "unaccepted": ("U", 60),
    "kmemcg": ("k", 31),
    "unknown": ("?", 196),
    "unreadable": ("!", 160),
    "other": ("o", 67),
}
_SHADES = " ░▒▓█"


def pages(census: Census) -> Iterator[str]:
    """Present the census of all pages, and what else was asked for."""
    yield text(_types(census))
    if len(census.places) > 1:
        yield text(["", *_places(census)])
    if census.flags is not None:
        yield text(["", *_flags(census.flags, census.page_size)])
    if census.runs is not None:
        yield "\n"
        yield from _runs(census.runs, census.page_size)
    if census.map is not None:
        yield "\n"
        yield from draw(census.map, census.page_size)
    if census.conflicts:
        yield text(["", *_conflicts(census)])
    summary = f"{plural(census.pages, 'page')}, {size(census.pages * census.page_size)}"
    if census.unreadable_pages:
        summary += f"; {plural(census.unreadable_pages, 'page')} unreadable"
    yield text(["", summary])


def _types(census: Census) -> List[str]:
    numbers = ["PAGES", "SIZE", "HEADS", "TAILS"]
    columns = {"TYPE": "left", **dict.fromkeys(numbers, "right"), "WHAT": "left"}
    rows = [
        (row.type, row.pages, size(row.size_bytes), row.heads, row.tails, row.meaning)
        for row in census.rows
    ]
    return table(columns, rows)


def _places(census: Census) -> List[str]:
    # A column for each kind would be too wide; a row for each is not.
    zones = [f"{place.node}/{place.zone}" for place in census.places]
    columns = {"NODE/ZONE": "left", **dict.fromkeys(zones, "right")}
    rows: List[List[object]] = [["all", *(place.pages for place in census.places)]]
    for row in census.rows:
        rows.append([row.type, *(place.types.get(row.type, 0) for place in census.places)])
    return table(columns, rows)


def _flags(rows: Sequence[FlagRow], page_size: int) -> List[str]:
    columns = {
        "FLAGS": "left",
        "PAGES": "right",
        "MIB": "right",
        "SYMBOLIC": "left",
        "NAMES": "left",
    }
    return table(
        columns,
        [
            (
                f"0x{row.flags:016x}",
                row.pages,
                row.pages * page_size >> 20,
                flag_letters(row.flags),
                ",".join(flag_names(row.flags)) or "-",
            )
            for row in rows
        ],
    )


def _runs(runs: Sequence[Run], page_size: int) -> Iterator[str]:
    # There may be a great many: fixed widths, as they come.
    yield f"{'PFN':>12}  {'PAGES':>10}  {'TYPE':<14}  NODE/ZONE  FLAGS\n"
    for run in runs:
        flags = "" if run.flags is None else ",".join(flag_names(run.flags)) or "-"
        line = (
            f"{run.pfn:>#12x}  {run.pages:>10}  {run.type:<14}  {run.node}/{run.zone:<7}  {flags}"
        )
        yield text([line.rstrip()])


def _conflicts(census: Census) -> List[str]:
    columns = {"PFN": "right", "PAGE": "left", "WORD": "left", "WHAT IS WRONG": "left"}
    rows = [(f"{c.pfn:#x}", f"{c.page:x}", f"0x{c.word:08x}", c.meaning) for c in census.conflicts]
    return table(columns, rows)


def draw(map: PageMap, page_size: int) -> Iterator[str]:
    """
    Draw memory, one character for some neighbouring pages.

    With pages of several kinds each cell is the letter of the one it has most
    of; with pages of one kind, it is as dark as it has many of them.
    """
    kinds = {name: 0 for cell in map.cells for name, _ in cell.types}
    single = len(kinds) == 1
    for row in _rows(map):
        cells = "".join(_shade(cell) if single else _letter(cell, map.colour) for cell in row)
        yield f"{row[0].pfn * page_size:>#14x} {cells}\n"
    per_cell = size(map.pages_per_cell * page_size)
    yield f"{'':14} one character is {per_cell}; holes are left out\n"
    if single:
        yield f"{'':14} {', '.join(kinds)}: {_SHADES[1:]} is up to 25, 50, 75, 100 %\n"
        return
    legend = [f"{_colour(_symbol(name), name, map.colour)} {name}" for name in _by_pages(map)]
    yield f"{'':14} {'  '.join(legend)}\n"


def _rows(map: PageMap) -> Iterator[List[Cell]]:
    row: List[Cell] = []
    for cell in map.cells:
        begins_row = cell.pfn // map.pages_per_cell % _CELLS_IN_ROW == 0
        if row and (begins_row or cell.pfn != row[-1].pfn + row[-1].pages):
            yield row
            row = []
        row.append(cell)
    if row:
        yield row


def _by_pages(map: PageMap) -> List[str]:
    totals: Dict[str, int] = {}
    for cell in map.cells:
        for name, pages in cell.types:
            totals[name] = totals.get(name, 0) + pages
    return sorted(totals, key=lambda name: -totals[name])


def _symbol(name: str) -> str:
    return _SYMBOLS.get(name, _SYMBOLS["unknown"])[0]


def _letter(cell: Cell, colour: bool) -> str:
    if not cell.types:
        return " "
    name = cell.types[0][0]
    return _colour(_symbol(name), name, colour)


def _colour(letter: str, name: str, colour: bool) -> str:
    if not colour:
        return letter
    number = _SYMBOLS.get(name, _SYMBOLS["unknown"])[1]
    return f"\x1b[48;5;{number};38;5;231m{letter}\x1b[0m"


def _shade(cell: Cell) -> str:
    pages = sum(pages for _, pages in cell.types)
    return _SHADES[-(-4 * pages // cell.pages)] if cell.pages else " "


def page(info: PageInfo) -> str:
    """Present one page: what the kernel would print, and what one asks next."""
    rows = [(name, told) for name, told in _facts(info) if told]
    return text([*info.dump, "", *table({"PAGE": "left", f"PFN {info.pfn:#x}": "left"}, rows)])


def _facts(info: PageInfo) -> Iterator[Tuple[str, Optional[str]]]:
    where = f"struct page 0x{info.page:x}, physical 0x{info.physical:x}"
    yield "where", where if info.online else f"{where}, offline"
    yield "what", f"{info.kind}: {info.meaning}"
    yield "type", f"0x{info.word:08x}: {info.word_meaning}"
    if info.order or info.head != info.pfn:
        part = "head" if info.head == info.pfn else f"page {info.pfn - info.head}"
        yield "folio", f"order {info.order}, head PFN {info.head:#x}; this is its {part}"
    yield "flags", f"0x{info.flags:x}: {' '.join(info.flag_names) or 'none'}"
    names = " ".join(info.kpageflags_names) or "none"
    yield "kpageflags", f"0x{info.kpageflags:x}: {names}"
    section = "" if info.section is None else f", section {info.section}"
    yield "place", f"node {info.node}, zone {info.zone}{section}"
    yield "counts", f"refcount {info.refcount}, mapcount {info.mapcount}"
    yield "mapping", info.mapping
    yield "memcg", info.memcg
    yield "owner", _owner(info.owner) if info.owner is not None else info.owner_missing
    if info.buddy is not None:
        first, order = info.buddy
        last = first + (1 << order) - 1
        yield "free block", f"order {order}, PFN {first:#x} to {last:#x}"
    if info.slab is not None:
        yield from _slab(info.slab)


def _owner(owner: PageOwner) -> str:
    # The call traces are above, as the kernel prints them.
    by = [owner.comm] if owner.comm is not None else []
    by += [f"pid {owner.pid}"] if owner.pid is not None else []
    told = [f"allocated by {' '.join(by)}"] if by else ["allocated"]
    told.append(f"order {owner.order}, {owner.gfp or hex(owner.gfp_mask)}")
    if owner.ts_nsec is not None:
        told.append(f"{_seconds(owner.ts_nsec)} after boot")
    if owner.allocated:
        return ", ".join(told)
    told.append("and freed since" if not owner.free_pid else f"and freed by pid {owner.free_pid}")
    if owner.free_ts_nsec:
        told[-1] += f" {_seconds(owner.free_ts_nsec)} after boot"
    return ", ".join(told)


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.6f} s"


def _slab(slab: SlabOfPage) -> Iterator[Tuple[str, Optional[str]]]:
    if slab.guarded is not None:
        yield "KFENCE", slab.guarded
        return
    if slab.cache is None:
        yield "slab", f"0x{slab.slab:x}, of no slab cache"
        return
    yield "slab", f"0x{slab.slab:x} of {slab.cache} (struct kmem_cache 0x{slab.slab_cache:x})"
    yield "objects", f"{slab.objects}, {slab.counted} in use by the slab's own count"
    for start in range(0, len(slab.map), _OBJECTS_IN_ROW):
        cut = slab.map[start : start + _OBJECTS_IN_ROW]
        yield f"from {start}", cut
    if slab.map:
        yield "", "# in use, . free, w waiting, ? unknown"
    for place, number in slab.free.items():
        yield "free", f"{number} in {place}"
    for message in slab.findings:
        yield "finding", message
