# SPDX-License-Identifier: LGPL-2.1-or-later
"""A dump as pages of physical memory, by what is in them."""

from __future__ import annotations

from typing import Dict, List, Set

import numpy as np
from drgn import FaultError, Program
from drgn.helpers.linux.mm import follow_phys

from drgn_slabtype.capture.declare import declared_regions
from drgn_slabtype.machine import Machine, machine
from drgn_slabtype.reading import Reading
from drgn_slabtype.regions import U64, region

ANY = "any"


class Areas:
    """
    Which page frames hold what.

    :param prog: The whole dump.
    :param pages: Page frames that it has.
    :param mapped: Whether these are numbers of virtual pages, as in a capture.
    """

    def __init__(self, prog: Program, pages: List[int], mapped: bool = False) -> None:
        kernel = machine(prog)
        there = set(pages)
        self.frames: Dict[str, List[int]] = {ANY: pages}
        """Page frames by the name of what is in them."""
        regions, _ = declared_regions(kernel)
        reading = Reading(kernel)
        index = reading.index
        regions = [
            *regions,
            region("slab descriptors", index.pages, kernel.page.size),
            region("slabs", index.addresses, index.spans),
        ]
        kinds: Dict[str, Set[int]] = {}
        for one in regions:
            found = kinds.setdefault(one.what, set())
            found.update(_frames(kernel, one.addresses, one.sizes, mapped))
        for name, numbers in sorted(kinds.items()):
            if numbers & there:
                self.frames[name] = sorted(numbers & there)


def _frames(kernel: Machine, addresses: U64, sizes: U64, mapped: bool) -> Set[int]:
    shift = np.uint64(kernel.memory.page_shift)
    found: Set[int] = set()
    some = sizes > 0
    first = addresses[some] >> shift
    last = (addresses[some] + sizes[some] - np.uint64(1)) >> shift
    virtual: Set[int] = set()
    for start, end in set(zip(first.tolist(), last.tolist())):
        virtual.update(range(start, end + 1))
    if mapped:
        return virtual
    base = kernel.memory.linear_base >> int(shift)
    for number in virtual:
        if base <= number < base + (1 << 34):
            found.add(number - base)
            continue
        try:
            init_mm = kernel.prog["init_mm"].address_of_()
            found.add(int(follow_phys(init_mm, number << int(shift))) >> int(shift))
        except (FaultError, OverflowError):
            continue
    return found
