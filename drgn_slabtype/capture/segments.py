# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Segments of a capture
---------------------

Ranges of memory are read in large blocks, masked and laid one behind the other
into a file. Nothing here knows a program.
"""

from __future__ import annotations

from typing import IO, Callable, Iterator, List, Optional, Tuple

import numpy as np
from drgn import FaultError

from ..machine.memory import U8, Bools
from ..regions import Ranges
from .elf import Segment
from .open import Progress

_BLOCK_BYTES = 1 << 20
_WORD_BYTES = 8
_ZERO_RUN_PAGES = 4  # from here on a program header is cheaper than zeros


class SegmentWriter:
    """
    Copies memory into a file, and remembers where it went.

    :param read: Reads bytes at an address; :exc:`drgn.FaultError` if it cannot.
    :param physical: Tells the physical address of an address in the direct map,
        and :data:`~.elf.NO_PHYSICAL_ADDRESS` of any other.
    """

    def __init__(
        self,
        file: IO[bytes],
        read: Callable[[int, int], bytes],
        physical: Callable[[int], int],
        page_size: int,
    ) -> None:
        self._file = file
        self._read = read
        self._physical = physical
        self._page_size = page_size
        self._offset = 0
        self.segments: List[Segment] = []
        """What was written, by ascending address."""
        self.unreadable = 0
        """Bytes that could not be read; no segment holds them."""

    def write(self, present: Ranges, kept: Ranges, progress: Optional[Progress] = None) -> None:
        """
        Copy *present*, with zeros for all that is not also in *kept*.

        Segments that take zeros only cost nothing in the file.
        """
        done, total = 0, present.total
        for start, end in zip(present.starts.tolist(), present.ends.tolist()):
            for address, data in self._blocks(start, end):
                _mask(address, data, kept)
                self._add(address, data)
            done += end - start
            if progress:
                progress("memory", done, total)

    def _blocks(self, start: int, end: int) -> Iterator[Tuple[int, U8]]:
        # By pages of the target once a large read fails.
        for address, size in _pieces(start, end, _BLOCK_BYTES):
            data = self._try(address, size)
            if data is not None:
                yield address, data
                continue
            for page, length in _pieces(address, address + size, self._page_size):
                data = self._try(page, length)
                if data is not None:
                    yield page, data
                else:
                    self.unreadable += length

    def _try(self, address: int, size: int) -> Optional[U8]:
        try:
            return np.frombuffer(self._read(address, size), np.uint8).copy()
        except FaultError:
            return None

    def _add(self, address: int, data: U8) -> None:
        # Split where pages of zeros follow each other for long.
        page = self._page_size
        whole = data[: len(data) // page * page].reshape(-1, page)
        filled: Bools = whole.any(axis=1)  # type: ignore[assignment]
        edges = (np.flatnonzero(np.diff(filled.astype(np.int8))) + 1).tolist()
        at = 0
        for first, last in zip([0, *edges], [*edges, len(filled)]):
            if last - first >= _ZERO_RUN_PAGES and not filled[first]:
                self._append(address + at, data[at : first * page])
                self._append_zeros(address + first * page, (last - first) * page)
                at = last * page
        self._append(address + at, data[at:])

    def _append(self, address: int, data: U8) -> None:
        size = len(data)
        if not size:
            return
        last = self._last_before(address)
        if last is not None and last.memory_size == last.file_size:
            grown = last.file_size + size
            self.segments[-1] = last._replace(file_size=grown, memory_size=grown)
        else:
            physical = self._physical(address)
            self.segments.append(Segment(address, physical, self._offset, size, size))
        self._file.write(data.tobytes())
        self._offset += size

    def _append_zeros(self, address: int, size: int) -> None:
        last = self._last_before(address)
        if last is not None:
            self.segments[-1] = last._replace(memory_size=last.memory_size + size)
        else:
            physical = self._physical(address)
            self.segments.append(Segment(address, physical, self._offset, 0, size))

    def _last_before(self, address: int) -> Optional[Segment]:
        if not self.segments:
            return None
        last = self.segments[-1]
        return last if last.address + last.memory_size == address else None


def _pieces(start: int, end: int, step: int) -> Iterator[Tuple[int, int]]:
    # (address, size), cut at multiples of *step*.
    while start < end:
        size = min(step - start % step, end - start)
        yield start, size
        start += size


def _mask(address: int, data: U8, kept: Ranges) -> None:
    # Kept ranges neither overlap nor touch: each begins and ends once.
    starts, ends = kept.within(address, address + len(data))
    if len(starts) == 1 and int(ends[0] - starts[0]) == len(data):
        return
    # Nearly all of them are words, and there is an eighth as many of these as of bytes.
    first, last = (each - np.uint64(address) for each in (starts, ends))
    aligned = not len(data) % _WORD_BYTES and not ((first | last) % np.uint64(_WORD_BYTES)).any()
    step = _WORD_BYTES if aligned else 1
    cells = data.view(np.uint64) if aligned else data
    edges = np.zeros(len(cells) + 1, np.int8)
    edges[(first // np.uint64(step)).astype(np.intp)] = 1
    edges[(last // np.uint64(step)).astype(np.intp)] = -1
    cells *= np.cumsum(edges[:-1], dtype=np.int8).view(np.uint8)
