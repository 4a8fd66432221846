# SPDX-License-Identifier: LGPL-2.1-or-later
"""In use, free, waiting and unknown: whatever is damaged, they add up, in every answer."""

from __future__ import annotations

from typing import Dict, Iterator

from drgn import Program

from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.objects import STATES, objects
from drgn_slabtype.answers.slabs import slabs
from drgn_slabtype.findings import CacheResult, Outcome, Report

_ASKED = 4  # damaged caches of which every object is asked for


def unequal(report: Report) -> Iterator[str]:
    """Yield where the numbers of a report do not add up."""
    for cache in report.caches:
        yield from _unequal(f"check: {cache.name}", cache)
    yield from _unequal("check: totals", report.totals)
    for name in ("objects", "in_use", "waiting", "unknown", "counted", "slabs"):
        summed = sum(getattr(cache, name) for cache in report.caches)
        if summed != getattr(report.totals, name):
            yield f"check: {name} is {getattr(report.totals, name)}, of all caches {summed}"


def _unequal(what: str, sums: object) -> Iterator[str]:
    free = getattr(sums, "free")  # noqa: B009
    by_state: Dict[str, int] = {
        "free": sum(free.values()) if isinstance(free, dict) else free,
        **{name: getattr(sums, name) for name in ("in_use", "waiting", "unknown")},
    }
    parts = [*by_state.values(), *(free.values() if isinstance(free, dict) else ())]
    whole = getattr(sums, "objects")  # noqa: B009
    if sum(by_state.values()) != whole or min(parts) < 0:
        yield f"{what}: {whole} objects: {by_state}"


def answers_unequal(prog: Program, report: Report) -> Iterator[str]:
    """Yield where what the answers say about a kernel does not add up, or not to the report."""
    results = {cache.address: cache for cache in report.caches}
    answer = caches(prog)
    yield from _unequal("caches: total", answer.total)
    for cache in answer.caches:
        yield from _unequal(f"caches: {cache.name}", cache)
        result = results.get(cache.address)
        told = (cache.objects, cache.in_use, cache.free, cache.waiting, cache.unknown)
        if result is not None and told != (
            result.objects,
            result.in_use,
            result.free,
            result.waiting,
            result.unknown,
        ):
            yield f"caches: {cache.name}: {told}, and the check says {result}"
        if result is not None and (result.outcome is Outcome.INCONSISTENT) > (not cache.consistent):
            yield f"caches: {cache.name} is not marked, and the check says it is damaged"
    marked = [cache for cache in answer.caches if not cache.consistent]
    if marked and not (report.findings or report.unavailable or report.changing):
        yield f"caches: {marked[0].name} is marked, and the check says nothing"
    for cache in marked[:_ASKED]:
        if cache.address in results:
            yield from _objects_unequal(prog, results[cache.address])


def _objects_unequal(prog: Program, result: CacheResult) -> Iterator[str]:
    address = result.address
    every = objects(prog, address)
    each = {state: objects(prog, address, state) for state in STATES}
    if sum(map(len, each.values())) != len(every):
        yield f"objects: {len(every)} objects, and {sum(map(len, each.values()))} by state"
    # The check counts those of KFENCE apart.
    by_state = {state: len(found) - len(found.guarded) for state, found in each.items()}
    counted = (result.in_use, sum(result.free.values()), result.waiting, result.unknown)
    if tuple(by_state.values()) != counted:
        yield f"objects: {result.name}: {by_state}, and the check counts {counted}"
    for slab in slabs(prog, address).slabs:
        yield from _unequal(f"slabs: 0x{slab.slab:x}", slab)


def alarmed(prog: Program, report: Report) -> Iterator[str]:
    """Yield where an answer calls something damaged of which the check says that it changes."""
    for cache in caches(prog):
        if not cache.consistent:
            yield f"caches: {cache.name} is marked"
    for name in {finding.cache for finding in report.changing if finding.cache}:
        for slab in slabs(prog, name).slabs:
            if slab.finding:
                yield f"slabs: {name} slab 0x{slab.slab:x}: {slab.finding}"
