# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The member that all others disagree with
----------------------------------------

A wrong order of a cache makes the number of objects look wrong, and the room left
over: all of them follow from it, none is damaged. So where the members contradict
each other, each that others follow from is put right by what they say. If that
leaves nothing wrong, it alone was.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterable, Iterator, NamedTuple, Optional, TypeVar

from ..codes import SIZE, Measure
from ..ledger import Suspect
from .members import SlabMembers, SlubMembers, judge_slab, judge_slub

Members = TypeVar("Members", SlabMembers, SlubMembers)


class Guess(NamedTuple):
    """What a member may have been."""

    field: str
    """Of the members here."""
    value: int
    member: str
    """As the kernel spells it."""
    exact: bool = True
    """Whether what follows from it tells which number it was."""
    measure: Optional[Measure] = SIZE


def judge_slab_members(cache: SlabMembers) -> Iterator[Suspect]:
    """
    Yield the one member of a cache of SLAB that makes others look wrong, and what looks wrong.

    >>> sound = SlabMembers(4096, 0, 128, 120, 0, 31, 1, 64, 31, 1, True, slabs_order=0)
    >>> next(judge_slab_members(sound._replace(order=3))).message
    'gfporder is 3, and with 0 all that follows from it is right'
    """
    yield from _put_right(cache, _contradictions_of_slab, _guesses_of_slab(cache))
    yield from judge_slab(cache)


def judge_slub_members(cache: SlubMembers) -> Iterator[Suspect]:
    """Yield the same of a cache of SLUB."""
    yield from _put_right(cache, _contradictions_of_slub, _guesses_of_slub(cache))
    yield from judge_slub(cache)


def _contradictions_of_slab(cache: SlabMembers) -> Iterator[Optional[str]]:
    # The members at fault, by their own words.
    yield from (one.member for one in judge_slab(cache))
    if cache.slabs_order not in (None, cache.order):
        yield None


def _guesses_of_slab(cache: SlabMembers) -> Iterator[Guess]:
    if cache.slabs_order is not None:
        yield Guess("order", cache.slabs_order, "gfporder", measure=None)


def _contradictions_of_slub(cache: SlubMembers) -> Iterator[Optional[str]]:
    yield from (one.member for one in judge_slub(cache))
    # An alias may have made the objects larger since.
    if cache.in_middle and cache.offset > cache.object_size // 2 // cache.word * cache.word:
        yield None


def _guesses_of_slub(cache: SlubMembers) -> Iterator[Guess]:
    # The first that fits is the largest.
    for less in range(2 * cache.word):
        yield Guess("object_size", max(cache.inuse - less, 1), "object_size", exact=False)
    for more in (0, cache.word):
        usual = -(-cache.object_size // cache.word) * cache.word + more
        yield Guess("inuse", usual, "inuse")


def _replaced(cache: Members, guess: Guess) -> Members:
    changed: Any = {guess.field: guess.value}
    return cache._replace(**changed)


def _put_right(
    cache: Members,
    contradictions: Callable[[Members], Iterable[Optional[str]]],
    guesses: Iterable[Guess],
) -> Iterator[Suspect]:
    wrong = list(contradictions(cache))
    right: Dict[str, Guess] = {}
    for guess in guesses if wrong else ():
        if guess.field not in right and guess.value != getattr(cache, guess.field):
            changed = _replaced(cache, guess)
            if not any(True for _ in contradictions(changed)):
                right[guess.field] = guess
    # Where it is told by its own rule, that says it best.
    if len(right) != 1 or set(wrong) == {guess.member for guess in right.values()}:
        return
    (guess,) = right.values()
    kept = int(getattr(cache, guess.field))
    fits = f"{'' if guess.exact else 'about '}{guess.value}"
    yield Suspect(
        "cache-wrong",
        f"{guess.member} is {kept}, and with {fits} all that follows from it is right",
        expected=guess.value if guess.exact else None,
        found=kept,
        member=guess.member,
        measure=guess.measure,
    )
