# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the words are that the library reads: what a capture declares, and more of what counts."""

from __future__ import annotations

import random
from typing import Dict, List

import numpy as np
from drgn import FaultError, Program

from drgn_slabtype.capture.declare import declared_regions
from drgn_slabtype.machine import machine
from drgn_slabtype.reading import Reading
from drgn_slabtype.regions import Region, region

_WORD = 8
# Words of these decide about all others, and they are few.
_VARIABLES = ("mem_section", "__per_cpu_offset", "slab_caches", "nr_node_ids", "vmemmap_base")


class Places:
    """
    The words of one kernel that can be damaged, by the kind of structure they are in.

    :param prog: A capture, undamaged.
    """

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        regions, _ = declared_regions(machine(prog))
        self._kinds: Dict[str, List[Region]] = {}
        for one in [*regions, *_descriptors(prog), *_variables(prog)]:
            if not one.masked and len(one.addresses):
                self._kinds.setdefault(one.what, []).append(one)
        self.kinds = sorted(self._kinds)
        """What there is: ``cache nodes``, ``slab descriptors``, …"""

    def word(self, chance: random.Random) -> int:
        """Return the address of a word, each kind of structure being as likely as any other."""
        while True:
            some = chance.choice(self._kinds[chance.choice(self.kinds)])
            number = chance.randrange(len(some.addresses))
            start, size = int(some.addresses[number]), int(some.sizes[number])
            address = (start + chance.randrange(max(size, 1))) // _WORD * _WORD
            try:
                self.prog.read(address, _WORD)
            except FaultError:
                continue
            return address

    def read(self, address: int) -> bytes:
        """Return a word as it is in the capture."""
        return self.prog.read(address, _WORD)


def _descriptors(prog: Program) -> List[Region]:
    # The memory map is mostly free pages; those of slabs are a kind of their own.
    of = machine(prog)
    addresses = np.asarray(Reading(of).index.pages, np.uint64)
    return [region("slab descriptors", addresses, of.page.size)] * 2


def _variables(prog: Program) -> List[Region]:
    found = []
    for name in _VARIABLES:
        try:
            variable = prog.variable(name)
        except LookupError:
            continue
        if variable.address_ is not None:
            size = min(prog.type("unsigned long").size or 8, 8)
            found.append(region("named variables", variable.address_, size))
    return found
