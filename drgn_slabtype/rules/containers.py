# SPDX-License-Identifier: LGPL-2.1-or-later
"""Places keep their own promises: no more than their limit, as many as they count."""

from __future__ import annotations

from typing import Iterator

import numpy as np

from ..findings import Finding
from ..ledger import Ledger, Walk
from ..records import plural
from .claims import container_address, container_cpu, container_name, container_node
from .counts import below_zero


def judge_containers(ledger: Ledger) -> Iterator[Finding]:
    """Yield the places whose count is beyond their limit or not what is in them."""
    boxes, name = ledger.containers, ledger.facts.name
    shared = np.array([place.counted for place in ledger.places], np.bool_)[boxes.place]
    over = shared & (boxes.limit >= 0) & (boxes.counted > boxes.limit)
    off = shared & ~over & (boxes.counted >= 0) & (boxes.state == Walk.WHOLE)
    off &= boxes.counted != boxes.walked
    for code, hits, expected in (
        ("container-limit", over, boxes.limit),
        ("container-count", off, boxes.walked),
    ):
        for box in hits.nonzero()[0].tolist():
            what = "may hold" if code == "container-limit" else "holds"
            counted = below_zero(int(boxes.counted[box]), 32)
            yield Finding(
                code,
                f"{name} {container_name(ledger, box)}: counts {plural(counted, 'object')} "
                f"and {what} {expected[box]}",
                cache=name,
                node=container_node(ledger, box),
                cpu=container_cpu(ledger, box),
                place=container_name(ledger, box),
                expected=int(expected[box]),
                found=counted,
                address=container_address(ledger, box),
            )
