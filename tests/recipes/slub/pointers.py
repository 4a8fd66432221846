# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to free pointers and to the heads of slabs' freelists."""

from __future__ import annotations

from typing import Any, Callable, Iterator

from ..changes import GARBAGE, Spot, add, put
from ..language import NOW, Root
from ..things import Beside
from ..victims import PARTIAL, beside, beside_another_cache, picks, quiet, slab
from .machine import Machine
from .suite import full_slab, kept, pointer, recipe

_POINTER = Root("freelist-pointer", place="freelist", found=NOW)
_CYCLE = _POINTER.but(code="freelist-cycle")
# Objects behind a cut are on no list.
_MISMATCH = _POINTER.but(code="count-mismatch", found=lambda slab: slab.counted)
_RAW = Root("freelist-pointer", place="freelist")


def _raw(position: int) -> Callable[[Any], Spot]:
    # The word of a free pointer, whatever the kernel stores in it.
    return lambda s: Spot(s.machine.prog, s.free[position] + s.cache.offset)


def _another(slab: Any) -> bool:
    return len(slab.machine.slabs_of(slab.cache)) > 1


_HARDENED = slab("hardened cache", quiet, lambda slab: slab.cache.random is not None)
_TWO = beside(
    slab("partial slab among others", quiet, _another),
    "two slabs of a cache",
    lambda other, slab: other.cache is slab.cache and other.page != slab.page,
)
_TWO_CACHES = beside_another_cache(PARTIAL)

# Something wrote over a free object.
recipe("next-garbage", PARTIAL, put(_raw(1), 0x4141414141414141), _RAW)
# A pointer stored in the clear where the kernel hardens them.
recipe("next-plain", _HARDENED, put(_raw(1), lambda slab: slab.free[2]), _RAW)
# A pointer stored with the address of its word not byte-swapped.
_UNSWAPPED = put(_raw(1), lambda s: s.free[2] ^ s.cache.random ^ s.free[1] + s.cache.offset)
recipe("next-hardened-as-before-5-7", _HARDENED, _UNSWAPPED, _RAW)

for _name, _victim, _position, _to, _root in (
    ("next-garbage-in-cpu-partial", kept(3), 1, GARBAGE, _POINTER),
    ("next-of-last-garbage", PARTIAL, -1, GARBAGE, _POINTER),
    ("next-null", PARTIAL, 1, 0, _MISMATCH),
    ("next-null-in-cpu-partial", kept(3), 1, 0, _MISMATCH),
    ("next-skips-one", PARTIAL, 1, lambda slab: slab.free[3], _MISMATCH),
    ("next-itself", PARTIAL, 1, lambda slab: slab.free[1], _CYCLE),
    ("next-first", PARTIAL, -1, lambda slab: slab.free[0], _CYCLE),
    ("next-misaligned", PARTIAL, 1, lambda slab: slab.free[2] + 4, _POINTER),
    ("next-behind-last-object", PARTIAL, 1, lambda slab: slab.slot(slab.objects), _POINTER),
    ("next-in-other-slab", _TWO, 1, lambda v: v.other.first, _POINTER),
    ("next-in-other-cache", _TWO_CACHES, 1, lambda v: v.other.first, _POINTER),
    ("next-one-bit-flipped", PARTIAL, 1, lambda slab: slab.free[2] ^ 1 << 40, _POINTER),
):
    recipe(_name, _victim, put(pointer(_position), _to), _root)


@picks("object in use beside free ones")
def _dead_ends(machine: Machine) -> Iterator[Beside]:
    # Slabs, and objects in use from which a chain leads nowhere.
    for found in filter(quiet, machine.all_slabs()):
        for item in found.used():
            after = found.cache.pointer(item.address).number
            if after and not found.start <= after < found.start + found.span:
                yield Beside(found, item)


recipe(
    "next-in-use",
    _dead_ends,
    put(pointer(1), lambda v: v.other.address),
    _POINTER.but(found=lambda v: v.cache.pointer(v.other.address).number, astray=True),
)
# A free object is freed again: it is linked in front of what already leads to it.
recipe(
    "freed-twice",
    PARTIAL,
    put(pointer(2), lambda slab: slab.free[0])
    + put("freelist", lambda slab: slab.free[2])
    + add("inuse", -1),
    _CYCLE.but(found=lambda slab: slab.free[2]),
)

# The head.

for _name, _victim, _to, _root in (
    ("head-garbage", PARTIAL, GARBAGE, _POINTER),
    ("head-small", PARTIAL, 0x1000, _POINTER),  # some dumps map it onto physical memory
    ("head-null", PARTIAL, 0, _MISMATCH.but(also=frozenset({"list-wrong"}))),
    ("head-misaligned", PARTIAL, lambda slab: slab.free[0] + 1, _POINTER),
    ("head-skips-one", PARTIAL, lambda slab: slab.free[1], _MISMATCH),
    ("head-in-other-slab", _TWO, lambda v: v.other.first, _POINTER),
    # As the pointers inside objects are stored.
    ("head-encoded", _HARDENED, lambda s: s.cache.code(s.free[0], s.free[0]), _POINTER),
):
    recipe(_name, _victim, put("freelist", _to), _root)


def _in_use(slab: Any) -> bool:
    # Not one that the allocator lives in.
    usable = slab.objects > 4 and not slab.frozen and not slab.cache.name.startswith("kmalloc")
    return bool(usable and len(slab.used()) == slab.objects)


_FULL = full_slab(_in_use)
_ALSO = frozenset({"list-missing", "slab-in-transit", "list-wrong"})
recipe("head-of-full-slab-garbage", _FULL, put("freelist", GARBAGE), _POINTER.but(also=_ALSO))
# A full slab suddenly has something to give.
recipe(
    "head-of-full-slab-in-use",
    _FULL,
    put("freelist", lambda slab: slab.slot(1))
    + put(lambda slab: slab.cache.pointer(slab.slot(1)), 0),
    _MISMATCH.but(also=_ALSO | {"claim-twice"}),
)
