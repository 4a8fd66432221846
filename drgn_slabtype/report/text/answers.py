# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Text for people: caches, objects, one object
--------------------------------------------

Sizes of objects are in bytes, sizes of slabs and memory in KiB, as in crash's
``kmem -s``. Lists that can be long are made as they are written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, List, Mapping, Optional, Tuple, Union

from ..tables import table, text
from ..values import plural, printable

if TYPE_CHECKING:
    from ...answers.caches import CachesAnswer, CacheUsage
    from ...answers.object import AddressInfo
    from ...answers.states import Objects, SlabObject
    from ...answers.tracks import Track

Cell = Union[int, str]

_COLUMNS = {
    "CACHE": "left",
    "OBJSIZE": "right",
    "SIZE": "right",
    "ALLOCATED": "right",
    "FREE": "right",
    "WAITING": "right",
    "TOTAL": "right",
    "USED": "right",
    "SLABS": "right",
    "SSIZE": "right",
    "MEMORY": "right",
    "WASTE": "right",
    "FREE IN": "left",
    "SLABS ON": "left",
}


def caches(answer: CachesAnswer) -> str:
    """Present every cache; ``*`` after a name: its numbers contradict each other."""
    columns = dict(_COLUMNS)
    if any(cache.colours is not None for cache in answer.caches):
        columns["COLOURS"] = "right"
    if answer.total.guarded:
        columns["KFENCE"] = "right"
    if answer.aliases:
        columns["ALIASES"] = "left"
    rows = [_cache_row(cache, columns) for cache in [*answer.caches, answer.total]]
    lines = table(columns, rows)
    if answer.per_node:
        lines += ["", *_node_lines(answer)]
    if answer.per_cpu:
        lines += ["", *_cpu_lines(answer)]
    lines += ["", _caches_summary(answer)]
    return text(lines)


def _cache_row(cache: CacheUsage, columns: Mapping[str, str]) -> List[Cell]:
    total = not cache.address
    cells: Dict[str, Cell] = {
        "CACHE": cache.name + ("" if cache.consistent or total else " *"),
        "OBJSIZE": "" if total else cache.object_size,
        "SIZE": "" if total else cache.size,
        "ALLOCATED": cache.in_use,
        "KFENCE": cache.guarded,
        "FREE": sum(cache.free.values()),
        "WAITING": cache.waiting,
        "TOTAL": cache.objects,
        "USED": "-" if cache.occupancy is None else f"{cache.occupancy:.0%}",
        "SLABS": cache.slabs,
        "SSIZE": "" if total or not cache.slabs else _kib(cache.memory // cache.slabs),
        "MEMORY": _kib(cache.memory),
        "WASTE": _kib(cache.waste),
        "FREE IN": _counts(cache.free),
        "SLABS ON": _counts(cache.lists),
        "COLOURS": "" if cache.colours is None else cache.colours,
        "ALIASES": "" if total else _aliases(cache),
    }
    return [cells[column] for column in columns]


def _kib(size_bytes: int) -> str:
    return f"{size_bytes / 1024:.0f} KiB"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _aliases(cache: CacheUsage) -> str:
    if cache.aliases is None:
        return f"unknown ({cache.merged} merged)"
    return ", ".join(cache.aliases)


def _node_lines(answer: CachesAnswer) -> List[str]:
    columns = {"CACHE": "left"}
    columns.update(dict.fromkeys(["NODE", "SLABS", "COUNTED", "FREE", "TOTAL"], "right"))
    columns.update(dict.fromkeys(["FREE IN", "SLABS ON"], "left"))
    rows = [
        (
            cache.name,
            node.node,
            node.slabs,
            node.counted,
            sum(node.free.values()),
            node.objects,
            _counts(node.free),
            _counts(node.lists),
        )
        for cache in answer.caches
        for node in cache.nodes
    ]
    return table(columns, rows)


def _cpu_lines(answer: CachesAnswer) -> List[str]:
    columns = {"CACHE": "left", "CPU": "right", "FREE": "right", "FREE IN": "left"}
    columns["SLABS"] = "left"
    rows = [
        (cache.name, cpu.cpu, sum(cpu.free.values()), _counts(cpu.free), _counts(cpu.lists))
        for cache in answer.caches
        for cpu in cache.cpus
    ]
    return table(columns, rows)


def _caches_summary(answer: CachesAnswer) -> str:
    total = answer.total
    parts = [
        plural(len(answer.caches), "cache"),
        f"{_kib(total.memory)} in {plural(total.slabs, 'slab')}",
        f"{_kib(total.leftover)} left over in slabs, {_kib(total.padding)} between objects",
    ]
    damaged = sum(not cache.consistent for cache in answer.caches)
    if damaged:
        parts.append(f"* {plural(damaged, 'cache')} with contradicting numbers: see check")
    return "; ".join(parts)


def objects(found: Objects) -> Iterator[str]:
    """Present the objects of a cache, a line each, as they are asked for."""
    facts = found.ledger.facts
    yield printable(f"{facts.name}: {plural(len(found), 'object')} of {facts.object_size} bytes")
    yield "\n"
    # The place comes last: its width is not known before the last row.
    yield f"{'ADDRESS':<16}  {'SLAB':<16}  {'INDEX':>5}  {'STATE':<7}  PLACE\n"
    for rows in found.batches():
        yield "".join(
            [
                f"{address:016x}  {slab:016x}  {index:5}  {state}\n"
                if place is None
                else f"{address:016x}  {slab:016x}  {index:5}  {state:<7}  {place}"
                f"{'' if position is None else f', {position}'}\n"
                for address, slab, index, state, place, position in rows
            ]
        )


def object(info: AddressInfo) -> str:
    """Present what is known about an address."""
    lines = [f"0x{info.address:x}: {info.meaning}"]
    rows: List[Tuple[str, Optional[str]]] = [
        ("cache", info.cache and f"{info.cache} (0x{info.slab_cache or 0:x})"),
        ("slab", _hex(info.slab)),
        ("object", _hex(info.object)),
        ("in its", info.part),
        ("state", info.state),
        *(("recorded in", place) for place in info.places),
        *(("contradiction", message) for message in info.contradictions),
        ("previous", _neighbour(info.previous)),
        ("next", _neighbour(info.next)),
        ("page", None if info.page is None else f"0x{info.page:x}, PFN {info.pfn}"),
    ]
    for track in info.tracks:
        rows.append((track.event, _track(track)))
        rows += [("", frame) for frame in track.stack]
    lines += [f"  {name:<13}  {value}" for name, value in rows if value]
    return text(lines)


def _hex(address: Optional[int]) -> Optional[str]:
    return None if address is None else f"0x{address:x}"


def _neighbour(other: Optional[SlabObject]) -> Optional[str]:
    if other is None:
        return None
    where = f" ({other.place}, position {other.position})" if other.place else ""
    return f"0x{other.address:x}, {other.state}{where}"


def _track(track: Track) -> str:
    parts = [f"by {track.caller}" if track.caller else ""]
    for name, number in (("CPU", track.cpu), ("PID", track.pid), ("at", track.when)):
        if number is not None:
            parts.append(f"{name} {number}")
    return ", ".join(filter(None, parts))
