# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to sheaves and barns (since Linux 6.18)."""

from __future__ import annotations

from typing import Any, Callable, Iterator

from drgn import offsetof

from .. import both
from ..changes import GARBAGE, Spot, add, enter, entry, put, unlink
from ..language import NOW, WAS, Root
from ..things import Beside
from ..victims import PARTIAL, beside_a_cache, container, first, picks, quiet
from .machine import Machine
from .suite import SHEAF, SUITE, TWICE, recipe
from .things import Sheaf

_CLAIMS = TWICE | {"claim-foreign", "claim-live"}


def _some(place: str) -> Any:
    return container(place, 3, lambda sheaf: len(sheaf.entries) <= sheaf.limit)


# Entries.

_FOREIGN = both.on_container("claim-foreign", object=NOW)
_NAMES = {
    "null": "sheaf-entry-null",
    "garbage": "sheaf-entry-garbage",
    "user": "sheaf-entry-in-page-of-user",
    "misaligned": "sheaf-entry-misaligned",
    "another": "sheaf-entry-of-another-cache",
    "twice": "sheaf-entry-twice",
}
both.entries(SUITE, _NAMES, SHEAF, _FOREIGN)
for _name, _place in (("spare-sheaf", "spare sheaf"), ("rcu-sheaf", "rcu_free sheaf")):
    recipe(f"{_name}-entry-garbage", _some(_place), put(entry(1), GARBAGE), _FOREIGN)
_IN_BARN = _FOREIGN.but(node=None)
recipe("full-barn-entry-garbage", _some("full barn"), put(entry(1), GARBAGE), _IN_BARN)

# Entries that are free elsewhere, too: the object is the victim, the sheaf beside it.


def _main_sheaves(machine: Machine) -> Iterator[Sheaf]:
    for sheaf in machine.sheaves:
        if sheaf.place == "main sheaf" and len(sheaf.entries) > 2:
            yield sheaf


def _from(place: str) -> Callable[[Machine], Iterator[Beside]]:
    def candidates(machine: Machine) -> Iterator[Beside]:
        for sheaf in _main_sheaves(machine):
            for other in machine.sheaves:
                same = other.cache is sheaf.cache and other.place == place
                elsewhere = other.owner != sheaf.owner or other.place != sheaf.place
                if same and elsewhere and len(other.entries) > 1:
                    yield Beside(machine.item(other.entries[1]), sheaf)

    return candidates


def _from_slabs(machine: Machine) -> Iterator[Beside]:
    for sheaf in _main_sheaves(machine):
        for slab in filter(quiet, machine.slabs_of(sheaf.cache)):
            yield Beside(machine.item(slab.free[1]), sheaf)


for _name, _candidates in (
    ("sheaf-entry-also-on-another-cpu", _from("main sheaf")),
    ("sheaf-entry-also-in-spare-sheaf", _from("spare sheaf")),
    ("sheaf-entry-also-in-barn", _from("full barn")),
    ("sheaf-entry-also-waiting", _from("rcu_free sheaf")),  # by kfree() and by kfree_rcu()
    ("sheaf-entry-also-on-slab-freelist", _from_slabs),
):
    _victim = first("sheaf beside other free objects of its cache", _candidates)
    recipe(_name, _victim, enter(1), Root("claim-twice"))

# Sizes.

_LIMIT = both.on_container("container-limit", found=NOW, also=_CLAIMS)
recipe(
    "sheaf-size-over-capacity",
    SHEAF,
    put("size", lambda sheaf: sheaf.limit + 1),
    _LIMIT.but(expected=lambda sheaf: sheaf.limit, others=frozenset("*")),
)
recipe("sheaf-size-below-zero", SHEAF, put("size", 0xFFFFFFFF), _LIMIT.but(found=-1))


def _behind(sheaf: Sheaf) -> int:
    # The entry behind the last, an old one.
    return sheaf.entry(len(sheaf.entries)).number


@picks("sheaf with a stale entry that is free elsewhere")
def _stale(machine: Machine) -> Iterator[Beside]:
    free = {object for slab in machine.slabs.values() for object in slab.free}
    for sheaf in machine.sheaves:
        if sheaf.per_cpu and 1 < len(sheaf.entries) < sheaf.limit:
            stale = _behind(sheaf)
            if machine.home(stale) and (stale in machine.parked or stale in free):
                yield Beside(machine.item(stale), sheaf)


@picks("sheaf that was never filled")
def _never_filled(machine: Machine) -> Iterator[Sheaf]:
    for sheaf in machine.sheaves:
        room = sheaf.place == "main sheaf" and 1 < len(sheaf.entries) < sheaf.limit
        if room and not _behind(sheaf):
            yield sheaf


# The object of the entry behind the last is in another place by now.
recipe("sheaf-size-one-too-high", _stale, add("other.size", 1), Root("claim-twice"))
recipe(
    "sheaf-size-one-too-high-null-behind",
    _never_filled,
    add("size", 1),
    both.on_container("claim-foreign", object=0, astray=True),
)

# What a sheaf says of itself, and what leads to it.

_STATE = both.on_container("container-state", others=frozenset("*"))


_TEXT = int.from_bytes(b"GET /ind", "little")


def _holder(sheaf: Any) -> Spot:
    spot: Spot = sheaf.holder
    return spot


_TWO_CACHES = beside_a_cache(SHEAF, lambda cache, sheaf: True)
recipe("sheaf-of-another-cache", _TWO_CACHES, put("cache", lambda v: v.other.address), _STATE)
recipe("sheaf-cache-null", SHEAF, put("cache", 0), _STATE)
# It is on no list: text is neither an old link nor what an empty one has there.
recipe("sheaf-links-text", SHEAF, put("barn_list.prev", _TEXT), _STATE.but(found=NOW))
recipe("main-sheaf-null", SHEAF, put(_holder, 0), _STATE)
recipe("main-sheaf-garbage", SHEAF, put(_holder, GARBAGE), _STATE)
recipe("spare-sheaf-garbage", _some("spare sheaf"), put(_holder, GARBAGE), _STATE)
# The pointer leads to an object that is free.
_FREED, _LIVED_IN = put(_holder, lambda v: PARTIAL(v.machine).free[1]), frozenset({"claim-live"})
recipe("main-sheaf-freed", SHEAF, _FREED, _STATE.but(also=_LIVED_IN))


def _spare(sheaf: Any) -> Spot:
    # The pointer to the spare sheaf, behind that to the main one.
    return Spot(sheaf.machine.prog, sheaf.holder.address + 8)


@picks("CPU without a spare sheaf")
def _alone(machine: Machine) -> Iterator[Any]:
    # Main sheaves of CPUs without a spare one.
    main = container("main sheaf", 1, lambda sheaf: not _spare(sheaf).number)
    some = SHEAF(machine)
    yield some if not _spare(some).number else main(machine)


recipe(
    "spare-sheaf-is-main-sheaf",
    _alone,
    put(_spare, lambda sheaf: sheaf.address),
    Root("container-state", place=lambda sheaf: f"spare sheaf of CPU {sheaf.owner}", also=TWICE),
)
recipe(
    "main-sheaf-of-two-cpus",
    first(
        "two CPUs with sheaves of a cache",
        lambda machine: (
            Beside(other, sheaf)
            for sheaf in machine.sheaves
            for other in machine.sheaves
            if sheaf.cache is other.cache and sheaf.owner < other.owner and sheaf.entries
            if sheaf.place == other.place == "main sheaf"
        ),
    ),
    put(_holder, lambda v: v.other.address),
    _STATE.but(also=TWICE),
)

# Barns.


def _barn(kind: str, least: int = 1) -> Any:
    # A sheaf in a barn that has so many of a kind.
    def candidates(machine: Machine) -> Iterator[Sheaf]:
        some = [sheaf for sheaf in machine.sheaves if sheaf.place == f"{kind} barn"]
        for sheaf in some:
            same = [s for s in some if s.cache is sheaf.cache and s.owner == sheaf.owner]
            if len(same) >= least:
                yield sheaf

    return first(f"barn with {least} {kind} sheaves", candidates)


def _counter(sheaf: Any) -> Spot:
    machine, member = sheaf.machine, f"nr_{sheaf.place.split()[0]}"
    at = offsetof(machine.prog.type("struct node_barn"), member)
    return Spot(machine.prog, sheaf.cache.barns[sheaf.owner] + at, 4)


_FULL, _EMPTY, _TWO_FULL = _barn("full"), _barn("empty"), _barn("full", 2)
_COUNT = both.on_container("container-count", expected=WAS, found=NOW)
_BROKEN = both.on_container("list-broken")
recipe("barn-counts-too-many-full", _FULL, add(_counter, 1), _COUNT)
recipe("barn-counts-too-few-full", _FULL, add(_counter, -1), _COUNT)
recipe("barn-counts-too-many-empty", _EMPTY, add(_counter, 1), _COUNT)
recipe("barn-list-next-garbage", _FULL, put("barn_list.next", GARBAGE), _BROKEN.but(found=NOW))
recipe("barn-list-prev-null", _EMPTY, put("barn_list.prev", 0), _BROKEN.but(found=NOW))
_ITSELF = put("barn_list.next", lambda sheaf: sheaf.link)
recipe("barn-list-cycle", _TWO_FULL, _ITSELF, _BROKEN)
_TEXT_OVER = put("barn_list.next", _TEXT) + put("barn_list.prev", _TEXT)
recipe("barn-list-text-over-links", _TWO_FULL, _TEXT_OVER, _BROKEN.but(found=NOW))
recipe("barn-forgot-a-sheaf", _TWO_FULL, unlink(), both.on_container("container-count"))
recipe("empty-sheaf-is-not-empty", _EMPTY, put("size", 1), _STATE.but(also=_CLAIMS))
recipe("full-sheaf-is-empty", _FULL, put("size", 0), _STATE)
