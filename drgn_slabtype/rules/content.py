# SPDX-License-Identifier: LGPL-2.1-or-later
"""Red zones, poison, padding and tracks are whole where debugging is on."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, List, Tuple

import numpy as np

from ..findings import Finding
from ..ledger import U8, Bools, Ledger, Zone

_SHOWN = 16  # bytes of damage that a message spells out


def judge_content(ledger: Ledger) -> Iterator[Finding]:
    """
    Yield every object or slab whose promised bytes have been overwritten.

    An object that changes hands is for a moment in the pattern of its other
    state: no more than one per CPU can be.
    """
    passing: List[Finding] = []
    for zone in ledger.zones:
        for row in np.flatnonzero(_damaged(zone)).tolist():
            finding = _finding(ledger, zone, row)
            if _is_passing(zone, row):
                passing.append(finding)
            else:
                yield finding
    moving = len({finding.object for finding in passing}) <= ledger.facts.in_flight
    for finding in passing:
        yield replace(finding, moving=True) if moving else finding


def _damaged(zone: Zone) -> Bools:
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
    where, expected, bad = _difference(zone, row)
    address = None
    what = f"slab 0x{page:x}"
    if index >= 0:
        address = int(slabs.base[slab]) + index * ledger.facts.stride
        what = f"object 0x{address:x}"
    return Finding(
        zone.code,
        f"{name} {what}: {zone.name}: {len(bad)} bytes from 0x{where:x} are "
        f"{_hex(bad)}, not {expected}",
        cache=name,
        node=int(slabs.nid[slab]),
        slab=page,
        object=address,
        index=index if index >= 0 else None,
        place=zone.name,
        expected=expected,
        found=_hex(bad),
        address=where,
    )


def _difference(zone: Zone, row: int) -> Tuple[int, str, U8]:
    # Where the damage begins, what was expected there, and what is there.
    if zone.expected is None:
        return int(zone.address[row]), "set", zone.found[row]
    expected = np.broadcast_to(zone.expected, zone.found.shape)[row]
    at = np.flatnonzero(zone.found[row] != expected)
    first, last = int(at[0]), int(at[-1]) + 1
    return int(zone.address[row]) + first, _hex(expected[first:last]), zone.found[row, first:last]


def _hex(data: np.ndarray[Tuple[int], np.dtype[np.uint8]]) -> str:
    text = data[:_SHOWN].tobytes().hex(" ")
    return text + (" …" if len(data) > _SHOWN else "")
