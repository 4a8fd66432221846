# SPDX-License-Identifier: LGPL-2.1-or-later

"""
``python -m lab.victims SOCKET VMLINUX SEED COUNT RECIPE…``: what to damage in a stopped guest.

Picks victims for recipes of ``tests/recipes/``, each in a cache of its own, and
writes as JSON which bytes of physical memory to overwrite, and what must be found.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

from drgn import Program
from drgn.helpers.linux.mm import follow_phys

from tests.recipes.language import Injury, NoVictim
from tests.recipes.library import TargetOptions, open_target
from tests.recipes.overlay import Write
from tests.recipes.suites import suite_of

_PAGE = 4096
_BUSY_SLABS = 6
_MOST_TRIES = 12


def _shuffled(machine: Any, chance: random.Random) -> None:
    # Recipes take what comes first: busy caches, in another order each time.
    slabs: Dict[int, int] = {}
    for slab in machine.slabs.values():
        slabs[slab.cache.address] = slabs.get(slab.cache.address, 0) + 1

    def rank(cache: Any) -> Tuple[bool, float]:
        return slabs.get(cache.address, 0) < _BUSY_SLABS, chance.random()

    machine.caches.sort(key=rank)
    order = {cache.address: at for at, cache in enumerate(machine.caches)}
    pages = list(machine.slabs)
    chance.shuffle(pages)
    pages.sort(key=lambda page: order[machine.slabs[page].cache.address])
    machine.slabs = {page: machine.slabs[page] for page in pages}
    machine.containers.sort(key=lambda one: order[one.cache.address])


def _pick(prog: Program, names: Sequence[str], count: int, seed: str) -> Iterator[Dict[str, Any]]:
    chance = random.Random(seed)
    suite = suite_of(prog)
    machine = suite.open(prog)
    taken: set[str] = set()
    told = 0
    for name in names:
        if told >= count:
            return
        for _ in range(_MOST_TRIES):
            _shuffled(machine, chance)
            try:
                injury = suite.recipes[name](machine)
            except (NoVictim, LookupError):
                break
            # One damage must not hide another.
            if injury.cache and injury.cache not in taken and "*" not in injury.others:
                taken |= {injury.cache, *injury.others}
                told += 1
                yield _record(prog, name, injury)
                break


def _record(prog: Program, name: str, injury: Injury) -> Dict[str, Any]:
    return {
        "name": name,
        "code": injury.code,
        "cache": injury.cache,
        "others": sorted(injury.others),
        "slab": injury.slab,
        "writes": [[physical, data.hex()] for physical, data in _physical(prog, injury.writes)],
    }


def _physical(prog: Program, writes: Iterable[Write]) -> Iterator[Tuple[int, bytes]]:
    for write in writes:
        at = 0
        while at < len(write.data):
            address = write.address + at
            step = min(len(write.data) - at, _PAGE - address % _PAGE)
            physical = int(follow_phys(prog["init_mm"].address_of_(), address))
            yield physical, bytes(write.data[at : at + step])
            at += step


def main(arguments: List[str]) -> int:
    """Write what to damage to the standard output."""
    socket, vmlinux, seed, count, *names = arguments
    prog = open_target(TargetOptions(qemu=socket, symbols=[vmlinux], default_symbols=False))
    json.dump(list(_pick(prog, names, int(count), seed)), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
