# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pieces of memory
----------------

Many of one width, of which neighbours are read together, or a stretch of memory
piece by piece. A read that fails is split until what fails is one piece, or a page.
"""

from __future__ import annotations

from typing import Callable, Iterator, List, Tuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.intp]
Read = Callable[[int, int], bytes]
"""Reads so many bytes at an address."""
Keep = Callable[[bytes, Rows, Rows], None]
"""Takes what it wants of bytes, told where in them pieces begin and which rows these are."""

_RUN_BYTES = 1 << 20  # longest single read; larger ones only cost page faults of our own
GAP_BYTES = 4096
"""Cheaper to read over a gap of this size than to start a new read."""
FILE_GAP_BYTES = 32768
"""The same in a file from which pages are copied as they are, and which lacks none."""


def read_blocks(
    read: Read, start: int, end: int, step: int, page_size: int
) -> Iterator[Tuple[int, U8]]:
    """
    Read [*start*, *end*) in pieces of at most *step* bytes, without the pages that cannot be read.

    :return: Iterator of (address, bytes).
    """
    for address in range(start, end, step):
        size = min(step, end - address)
        try:
            data = np.frombuffer(read(address, size), np.uint8)
        except FaultError:
            yield from _readable(read, address, address + size, page_size)
        else:
            yield address, data
            del data


def _readable(read: Read, start: int, end: int, page_size: int) -> Iterator[Tuple[int, U8]]:
    # What can be read of a piece: pages that follow each other, together.
    run: List[bytes] = []
    first = address = start
    while address < end:
        after = min((address // page_size + 1) * page_size, end)
        try:
            run.append(read(address, after - address))
        except FaultError:
            if run:
                yield first, np.frombuffer(b"".join(run), np.uint8)
            run, first = [], after
        address = after
    if run:
        yield first, np.frombuffer(b"".join(run), np.uint8)


def read_pieces(
    read: Read, ordered: U64, last: U64, rows: Rows, keep: Keep, gap: int = GAP_BYTES
) -> Iterator[Rows]:
    """
    Read pieces of memory, and yield the rows of those that cannot be read.

    :param ordered: Where each piece begins, in ascending order.
    :param last: Its last byte.
    :param rows: The row of each.
    :param gap: Bytes between two of them that are read with them.
    """
    if not len(ordered):
        return
    bounds = _bounds(ordered, last, gap)
    starts = ordered[bounds[:-1]]
    offsets = (ordered - np.repeat(starts, bounds[1:] - bounds[:-1])).astype(np.intp)
    behind = (np.maximum.reduceat(last, bounds[:-1]) - starts).tolist()
    edges = bounds.tolist()
    for low, high, start, size in zip(edges, edges[1:], starts.tolist(), behind):
        try:
            data = read(start, size + 1)
        except (FaultError, OverflowError):
            yield from _halves(read, ordered[low:high], last[low:high], rows[low:high], keep)
        else:
            keep(data, offsets[low:high], rows[low:high])


def cut(data: bytes, offsets: Rows, width: int) -> U8:
    """
    Return the pieces of one width that begin at some offsets.

    :return: Shape (n, width), or (1, width) where all are the same one.
    """
    if len(data) == width:
        return np.frombuffer(data, np.uint8)[None, :]
    # As sliding_window_view() has it, which takes longer than the read.
    pieces: U8 = np.ndarray((len(data) - width + 1, width), np.uint8, data, strides=(1, 1))
    return pieces[offsets]


def _halves(read: Read, ordered: U64, last: U64, rows: Rows, keep: Keep) -> Iterator[Rows]:
    # A run that cannot be read as a whole.
    if len(ordered) == 1:
        yield rows
        return
    middle = len(ordered) // 2
    for half in (slice(middle), slice(middle, None)):
        some = ordered[half]
        start = int(some[0])
        try:
            data = read(start, int(last[half].max()) - start + 1)
        except (FaultError, OverflowError):
            yield from _halves(read, some, last[half], rows[half], keep)
        else:
            keep(data, (some - some[0]).astype(np.intp), rows[half])


def _bounds(ordered: U64, last: U64, gap: int) -> Rows:
    # Where sorted addresses are split: where a gap is too wide or a run too long.
    if len(ordered) == 1:
        return np.array([0, 1], np.intp)
    after, reach = ordered[1:], np.maximum.accumulate(last)[:-1]
    gaps = (after > reach) & (after - reach > np.uint64(gap + 1))
    if not gaps.any() and ordered[-1] - ordered[0] < _RUN_BYTES:
        return np.array([0, len(ordered)], np.intp)
    edges = np.concatenate([[0], np.flatnonzero(gaps) + 1])
    # Long runs are cut at multiples of the longest one from where they begin.
    begin = np.repeat(ordered[edges], np.diff(edges, append=len(ordered)))
    chunk = (ordered - begin) // np.uint64(_RUN_BYTES)
    cuts = np.flatnonzero(gaps | (np.diff(chunk) != 0)) + 1
    return np.concatenate([[0], cuts, [len(ordered)]]).astype(np.intp)
