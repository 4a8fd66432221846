# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the objects of a cache are
-------------------------------

Many kinds of object share a kmalloc cache, and nothing records which. Most hold
pointers to the functions and variables that they belong to among their first
words: objects with the same ones are of one kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Optional, Tuple

import numpy as np
from drgn import Program

from ..arguments import CacheLike, at_least
from ..ledger import U64, Bools
from ..machine import Machine, has_contents, machine
from ..machine.symbols import CodeNames
from ..records import Listing, Record
from ..shapes import Address, Bytes
from .lookup import lookup
from .missing import missing_of_cache, missing_of_machine
from .objects import is_damaged
from .states import ObjectState, object_states

_WORDS = 8  # that are looked at, if nothing else is said


@dataclass(frozen=True)
class Word(Record):
    """A pointer to code or to a variable of the kernel."""

    offset: int
    """In the object, in bytes."""
    symbol: str
    """Symbol and offset."""


@dataclass(frozen=True)
class Kind(Record):
    """Objects that hold the same pointers in the same places."""

    count: int
    """How many objects."""
    bytes: Bytes
    """Of all of them, as large as their users asked for."""
    words: Tuple[Word, ...]
    """None for all the objects that hold none."""
    example: Address
    """One of them."""


@dataclass
class KindsAnswer(Listing):
    """Objects in use of one cache by what they hold, the most frequent first."""

    LISTED = "kinds"

    cache: str
    """Name of the slab cache."""
    objects: int
    """Objects in use."""
    unreadable: int
    """Of which the contents are not in the target."""
    found: int = 0
    """Kinds, also those that are not told."""
    kinds: List[Kind] = field(default_factory=list)
    """As many as were asked for."""
    unavailable: Tuple[str, ...] = ()
    """What is missing because it is not in the target, or cannot be reached."""
    contradicted: int = 0
    """Objects about which the structures contradict each other; they are of no kind."""
    damaged: bool = False
    """Whether there is a finding about the cache; never of a target that moves."""


def kinds(
    prog: Program,
    cache: CacheLike,
    words: int = _WORDS,
    *,
    most: Optional[int] = None,
) -> KindsAnswer:
    """
    Return the objects in use of a cache by the symbols that their first words lead to.

    >>> answer = kinds(prog, "kmalloc-64")
    >>> answer.objects, answer.unreadable
    (653, 653)
    >>> for kind in answer[:3]:
    ...     print(kind.count, [word.symbol for word in kind.words])

    :param cache: Its name, that of a cache merged into it, or ``struct kmem_cache *``.
    :param words: How many words of each object to look at.
    :param most: Tell no more than so many kinds.
    :raises ArgumentError: if there is no such cache, or a number is too small.
    """
    at_least("words", words, 1)
    at_least("most", most)
    kernel = machine(prog)
    reading = lookup(kernel)
    number = reading.number(cache)
    ledger = reading.whole.allocator.collect(number, reading.whole.index)
    objects = object_states(ledger)
    chosen = objects.address[objects.state == ObjectState.IN_USE]
    width = kernel.memory.word_size
    length = min(words, ledger.facts.object_size // width)
    gathered = kernel.memory.gather(chosen, length * width)
    there = gathered.ok & has_contents(kernel)
    held = np.ascontiguousarray(gathered.bytes[there]).view(kernel.memory.word)
    held = held.astype(np.uint64).reshape(-1, length)
    pointers = np.where(_has_name(kernel, held), held, np.uint64(0))
    found, first, counts = np.unique(pointers, axis=0, return_index=True, return_counts=True)
    names = kernel.fact(CodeNames)
    addresses = chosen[there]
    answer = KindsAnswer(ledger.facts.name, len(chosen), int(np.count_nonzero(~there)))
    for row, at, count in zip(found.tolist(), first.tolist(), counts.tolist()):
        told = tuple(Word(n * width, names[word]) for n, word in enumerate(row) if word)
        size = count * ledger.facts.object_size
        answer.kinds.append(Kind(count, size, told, int(addresses[at])))
    answer.contradicted = int(np.count_nonzero(objects.state == ObjectState.UNKNOWN))
    answer.damaged = is_damaged(reading, number)
    answer.kinds.sort(key=lambda kind: -kind.count)
    answer.found = len(answer.kinds)
    answer.unavailable = (
        *missing_of_machine(reading.whole),
        *missing_of_cache(reading.whole, number, ledger),
    )
    if most is not None:
        del answer.kinds[most:]
    return answer


def _has_name(kernel: Machine, held: U64) -> Bools:
    # Which words lead into code or a variable of the kernel or a module.
    names = kernel.fact(CodeNames)
    unique, back = np.unique(held, return_inverse=True)
    low, high = names.reach
    named = (unique >= low) & (unique < high)
    named[named] = [names.within(word) for word in unique[named].tolist()]
    return named[back.reshape(held.shape)]
