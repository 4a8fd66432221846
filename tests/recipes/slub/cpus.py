# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to CPU slabs and to the chains of slabs that CPUs keep (to Linux 6.19)."""

from __future__ import annotations

from typing import Any, Callable, Iterator

from ..changes import GARBAGE, Spot, add, put
from ..language import NO_SLAB, NOW, WAS, Root
from ..things import Beside
from ..victims import PARTIAL, beside, container, first, picks, quiet
from .machine import Machine
from .suite import NODE, TWICE, recipe

_LOST = NODE | {"slab-in-transit", "list-missing"}
_IN_BOTH = 2  # that can be in both while a CPU gives its slab back (to Linux 5.14)
_CPU = container("cpu freelist", 3, lambda found: found.slab.counted > 3)


def _pointer(position: int) -> Callable[[Any], Spot]:
    # Of an object on the CPU's own freelist.
    return lambda cpu: cpu.cache.pointer(cpu.entries[position])


_BAD_POINTER = Root("freelist-pointer", place="cpu freelist", found=NOW)
_CYCLE = _BAD_POINTER.but(code="freelist-cycle")
_OTHER_SLAB = beside(
    _CPU,
    "second slab of a cache",
    lambda other, cpu: other.cache is cpu.cache and other is not cpu.slab,
)
_MISALIGNED = put("freelist", lambda cpu: cpu.entries[0] + 4)
recipe("cpu-freelist-garbage", _CPU, put("freelist", GARBAGE), _BAD_POINTER)
recipe("cpu-freelist-misaligned", _CPU, _MISALIGNED, _BAD_POINTER)
_INTO_OTHER = put("freelist", lambda v: v.other.first)
recipe("cpu-freelist-in-other-slab", _OTHER_SLAB, _INTO_OTHER, _BAD_POINTER)
recipe("cpu-freelist-next-garbage", _CPU, put(_pointer(1), GARBAGE), _BAD_POINTER)
recipe("cpu-freelist-cycle", _CPU, put(_pointer(-1), lambda cpu: cpu.entries[0]), _CYCLE)


@picks("CPU slab with free objects")
def _freed_elsewhere(machine: Machine) -> Iterator[Any]:
    for found in machine.cpu_slabs:
        if _IN_BOTH < len(found.entries) < found.slab.counted and not found.slab.free:
            yield Beside(found.slab, found.entries[-1])


# An object freed twice: to its CPU, and from another one to the slab.
recipe(
    "cpu-object-also-on-slab-freelist",
    _freed_elsewhere,
    put("freelist", lambda v: v.other) + add("inuse", -1),
    Root("claim-twice", object=lambda v: v.other),
)
recipe(
    "cpu-freelist-leads-into-slab-freelist",
    first(
        "CPU slab with objects freed by other CPUs",
        lambda m: (f for f in m.cpu_slabs if len(f.entries) > _IN_BOTH and f.slab.free),
    ),
    put(_pointer(-1), lambda cpu: cpu.slab.free[0]),
    Root("claim-twice", cpu=None, also=TWICE),
)
# Few enough to be in both for a moment, were it not for the slab's count.
recipe(
    "object-of-slab-freelist-freed-to-cpu",
    first(
        "CPU slab with one object, and others freed by other CPUs",
        lambda m: (f for f in m.cpu_slabs if len(f.entries) == 1 and f.slab.free),
    ),
    put(lambda f: f.cache.pointer(f.slab.free[-1]), lambda f: f.entries[0])
    + put("freelist", lambda f: f.slab.free[-1]),
    Root("claim-twice", cpu=None, also=TWICE | {"count-mismatch"}),
)

# The pointer to the slab.

_STATE = Root("container-state", **NO_SLAB, place="cpu slab", also=_LOST)
# The slab is gone and its freelist is not, as for a moment when a slab is given back.
recipe(
    "cpu-slab-forgotten",
    _CPU,
    put("slab", 0),
    _STATE.but(found=lambda cpu: cpu.entries[0], changing=True),
)
recipe("cpu-slab-garbage", _CPU, put("slab", GARBAGE), _STATE.but(found=NOW))


def _with_idle(machine: Machine) -> Iterator[Any]:
    # CPU slabs, each with a CPU that has none of that cache.
    for found in machine.cpu_slabs:
        for idle in machine.idle(found.cache):
            yield Beside(found, idle)


recipe(
    "cpu-slab-also-on-partial-list",
    first(
        "CPU without a slab of a cache with a partial list",
        lambda machine: (
            Beside(slab, idle)
            for slab in filter(quiet, machine.all_slabs())
            if not slab.cache.debug
            for idle in machine.idle(slab.cache)
        ),
    ),
    put("other.slab", lambda v: v.page),
    Root("list-twice", also=NODE),
)
recipe(
    "cpu-slab-of-two-cpus",
    first("CPU slabs", _with_idle),
    put("other.slab", lambda v: v.slab.page),
    Root("list-twice", cpu=None, also=TWICE),
)
recipe(
    "cpu-slab-and-freelist-of-two-cpus",
    first("CPU slabs", lambda m: (found for found in _with_idle(m) if found.entries)),
    put("other.slab", lambda v: v.slab.page) + put("other.freelist", lambda v: v.entries[0]),
    Root("claim-twice", cpu=None, also=TWICE | {"list-twice"}),
)


@picks("CPU slabs")
def _elsewhere(machine: Machine) -> Iterator[Any]:
    # A CPU without a slab of a cache, and a slab of other objects.
    slab = PARTIAL(machine)
    for cache in machine.caches:
        if cache.size != slab.cache.size and not cache.debug:
            for idle in machine.idle(cache):
                yield Beside(idle, slab)


recipe(
    "cpu-slab-of-another-cache",
    _elsewhere,
    put("slab", lambda v: v.other.page),
    Root("list-wrong", slab=lambda v: v.other.page, place="cpu slab"),
)

# Chains of partial slabs.


def _next(position: int) -> Callable[[Any], Spot]:
    # The link of a slab of the chain.
    return lambda chain: chain.entries[position].spot("next")


def _on(position: int, code: str, **says: Any) -> Root:
    # A root that names a slab of the chain.
    return Root(
        code,
        slab=lambda chain: chain.entries[position].page,
        node=lambda chain: chain.entries[position].nid,
        **says,
    )


def _count(chain: Any) -> Spot:
    before_5_17 = chain.machine.descriptor == "struct page"
    spot: Spot = chain.entries[0].spot("pages" if before_5_17 else "slabs")
    return spot


_TWO, _THREE = container("cpu partial", 2), container("cpu partial", 3)
_COUNT = _on(0, "container-count", expected=WAS, found=NOW)
_FIRST = put(_next(-1), lambda chain: chain.entries[0].page)
recipe(
    "cpu-partial-next-garbage",
    _THREE,
    put(_next(1), GARBAGE),
    # Before Linux 6.2, it is what makes any other page a tail.
    _on(1, "list-broken", found=NOW, also=_LOST | {"page-tail-head"}),
)
recipe("cpu-partial-cycle", _THREE, _FIRST, _on(-1, "list-broken", found=NOW, also=_LOST))
recipe(
    "cpu-partial-head-garbage",
    _TWO,
    put("partial", GARBAGE),
    Root("list-broken", found=NOW, also=_LOST),
)
# The count in the slab before the cut tells that more should follow.
recipe(
    "cpu-partial-cut",
    _THREE,
    put(_next(1), 0),
    _COUNT.but(expected=2, found=lambda chain: len(chain.entries), also=_LOST),
)
recipe("cpu-partial-counts-too-many", _TWO, add(_count, 1), _COUNT)
recipe("cpu-partial-counts-too-few", _TWO, add(_count, -1), _COUNT)


@picks("slab of another cache")
def _beyond(machine: Machine) -> Iterator[Any]:
    # A chain, and full slabs of other objects.
    chain = _TWO(machine)
    for slab in machine.slabs.values():
        full = slab.where == "nowhere" and slab.counted == slab.objects
        if full and slab.cache.size != chain.cache.size:
            yield Beside(chain, slab)


for _name, _victim in (
    (
        "cpu-partial-leads-to-partial-list",
        first(
            "CPU that keeps slabs of a cache with a partial list",
            lambda machine: (
                Beside(chain, slab)
                for chain in machine.chains
                for slab in machine.slabs_of(chain.cache)
                if slab.quiet
            ),
        ),
    ),
    ("cpu-partial-leads-to-another-cache", _beyond),
):
    recipe(
        _name, _victim, put(_next(-1), lambda v: v.other.page), _on(-1, "list-broken", found=NOW)
    )
