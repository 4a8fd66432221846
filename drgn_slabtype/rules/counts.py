# SPDX-License-Identifier: LGPL-2.1-or-later
"""The counts of slabs and nodes against what is there to be counted."""

from __future__ import annotations

from typing import Iterator

import numpy as np

from ..findings import Finding
from ..ledger import I64, Ledger, Walk
from ..records import plural

_NO_COUNT = 1 << 47  # beyond all counts; addresses and text are
_FAR_BELOW = 1 << 30  # nothing is counted down so often


def below_zero(number: int, bits: int) -> int:
    """
    Return what an unsigned count is that went below zero; any other as it is.

    >>> below_zero(2**64 - 1, 64), below_zero(3, 64)
    (-1, 3)
    """
    below = number - (1 << bits)
    return below if -_FAR_BELOW <= below < 0 else number


def judge_counts(ledger: Ledger) -> Iterator[Finding]:
    """Yield slabs, then nodes, whose counters are wrong."""
    yield from _judge_slabs(ledger)
    yield from _judge_nodes(ledger)


def _judge_slabs(ledger: Ledger) -> Iterator[Finding]:
    slabs, boxes, name = ledger.slabs, ledger.containers, ledger.facts.name
    if not len(slabs):
        return
    out_of_range = ~slabs.excused & ((slabs.counted < 0) | (slabs.counted > slabs.objects))
    for slab in out_of_range.nonzero()[0].tolist():
        yield Finding(
            "count-range",
            f"{name} slab 0x{slabs.page[slab]:x}: {plural(slabs.counted[slab], 'object')} in use "
            f"of {slabs.objects[slab]}",
            cache=name,
            node=int(slabs.nid[slab]),
            slab=int(slabs.page[slab]),
            expected=int(slabs.objects[slab]),
            found=int(slabs.counted[slab]),
        )
    wrong = miscounted(ledger)
    for box in wrong[~out_of_range[boxes.slab[wrong]]].tolist():
        row = int(boxes.slab[box])
        walked, counted = int(boxes.walked[box]), int(slabs.counted[row])
        place = ledger.places[boxes.place[box]].name
        yield Finding(
            "count-mismatch",
            f"{name} slab 0x{slabs.page[row]:x}: counts {counted} of {slabs.objects[row]} objects "
            f"in use, but {walked} {'is' if walked == 1 else 'are'} on its {place}",
            cache=name,
            node=int(slabs.nid[row]),
            slab=int(slabs.page[row]),
            place=place,
            expected=int(slabs.objects[row]) - walked,
            found=counted,
            moving=bool(slabs.busy[row]),
        )


def miscounted(ledger: Ledger) -> I64:
    """Return the freelists of slabs that do not have as many objects as their slab counts."""
    slabs, boxes = ledger.slabs, ledger.containers
    own_place = ~np.array([place.counted for place in ledger.places], np.bool_)
    own = own_place[boxes.place] & (boxes.state == Walk.WHOLE) & (boxes.counted >= 0)
    own = own.nonzero()[0]
    wrong = ~slabs.excused[boxes.slab[own]] & (boxes.walked[own] != boxes.counted[own])
    return own[wrong]


def _judge_nodes(ledger: Ledger) -> Iterator[Finding]:
    name = ledger.facts.name
    for counter in ledger.counters:
        if counter.difference:
            kept = below_zero(counter.kept, 64)
            told = f"0x{kept:x}" if kept >= _NO_COUNT else f"{kept}"
            yield Finding(
                counter.code,
                f"{name} node {counter.node}: {counter.name} is {told}, "
                f"its slabs add up to {counter.summed}",
                cache=name,
                node=counter.node,
                place=counter.name,
                expected=counter.summed,
                found=kept,
                moving=counter.passes,
                address=counter.address or None,
                activity=counter.activity,
            )
