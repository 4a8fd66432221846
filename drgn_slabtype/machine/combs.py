# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Words at equal distances
------------------------

Of pieces of memory of any widths, each with words of its own, all of which are read in the
order of memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .memory import I64, U64, Bools, Memory
from .parallel import spread_reads
from .pieces import Rows

_PART = 1 << 18  # words that one process reads before it takes others


class Combs(NamedTuple):
    """Pieces of memory, of each of which some words at equal distances are wanted."""

    address: U64
    """Where each piece begins: a multiple of a word's size."""
    width: U64
    """Its bytes."""
    first: I64
    """Bytes from there to the first word."""
    step: I64
    """Bytes from one word to the next."""
    words: I64
    """How many words, the last of which ends with the piece at the latest."""

    def take(self, which: I64) -> Combs:
        """Return some of them."""
        where = self.address[which], self.width[which]
        return Combs(*where, self.first[which], self.step[which], self.words[which])


class Teeth(NamedTuple):
    """The words of some combs, one comb after the other."""

    words: U64
    """In host byte order; those of a piece that could not be read are zero."""
    begin: I64
    """Where those of each comb begin."""
    ok: Bools
    """Which combs were read."""


def gather_combs(memory: Memory, combs: Combs, jobs: int = 1) -> Teeth:
    """
    Read words of many pieces of memory.

    :param jobs: How many processes read, each some pieces that follow each other.
    """

    def read(part: I64) -> Teeth:
        return _gather(memory, combs.take(part))

    order = np.argsort(combs.address, kind="stable")
    cuts = np.flatnonzero(np.diff(np.cumsum(combs.words[order]) // _PART)) + 1
    parts = np.split(order, cuts)
    words = np.zeros(int(combs.words.sum()), np.uint64)
    begin, ok = np.zeros(len(order), np.int64), np.zeros(len(order), np.bool_)
    end = 0
    for part, teeth in zip(parts, spread_reads(memory, read, parts, jobs)):
        start, end = end, end + len(teeth.words)
        words[start:end] = teeth.words
        begin[part] = teeth.begin + start
        ok[part] = teeth.ok
    return Teeth(words, begin, ok)


def _gather(memory: Memory, combs: Combs) -> Teeth:
    # Of combs in the order of their addresses. What is in no memory takes no room, so that
    # the words of each run are filled in at once.
    number = np.where(memory.reachable(combs.address, combs.width), combs.words, 0)
    ends = np.cumsum(number)
    begin = ends - number
    out = np.zeros(int(number.sum()), np.uint64)
    # How many words from the beginning of its comb each is: from the first on, step by step.
    at = np.arange(len(out))
    at *= np.repeat(combs.step, number)
    at += np.repeat(combs.first - begin * combs.step, number)
    at //= memory.word_size
    # And from that of all memory.
    own = (combs.address // np.uint64(memory.word_size)).astype(np.int64)
    at += np.repeat(own, number)

    def keep(data: bytes, offsets: Rows, rows: Rows) -> None:
        words = np.frombuffer(data, memory.word, len(data) // memory.word_size)
        low, high = begin[rows[0]], ends[rows[-1]]
        start = own[rows[0]] - offsets[0] // memory.word_size
        out[low:high] = words.take(at[low:high] - start)

    ok = memory.each(combs.address, combs.width, keep)
    return Teeth(memory.tags.removed(out) if memory.tags.used else out, begin, ok)
