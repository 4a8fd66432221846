# SPDX-License-Identifier: LGPL-2.1-or-later
"""
HTML
----

One page that needs nothing else: a map of memory, the census, the caches by
memory and by waste, how full slabs are, and every finding with what it means.
It runs no script and fetches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, Iterator, List, Sequence

from ... import __version__
from ...findings import CacheResult, Outcome, Report
from ..values import plural, size
from ..views import Column, Grid
from ..views.check import (
    FINDING,
    SHELVES,
    TOTALS,
    Branch,
    branches,
    cache_view,
    concerned,
    likenesses,
    others,
    own_word,
)
from ..views.codes import told as told_of
from ..views.pages import CONFLICT, TYPE, zones
from .charts import bar, histogram, kind_class, memory_map
from .style import style
from .table import Markup, prose, table, text

if TYPE_CHECKING:
    from ...pages.census import Census

_CACHES = 20  # rows in each table of caches
_OUTCOMES = {Outcome.CONSISTENT: "good", Outcome.INCONSISTENT: "bad"}


def check(report: Report, census: Census) -> Iterator[str]:
    """Present the report of a check, with a census of the same target."""
    yield "<!DOCTYPE html>\n"
    yield '<html lang="en"><head><meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{text(_title(report))}</title>\n<style>{style()}</style></head><body>\n"
    for part in (
        _header(report, census),
        _findings(report),
        _map(census),
        _census(census),
        _caches(report, census.page_size),
        _occupancy(report),
        _catalogue(report),
    ):
        for line in part:
            yield f"{line}\n"
    yield f'<footer class="quiet"><p>drgn-slabtype {__version__}</p></footer>\n</body></html>\n'


def _title(report: Report) -> str:
    release = f"Linux {report.target.release}" if report.target.release else "Linux"
    return f"{release}: {report.outcome.value}"


def _header(report: Report, census: Census) -> Iterator[str]:
    shade = _OUTCOMES.get(report.outcome, "unsure")
    release = f"Linux {report.target.release or ''} {report.target.architecture or ''}".strip()
    yield f'<header><h1><span class="{shade}">{report.outcome.value}</span>: {text(release)}</h1>'
    layout = report.layout
    where = f", {report.target.path}" if report.target.path else ""
    told = f"{layout.allocator}, page types {layout.page_type}; {report.target.kind}{where}"
    yield f'<p class="quiet">{text(told)}</p></header>'
    roots = sum(finding.because is None for finding in report.findings)
    follow = len(report.findings) - roots
    in_slabs = report.totals.slab_pages - report.totals.kfence_pages
    facts = [
        ("memory", size(census.pages * census.page_size)),
        ("in slabs", size(in_slabs * census.page_size)),
        *TOTALS.facts(report.totals),
        ("findings", str(roots)),
        *([("consequences", str(follow))] if follow else []),
        *own_word(report),
        *others(report),
    ]
    items = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(told)}</dd></div>" for name, told in facts
    )
    yield f'<dl class="facts">{items}</dl>'


def _findings(report: Report) -> Iterator[str]:
    yield '<section id="findings"><h2>Findings</h2>'
    caches = concerned(report.caches)
    if caches:
        damaged = [at for at, cache in enumerate(caches) if _is_damaged(cache)]
        yield from table(cache_view(caches).grid(caches), damaged)
    if not report.findings:
        yield "<p>None.</p>"
    for line in likenesses(report):
        yield f"<p><strong>Looks like</strong> {text(line)}</p>"
    for shelf in SHELVES:
        found = shelf.of(report)
        if found:
            if shelf.name != "findings":
                yield f"<h3>{shelf.title}</h3>"
            yield from _trees(branches(found))
    yield "</section>"


def _trees(branches: Sequence[Branch], label: str = "") -> Iterator[str]:
    yield f'<ol aria-label="{label}">' if label else '<ol class="tree">'
    for finding, followers in branches:
        yield f"<li>{text(finding.message)} "
        yield f'<a href="#code-{finding.code}"><code>{finding.code}</code></a>'
        for line in filter(None, (FINDING.sentence(finding), *finding.details)):
            yield f'<br><span class="quiet">{text(line)}</span>'
        if followers:
            yield from _trees(followers, "follows from it")
        yield "</li>"
    yield "</ol>"


def _map(census: Census) -> Iterator[str]:
    if census.map is None:
        return
    yield '<section id="map"><h2>Memory</h2>'
    items = "".join(
        f'<li><i class="{kind_class(row.type)}"></i>{text(row.type)}</li>' for row in census.rows
    )
    yield f'<ul class="legend">{items}</ul>'
    yield from memory_map(census.map, census.page_size)
    yield "</section>"


def _census(census: Census) -> Iterator[str]:
    yield '<section id="census"><h2>Pages</h2>'
    most = max((row.pages for row in census.rows), default=1)
    grid = TYPE.grid(census.rows)
    for row, cells in zip(census.rows, grid.rows):
        cells[0] = Markup(f'<i class="{kind_class(row.type)}"></i>{text(row.type)}')
    bars = (
        Markup(bar([(kind_class(row.type), row.pages)], most, f"{row.type}: {row.pages} pages"))
        for row in census.rows
    )
    yield from table(grid.insert(3, Column("share"), bars))
    if len(census.places) > 1:
        yield "<h3>By node and zone</h3>"
        yield from table(zones(census))
    if census.conflicts:
        yield "<h3>Words that no healthy page shows</h3>"
        yield from table(CONFLICT.grid(census.conflicts))
    yield "</section>"


def _caches(report: Report, page_size: int) -> Iterator[str]:
    usages = [_Usage(cache, page_size) for cache in report.caches if cache.pages]
    if not usages:
        return
    for title, told, key in (
        ("memory", "Caches by the memory of their slabs.", lambda usage: usage.memory),
        ("waste", "Caches by memory that holds no object in use.", lambda usage: usage.unused),
    ):
        yield from _cache_table(title, told, usages, key)


class _Usage:
    def __init__(self, cache: CacheResult, page_size: int) -> None:
        self.name = cache.name
        self.cache = cache
        self.memory = cache.pages * page_size
        self.in_use = min(cache.in_use * cache.object_size, self.memory)
        left = self.memory - self.in_use
        self.free = min(sum(cache.free.values()) * cache.object_size, left)
        others = (cache.waiting + cache.unknown) * cache.object_size
        self.others = min(others, left - self.free)
        self.waste = left - self.free - self.others
        self.unused = self.memory - self.in_use


def _cache_table(
    title: str, told: str, usages: Sequence[_Usage], key: Callable[[_Usage], int]
) -> Iterator[str]:
    ranked = sorted(usages, key=key, reverse=True)
    # Those that are damaged are never left out.
    ranked = [one for at, one in enumerate(ranked) if at < _CACHES or _is_damaged(one.cache)]
    scale = max(usage.memory for usage in ranked)
    yield f'<section id="caches-{title}"><h2>Caches by {title}</h2>'
    rest = len(usages) - len(ranked)
    more = f" {len(ranked)} of {plural(len(usages), 'cache')}." if rest else ""
    marked = [at for at, usage in enumerate(ranked) if _is_damaged(usage.cache)]
    more += " Those with findings are marked." if marked else ""
    yield f'<p class="quiet">{told}{more}</p>'
    yield (
        '<ul class="legend"><li><i class="p-in-use"></i>objects in use</li>'
        '<li><i class="p-free"></i>free objects</li>'
        '<li><i class="p-others"></i>waiting or unknown</li>'
        '<li><i class="p-waste"></i>between and after objects</li></ul>'
    )
    columns = [
        Column("cache"),
        Column("use"),
        *(Column(name, right=True) for name in ("memory", "unused", "used", "slabs", "objects")),
    ]
    yield from table(Grid(columns, [_usage_cells(usage, scale) for usage in ranked]), marked)
    yield "</section>"


def _usage_cells(usage: _Usage, scale: int) -> List[object]:
    cache = usage.cache
    parts = [
        ("p-in-use", usage.in_use),
        ("p-free", usage.free),
        ("p-others", usage.others),
        ("p-waste", usage.waste),
    ]
    sums = [("in use", cache.in_use), ("free", sum(cache.free.values()))]
    sums += [("waiting", cache.waiting)] if cache.waiting else []
    sums += [("unknown", cache.unknown)] if cache.unknown else []
    counted = ", ".join(f"{number} {name}" for name, number in sums)
    words = f"{counted}; {size(usage.waste)} between and after objects"
    return [
        _name(cache),
        Markup(bar(parts, scale, f"{cache.name}: {words}")),
        size(usage.memory),
        size(usage.unused),
        f"{usage.in_use / usage.memory:.0%}",
        cache.slabs,
        f"{cache.objects}: {counted}",
    ]


def _is_damaged(cache: CacheResult) -> bool:
    return cache.outcome is Outcome.INCONSISTENT


def _name(cache: CacheResult) -> str:
    # With words beside the colour, for those who do not see it.
    if not _is_damaged(cache):
        return cache.name
    return Markup(f'{text(cache.name)} <a href="#findings" class="bad">damaged</a>')


def _occupancy(report: Report) -> Iterator[str]:
    known = [cache for cache in report.caches if any(cache.fill)]
    if not known:
        return
    yield '<section id="occupancy"><h2>How full slabs are</h2>'
    yield (
        '<p class="quiet">Slabs by the share of their objects that the kernel counts as in use: '
        "from empty on the left in steps of a tenth to full on the right. Many slabs in the "
        "middle are memory that cannot be given back.</p>"
    )
    total = [sum(column) for column in zip(*(cache.fill for cache in known))]
    yield '<div class="hist">'
    yield _figure("all caches", total)
    for at, cache in enumerate(sorted(known, key=lambda cache: -_partial(cache))):
        if _is_damaged(cache) or (at < _CACHES and _partial(cache)):
            yield _figure(cache.name, cache.fill, _is_damaged(cache))
    yield "</div></section>"


def _partial(cache: CacheResult) -> int:
    # Pages in slabs that are not full.
    return sum(cache.fill[:-1]) * cache.pages // max(cache.slabs, 1)


def _figure(name: str, fill: Sequence[int], damaged: bool = False) -> str:
    told = f"{plural(sum(fill), 'slab')}, {fill[-1]} full"
    drawn = histogram(fill, f"{name}: {told}")
    word = ' <span class="bad">damaged</span>' if damaged else ""
    caption = f'{text(name)}{word}<br><span class="quiet">{told}</span>'
    mark = ' class="damaged"' if damaged else ""
    return f"<figure{mark}>{drawn}<figcaption>{caption}</figcaption></figure>"


def _catalogue(report: Report) -> Iterator[str]:
    from ...answers.explanations import explain

    seen = {finding.code for shelf in SHELVES for finding in shelf.of(report)}
    if not seen:
        return
    yield '<section id="codes"><h2>What the findings mean</h2><dl class="codes">'
    for code in explain(*seen):
        yield f'<dt id="code-{code.code}"><code>{code.code}</code></dt>'
        for heading, parts in told_of(code):
            label = f'<span class="quiet">{heading}:</span> ' if heading else ""
            several = "".join(f"<li>{prose(part)}</li>" for part in parts)
            body = prose(parts[0]) if len(parts) == 1 else f"<ul>{several}</ul>"
            yield f"<dd>{label}{body}</dd>"
    yield "</dl></section>"
