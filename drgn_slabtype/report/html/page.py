# SPDX-License-Identifier: LGPL-2.1-or-later
"""
HTML
----

One page that needs nothing else: a map of memory, the census, the caches by
memory and by waste, how full slabs are, and every finding with what it means.
It runs no script and fetches nothing.
"""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING, Callable, Dict, Iterator, List, Optional, Sequence

from ... import __version__
from ...findings import CATALOGUE, CacheResult, Finding, Outcome, Report
from ..tables import size
from ..values import plural, printable, value
from .charts import bar, histogram, kind_class, memory_map
from .style import style

if TYPE_CHECKING:
    from ...pages.census import Census

_CACHES = 20  # rows in each table of caches
_OUTCOMES = {Outcome.CONSISTENT: "good", Outcome.INCONSISTENT: "bad"}


def check(report: Report, census: Census) -> Iterator[str]:
    """Present the report of a check, with a census of the same target."""
    yield "<!DOCTYPE html>\n"
    yield '<html lang="en"><head><meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{_text(_title(report))}</title>\n<style>{style()}</style></head><body>\n"
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


def _text(text: object) -> str:
    return escape(printable(str(text)))


def _title(report: Report) -> str:
    release = f"Linux {report.target.release}" if report.target.release else "Linux"
    return f"{release}: {report.outcome.value}"


def _header(report: Report, census: Census) -> Iterator[str]:
    shade = _OUTCOMES.get(report.outcome, "unsure")
    release = f"Linux {report.target.release or ''} {report.target.architecture or ''}".strip()
    yield f'<header><h1><span class="{shade}">{report.outcome.value}</span>: {_text(release)}</h1>'
    layout = report.layout
    where = f", {report.target.path}" if report.target.path else ""
    told = f"{layout.allocator}, page types {layout.page_type}; {report.target.kind}{where}"
    yield f'<p class="quiet">{_text(told)}</p></header>'
    totals = report.totals
    facts = [
        ("memory", size(census.pages * census.page_size)),
        ("in slabs", size(totals.slab_pages * census.page_size)),
        ("caches", totals.caches),
        ("slabs", totals.slabs),
        ("objects", totals.objects),
        ("in use", totals.in_use),
        ("free", totals.free),
        ("findings", len(report.findings)),
    ]
    if totals.unreadable_pages:
        facts.append(("pages unreadable", totals.unreadable_pages))
    items = "".join(f"<div><dt>{name}</dt><dd>{told}</dd></div>" for name, told in facts)
    yield f'<dl class="facts">{items}</dl>'


def _findings(report: Report) -> Iterator[str]:
    yield '<section id="findings"><h2>Findings</h2>'
    if not report.findings:
        yield "<p>None.</p>"
    else:
        yield from _trees(report.findings)
    for title, shelf in (
        ("Not judged", report.unavailable),
        ("Changing", report.changing),
        ("Notes", report.notes),
    ):
        if shelf:
            yield f"<h3>{title}</h3>"
            yield from _trees(shelf)
    yield "</section>"


def _trees(findings: Sequence[Finding]) -> Iterator[str]:
    known = {finding.id for finding in findings}
    followers: Dict[Optional[int], List[Finding]] = defaultdict(list)
    for finding in findings:
        followers[finding.because if finding.because in known else None].append(finding)
    yield '<ol class="tree">'
    for finding in followers[None]:
        yield from _tree(finding, followers)
    yield "</ol>"


def _tree(finding: Finding, followers: Dict[Optional[int], List[Finding]]) -> Iterator[str]:
    details = []
    for name, told in (("expected", finding.expected), ("found", finding.found)):
        if told is not None:
            details.append(f"{name} {value(told)}")
    if finding.attempts > 1:
        details.append(f"read {finding.attempts} times")
    yield f"<li>{_text(finding.message)} "
    yield f'<a href="#code-{finding.code}"><code>{finding.code}</code></a>'
    if details:
        yield f'<br><span class="quiet">{_text(", ".join(details))}</span>'
    # A finding without a number is nobody's root.
    under = followers.pop(finding.id, []) if finding.id else []
    if under:
        yield '<ol aria-label="follows from it">'
        for follower in under:
            yield from _tree(follower, followers)
        yield "</ol>"
    yield "</li>"


def _map(census: Census) -> Iterator[str]:
    if census.map is None:
        return
    yield '<section id="map"><h2>Memory</h2>'
    items = "".join(
        f'<li><i class="{kind_class(row.type)}"></i>{_text(row.type)}</li>' for row in census.rows
    )
    yield f'<ul class="legend">{items}</ul>'
    yield from memory_map(census.map, census.page_size)
    yield "</section>"


def _census(census: Census) -> Iterator[str]:
    yield '<section id="census"><h2>Pages</h2>'
    columns = ("type", "pages", "size", "share", "what")
    most = max((row.pages for row in census.rows), default=1)
    rows = []
    for row in census.rows:
        drawn = bar([(kind_class(row.type), row.pages)], most, f"{row.type}: {row.pages} pages")
        rows.append(
            (
                f'<i class="{kind_class(row.type)}"></i>{_text(row.type)}',
                str(row.pages),
                size(row.size_bytes),
                drawn,
                _text(row.meaning),
            )
        )
    yield from _table(columns, rows, names=("type", "what"))
    zones = sorted({(place.node, place.zone) for place in census.places})
    if len(zones) > 1:
        yield "<h3>By node and zone</h3>"
        heads = ("type", *(f"{node}/{_text(zone)}" for node, zone in zones))
        counts = {(place.node, place.zone): place.types for place in census.places}
        by_zone = [
            (_text(row.type), *(str(counts[zone].get(row.type, 0)) for zone in zones))
            for row in census.rows
        ]
        yield from _table(heads, by_zone, names=("type",))
    if census.conflicts:
        yield "<h3>Words that no healthy page shows</h3>"
        found = [
            (f"{c.pfn:#x}", f"0x{c.page:x}", f"0x{c.word:08x}", _text(c.meaning))
            for c in census.conflicts
        ]
        yield from _table(("PFN", "page", "word", "what"), found, names=("PFN", "what"))
    yield "</section>"


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], names: Sequence[str]
) -> Iterator[str]:
    # On a narrow screen each row stands by itself, with the headings as labels.
    def kind(column: str, cell: str) -> str:
        return "bar" if cell.startswith("<svg") else "name" if column in names else ""

    first = rows[0] if rows else columns
    heads = "".join(
        f'<th scope="col" class="{kind(column, cell)}">{column}</th>'
        for column, cell in zip(columns, first)
    )
    yield f"<table><thead><tr>{heads}</tr></thead><tbody>"
    for row in rows:
        cells = "".join(
            f'<td class="{kind(column, cell)}" data-label="{column}">{cell}</td>'
            for column, cell in zip(columns, row)
        )
        yield f"<tr>{cells}</tr>"
    yield "</tbody></table>"


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
        free = max(cache.objects - cache.in_use, 0) * cache.object_size
        self.free = min(free, self.memory - self.in_use)
        self.waste = self.memory - self.in_use - self.free
        self.unused = self.memory - self.in_use


def _cache_table(
    title: str, told: str, usages: Sequence[_Usage], key: Callable[[_Usage], int]
) -> Iterator[str]:
    ranked = sorted(usages, key=key, reverse=True)[:_CACHES]
    scale = max(usage.memory for usage in ranked)
    yield f'<section id="caches-{title}"><h2>Caches by {title}</h2>'
    rest = len(usages) - len(ranked)
    more = f" The first {len(ranked)} of {plural(len(usages), 'cache')}." if rest else ""
    yield f'<p class="quiet">{told}{more}</p>'
    yield (
        '<ul class="legend"><li><i class="p-in-use"></i>objects in use</li>'
        '<li><i class="p-free"></i>free objects</li>'
        '<li><i class="p-waste"></i>between and after objects</li></ul>'
    )
    rows = []
    for usage in ranked:
        parts = [("p-in-use", usage.in_use), ("p-free", usage.free), ("p-waste", usage.waste)]
        words = ", ".join(f"{name[2:]} {size(part)}" for name, part in parts)
        cache = usage.cache
        share = f"{usage.in_use / usage.memory:.0%}"
        rows.append(
            (
                _text(cache.name),
                bar(parts, scale, f"{cache.name}: {words}"),
                size(usage.memory),
                size(usage.unused),
                share,
                str(cache.slabs),
                f"{cache.in_use} of {cache.objects}",
            )
        )
    columns = ("cache", "use", "memory", "unused", "used", "slabs", "objects")
    yield from _table(columns, rows, names=("cache",))
    yield "</section>"


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
    for cache in sorted(known, key=lambda cache: -_partial(cache))[:_CACHES]:
        if _partial(cache):
            yield _figure(cache.name, cache.fill)
    yield "</div></section>"


def _partial(cache: CacheResult) -> int:
    # Pages in slabs that are not full.
    return sum(cache.fill[:-1]) * cache.pages // max(cache.slabs, 1)


def _figure(name: str, fill: Sequence[int]) -> str:
    told = f"{plural(sum(fill), 'slab')}, {fill[-1]} full"
    drawn = histogram(fill, f"{name}: {told}")
    caption = f'{_text(name)}<br><span class="quiet">{told}</span>'
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _catalogue(report: Report) -> Iterator[str]:
    shelves = (report.findings, report.unavailable, report.changing, report.notes)
    seen = {finding.code for shelf in shelves for finding in shelf}
    if not seen:
        return
    yield '<section id="codes"><h2>What the findings mean</h2><dl class="codes">'
    for code, meaning in CATALOGUE.items():
        if code in seen:
            yield f'<dt id="code-{code}"><code>{code}</code></dt>'
            rule = f'<span class="quiet">Rule: {meaning.rule}.</span>'
            yield f"<dd>{_text(meaning.meaning)} {rule}</dd>"
    yield "</dl></section>"
