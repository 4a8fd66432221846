# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What an answer about caches leaves out
--------------------------------------

Where memory that was needed is not in the target, or a list of caches or objects
leads nowhere, numbers are those of what is left. An answer says so.
"""

from __future__ import annotations

from typing import Iterator

import numpy as np

from ..arguments import named
from ..ledger import Ledger, Walk
from ..reading import Reading
from ..rules.claims import container_name


def missing_of_machine(reading: Reading) -> Iterator[str]:
    """
    Yield what keeps caches, or whole slabs, out of an answer.

    :param reading: Of the whole machine.
    """
    yield from (one.message for one in reading.lost.values())
    lost, scan = reading.allocator.caches.lost, reading.scan
    if lost is not None:
        where = "" if lost.readable else ", which is not in the target"
        leads = f"{lost.link.member} of 0x{lost.at:x} leads to {named(lost.link.found)}"
        yield f"slab_caches: {leads}{where}: caches without slabs may be missing"
    if scan is not None and scan.unreadable:
        yield (
            f"{scan.unreadable} of {scan.pages} struct pages are not in the target; slabs that "
            "they head may be missing"
        )


def missing_of_cache(reading: Reading, number: int, ledger: Ledger) -> Iterator[str]:
    """
    Yield what keeps slabs or objects of one cache out of an answer, or their state unknown.

    :param number: Position of the cache in the reading.
    """
    caches, name = reading.allocator.caches, reading.allocator.caches.names[number]
    if not caches.rows.ok[number]:
        address = int(caches.addresses[number])
        yield f"{name}: struct kmem_cache at 0x{address:x} is not in the target"
        return
    for part in reading.allocator.unreadable(number):
        yield f"{name}: {part} is not in the target"
    boxes = ledger.containers
    for box in np.flatnonzero(boxes.state == Walk.UNREADABLE).tolist():
        slab = int(boxes.slab[box])
        where = container_name(ledger, box)
        if slab >= 0:
            where = f"slab 0x{ledger.slabs.page[slab]:x} {where}"
        yield f"{name}: {where} could not be read to its end"
