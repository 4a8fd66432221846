# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words on which much hangs, each with values that are hostile just there."""

from __future__ import annotations

import random
from typing import Dict, Iterator, List, Literal, NamedTuple, Tuple

from drgn import FaultError, PlatformFlags, Program

from drgn_slabtype.capture import roots
from drgn_slabtype.capture.declare import declared_regions
from drgn_slabtype.capture.describe import find_variables
from drgn_slabtype.machine import Machine, machine
from drgn_slabtype.machine.percpu import per_cpu_region
from drgn_slabtype.regions import Region, object_region

from ..recipes.overlay import Write

_WORD = 8
_WORDS = 12  # of one variable
_OTHERS = 40  # of structures of one kind
_KINDS = (
    "sections",
    "section roots",
    "nodes",
    "KFENCE",
    "quarantine",
    "page tables",
    "stack traces",
)
_PAGE = 4096


class Word(NamedTuple):
    """A word, and what it is in."""

    name: str
    address: int


def root_words(prog: Program, seed: int = 1) -> List[Word]:
    """
    Return the words of variables, and some of what describes the machine.

    :param prog: A capture, undamaged.
    """
    of = machine(prog)
    regions, _ = declared_regions(of)
    found: Dict[int, str] = {}
    for name, one in _variables(of):
        for start, size in zip(one.addresses.tolist()[:2], one.sizes.tolist()):
            for at in range(start // _WORD * _WORD, start + min(size, _WORDS * _WORD), _WORD):
                found.setdefault(at, name)
    chance = random.Random(seed)
    for kind in _KINDS:
        some = [one for one in regions if one.what == kind and not one.masked]
        for _ in range(_OTHERS if some else 0):
            one = chance.choice(some)
            row = chance.randrange(len(one.addresses))
            start, size = int(one.addresses[row]), int(one.sizes[row])
            # What comes first in a structure decides about the rest of it.
            size = min(size, chance.choice((16, 64, 1 << 30)))
            found.setdefault((start + chance.randrange(max(size, 1))) // _WORD * _WORD, kind)
    return [Word(name, at) for at, name in found.items() if _is_there(prog, at)]


def _variables(of: Machine) -> Iterator[Tuple[str, Region]]:
    for name, variable in find_variables(of, roots.VARIABLES):
        yield name, object_region(name, variable)
    for name, variable in find_variables(of, roots.PER_CPU_VARIABLES):
        yield name, per_cpu_region(of, name, variable.address_of_())


def _is_there(prog: Program, address: int) -> bool:
    try:
        prog.read(address, _WORD)
    except FaultError:
        return False
    return True


def hostile(prog: Program, words: List[Word], chance: random.Random) -> Write:
    """Return a write to one of some words: a wrong address, a cycle, a size beyond all memory."""
    address = chance.choice(words).address
    order: Literal["little", "big"] = (
        "little" if prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else "big"
    )
    first = int(prog["slab_caches"].next.value_())
    old = int.from_bytes(prog.read(address, _WORD), order)
    value = chance.choice(
        (
            0,
            1,
            (1 << 64) - 1,
            1 << 60,
            1 << 24,
            int(prog.symbol("_stext").address),
            address,
            first,
            first // _PAGE * _PAGE,
            (1 << 64) - _PAGE,
            old ^ 1,
            old ^ 1 << 40,
            (old + _PAGE) % (1 << 64),
            (old | 0xFFFF << 32) % (1 << 64),
        )
    )
    return Write(address, value.to_bytes(_WORD, order))
