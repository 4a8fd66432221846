# SPDX-License-Identifier: LGPL-2.1-or-later
"""Red zones, poison, padding and tracks are whole where debugging is on."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, List, Tuple

import numpy as np

from ..findings import Damaged, Finding
from ..ledger import U8, Bools, Ledger, Zone

_SHOWN = 16  # bytes of damage that a message spells out
_MOST_SHOWN = 8  # ranges of them that it tells
_APART = 8  # whole bytes between two damaged ones that make them two ranges


def judge_content(ledger: Ledger) -> Iterator[Finding]:
    """
    Yield every object or slab whose promised bytes have been overwritten.

    An object that changes hands is for a moment in the pattern of its other
    state: no more than one per CPU can be.
    """
    passing: List[Finding] = []
    for zone in ledger.zones:
        ledger.judged[zone.name] = ledger.judged.get(zone.name, 0) + len(zone.slab)
        for row in np.flatnonzero(_damaged(zone)).tolist():
            finding = _finding(ledger, zone, row)
            if _is_passing(zone, row):
                passing.append(finding)
            else:
                yield finding
    moving = len({finding.object for finding in passing}) <= ledger.facts.in_flight
    for finding in passing:
        yield replace(finding, moving=moving, turned=True)


def _damaged(zone: Zone) -> Bools:
    if zone.wanted is not None:
        return np.ones(len(zone.found), np.bool_)
    if zone.expected is None:
        return zone.found.max(axis=1, initial=0) == 0
    wrong: Bools = (zone.found != zone.expected).any(axis=1)
    return wrong


def _is_passing(zone: Zone, row: int) -> bool:
    if zone.passing is None:
        return False
    passing = np.broadcast_to(zone.passing, zone.found.shape)
    return bool((zone.found[row] == passing[row]).all())


def _finding(ledger: Ledger, zone: Zone, row: int) -> Finding:
    slabs, name = ledger.slabs, ledger.facts.name
    slab, index = int(zone.slab[row]), int(zone.index[row])
    page = int(slabs.page[slab])
    ranges = _ranges(zone, row)
    first = ranges[0]
    address = None
    what = f"slab 0x{page:x}"
    if index >= 0:
        address = int(slabs.base[slab]) + index * ledger.facts.stride
        what = f"object 0x{address:x}"
    return Finding(
        zone.code,
        f"{name} {what}: {zone.name}: {spell_ranges(ranges)}",
        cache=name,
        node=int(slabs.nid[slab]),
        slab=page,
        object=address,
        index=index if index >= 0 else None,
        place=zone.name,
        expected=first.expected,
        found=first.found,
        address=first.address,
        ranges=ranges,
    )


def spell_ranges(ranges: Tuple[Damaged, ...]) -> str:
    """Return what some damaged bytes are, and what they should be, in words."""
    each = [
        f"{one.size} {'bytes' if one.size > 1 else 'byte'} from 0x{one.address:x} "
        f"{'are' if one.size > 1 else 'is'} {one.found}, not {one.expected}"
        for one in ranges[:_MOST_SHOWN]
    ]
    if len(ranges) == 1:
        return each[0]
    if len(ranges) > _MOST_SHOWN:
        each.append(f"{len(ranges) - _MOST_SHOWN} more")
    return f"{len(ranges)} ranges: {'; '.join(each)}"


def _ranges(zone: Zone, row: int) -> Tuple[Damaged, ...]:
    start, found = int(zone.address[row]), zone.found[row]
    if zone.expected is None:
        return (Damaged(start, len(found), zone.wanted or "set", _hex(found)),)
    return damaged_ranges(start, found, np.broadcast_to(zone.expected, zone.found.shape)[row])


def damaged_ranges(start: int, found: U8, expected: U8) -> Tuple[Damaged, ...]:
    """
    Return the ranges of some bytes that are not what is expected of them.

    :param start: Address of the first.
    :param found: What memory holds.
    :param expected: Of each byte, what it should be; of one at least it is not.
    """
    at = np.flatnonzero(found != expected)
    # What was written in one piece may hold bytes that are as they must be.
    ends = np.flatnonzero(np.diff(at) > _APART)
    firsts, lasts = at[np.concatenate([[0], ends + 1])], at[np.concatenate([ends, [-1]])] + 1
    return tuple(
        Damaged(
            start + first,
            last - first,
            _hex(expected[first:last]),
            _hex(found[first:last]),
        )
        for first, last in zip(firsts.tolist(), lasts.tolist())
    )


def _hex(data: U8) -> str:
    text = data[:_SHOWN].tobytes().hex(" ")
    return text + (" …" if len(data) > _SHOWN else "")
