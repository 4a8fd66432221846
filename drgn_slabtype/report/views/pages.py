# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people see of pages: the census, and one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, List, Optional, Sequence

from ...pages.flagnames import flag_letters
from . import Column, Fact, Grid, View

if TYPE_CHECKING:
    from ...answers.page import PageInfo, SlabOfPage
    from ...pages.census import Census, CensusRow, Run
    from ...pages.owner import PageOwner

_OBJECTS_IN_ROW = 64


def _meaning(row: CensusRow) -> str:
    kfence = f"; {row.kfence_pages} of KFENCE's pool" if row.kfence_pages else ""
    return row.meaning + kfence


TYPE = View(
    Column("type"),
    Column("pages"),
    Column("size", "size_bytes", right=True),
    Column("heads", less=2),
    Column("tails", less=1),
    Column("what", "meaning kfence_pages", _meaning),
)


def zones(census: Census) -> Grid:
    """Return the census by node and zone."""
    # A column for each kind would be too wide; a row for each is not.
    columns = [Column("node/zone")]
    for place in census.places:
        columns.append(Column(f"{place.node}/{place.zone}", right=True, proper=True))
    rows: List[List[object]] = [["all", *(place.pages for place in census.places)]]
    for row in census.rows:
        rows.append([row.type, *(place.types.get(row.type, 0) for place in census.places)])
    return Grid(columns, rows)


def flags(page_size: int) -> View:
    """Return what is told of pages with the same flags, as page-types does."""
    return View(
        Column("flags"),
        Column("pages"),
        Column("MiB", "pages", lambda row: row.pages * page_size >> 20),
        Column("symbolic", "flags", lambda row: flag_letters(row.flags), less=1),
        Column("names", cell=lambda row: ",".join(row.names) or "-"),
    )


def _run_flags(run: Run) -> Optional[str]:
    return None if run.names is None else ",".join(run.names) or "-"


RUN = View(
    Column("PFN", "pfn", lambda run: f"{run.pfn:#x}", right=True, width=12),
    Column("pages", right=True, width=10),
    Column("type", width=14),
    Column("node/zone", "node zone", lambda run: f"{run.node}/{run.zone}", width=9),
    Column("flags", "flags names", _run_flags),
)

CONFLICT = View(
    Column("PFN", "pfn", lambda conflict: f"{conflict.pfn:#x}", right=True),
    Column("page", cell=lambda conflict: f"0x{conflict.page:x}"),
    Column("word"),
    Column("what is wrong", "meaning"),
)


def _where(info: PageInfo) -> str:
    where = f"struct page 0x{info.page:x}, physical 0x{info.physical:x}"
    return where if info.online else f"{where}, offline"


def _folio(info: PageInfo) -> Optional[str]:
    if not info.order and info.head == info.pfn:
        return None
    part = "head" if info.head == info.pfn else f"page {info.pfn - info.head}"
    return f"order {info.order}, head PFN {info.head:#x}; this is its {part}"


def _place(info: PageInfo) -> str:
    section = "" if info.section is None else f", section {info.section}"
    return f"node {info.node}, zone {info.zone}{section}"


OWNER = View(
    quiet="allocated order gfp_mask gfp migratetype stack free_stack has_stack has_free_stack pid "
    "tgid comm ts_nsec free_ts_nsec free_pid free_tgid migrate_reason"
)


def _owner(info: PageInfo) -> Optional[str]:
    owner = info.owner
    if owner is None:
        return info.owner_missing
    more = [f"{name} {text}" for name, text in OWNER.others(owner)]
    return ", ".join([*_allocated(owner), *_freed(owner), *more])


def _allocated(owner: PageOwner) -> Iterator[str]:
    # The call traces are in the dump, as the kernel prints them.
    by = [owner.comm] if owner.comm is not None else []
    by += [f"pid {owner.pid}"] if owner.pid is not None else []
    yield f"allocated by {' '.join(by)}" if by else "allocated"
    yield f"order {owner.order}, {owner.gfp or hex(owner.gfp_mask)}"
    if owner.ts_nsec is not None:
        yield f"{_seconds(owner.ts_nsec)} after boot"


def _freed(owner: PageOwner) -> Iterator[str]:
    if owner.allocated:
        return
    told = "and freed since" if not owner.free_pid else f"and freed by pid {owner.free_pid}"
    yield f"{told} {_seconds(owner.free_ts_nsec)} after boot" if owner.free_ts_nsec else told


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.6f} s"


def _block(info: PageInfo) -> Optional[str]:
    if info.buddy is None:
        return None
    first, order = info.buddy
    return f"order {order}, PFN {first:#x} to {first + (1 << order) - 1:#x}"


def _slab(slab: SlabOfPage) -> Optional[str]:
    if slab.guarded is not None:
        return None
    if slab.cache is None:
        return f"0x{slab.slab:x}, of no slab cache"
    return f"0x{slab.slab:x} of {slab.cache} (struct kmem_cache 0x{slab.slab_cache:x})"


def _objects(slab: SlabOfPage) -> Optional[str]:
    if slab.guarded is not None or slab.cache is None:
        return None
    return f"{slab.objects}, {slab.counted} in use by the slab's own count"


def _map(slab: SlabOfPage) -> Iterator[Fact]:
    for start in range(0, len(slab.map), _OBJECTS_IN_ROW):
        yield f"from {start}", slab.map[start : start + _OBJECTS_IN_ROW]
    if slab.map:
        yield "", "# in use, . free, w waiting, ? unknown"


SLAB = View(
    Column("KFENCE", "guarded"),
    Column("slab", "slab cache slab_cache", _slab),
    Column("objects", "objects counted", _objects),
    Column("", "map", lambda slab: list(_map(slab))),
    Column("free", cell=lambda slab: [f"{count} in {place}" for place, count in slab.free.items()]),
    Column("finding", "findings"),
)


def _bits(word: int, names: Sequence[str]) -> str:
    return f"0x{word:x}: {' '.join(names) or 'none'}"


PAGE = View(
    Column("where", "page physical online", _where),
    Column("what", "kind meaning", lambda info: f"{info.kind}: {info.meaning}"),
    Column("type", "word word_meaning types", lambda i: f"0x{i.word:08x}: {i.word_meaning}"),
    Column("folio", "order head", _folio),
    Column("flags", "flags flag_names", lambda i: _bits(i.flags, i.flag_names)),
    Column(
        "kpageflags",
        "kpageflags kpageflags_names",
        lambda i: _bits(i.kpageflags, i.kpageflags_names),
    ),
    Column("place", "node zone section", _place),
    Column(
        "counts", "refcount mapcount", lambda i: f"refcount {i.refcount}, mapcount {i.mapcount}"
    ),
    Column("mapping"),
    Column("memcg"),
    Column("owner", "owner owner_missing", _owner),
    Column("free block", "buddy", _block),
    Column("", "slab", lambda info: info.slab and list(SLAB.facts(info.slab))),
    Column("finding", "findings"),
    quiet="pfn dump",
)
