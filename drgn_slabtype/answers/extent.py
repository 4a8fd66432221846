# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How far damage reaches
----------------------

Whoever writes past the end of something writes on, through words, objects, slabs
and struct pages. What holds one pattern, and all damage that touches, is one stretch,
which has a beginning: what lies there, or directly before it, is the likely writer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from drgn import FaultError

from .. import reading as of_reading
from ..errors import SlabTypeError
from ..findings import Finding, Stretch
from ..ledger import U8, Bools
from ..machine import Machine
from ..records import plural
from ..rules.overrun import STRUCT_PAGES
from .content import PRINTABLE, classify, is_poison, longest_text
from .describe import describe, spell
from .lookup import Lookup
from .tracks import spell_track

_MOST = 400  # findings whose damage is compared: more than a page of small objects gives
_REACH = 1 << 20  # bytes to each side that are looked at
_LONGEST_PERIOD = 16
_LEAST = 24  # bytes that repeat by more than one: an empty list has two words alike
_LEAST_FILL = 8  # bytes of one value, or printable ones
_LEAST_TEXT = 4  # of which printable ones come about by chance
_RANGES = 8  # of one finding
_PARTS = 3  # of a stretch whose patterns are told
_TOLD = 64  # bytes that are looked at to say what they are
_PRINTABLE: Bools = np.isin(np.arange(256), list(PRINTABLE))
_POISON: Bools = np.array([is_poison(byte) for byte in range(256)], np.bool_)


@dataclass(frozen=True)
class _Piece:
    # Some damage, as far as it was found to reach.
    start: int
    end: int
    period: int
    """Bytes after which it repeats; 0: it does not."""
    text: bool
    findings: Tuple[Finding, ...]

    @property
    def grows(self) -> bool:
        return self.text or self.period > 0


@dataclass
class _Run:
    # Pieces that touch.
    parts: List[_Piece]
    """Those that hold different things, none of them over another."""

    @property
    def end(self) -> int:
        return self.parts[-1].end

    @property
    def findings(self) -> List[Finding]:
        return [one for part in self.parts for one in part.findings]

    def add(self, piece: _Piece) -> None:
        """Take in one that begins no later than this ends."""
        last = self.parts[-1]
        about = tuple(dict.fromkeys([*last.findings, *piece.findings]))
        end = max(last.end, piece.end)
        same = (last.period, last.text) == (piece.period, piece.text)
        touches = piece.start == last.end
        if (same and not (touches and piece.grows)) or (
            not touches and not (last.grows and piece.grows)
        ):
            kind = last if last.grows else piece
            whole = replace(kind, start=last.start, end=end, findings=about)
            self.parts[-1] = whole
        elif piece.end > last.end:
            self.parts.append(replace(piece, start=last.end))
        else:
            self.parts[-1] = replace(last, findings=about)


def stretches(reading: Lookup, findings: Sequence[Finding]) -> List[List[Stretch]]:
    """
    Return how far the damage of each of some findings reaches.

    Damage of one value that the kernel itself fills memory with, and of one word, is
    told only as far as debugging shows it: the same beside it may be as it should be.

    :param reading: The machine as the findings show it.
    """
    memory = _Memory(reading.machine)
    pieces = [piece for one in findings for piece in _pieces(memory, reading.machine, one)]
    found = [(_told(memory, reading, run), run.findings) for run in _joined(pieces)]
    return [[stretch for stretch, about in found if one in about] for one in findings]


class Together(NamedTuple):
    """Findings, by :attr:`~.findings.Finding.id`, that one write explains by where it reaches."""

    pieces: Sequence[Sequence[int]] = ()
    """Those of damage in one piece."""
    inside: Sequence[Tuple[int, int]] = ()
    """What is said of overwritten contents, and what a pointer that is right leads into them."""


def in_one_piece(machine: Machine, findings: Sequence[Finding]) -> Together:
    """
    Return which findings are of damage in one piece.

    What is said of a struct page, and of none of its words, has its damage somewhere in it.
    What hangs on a pointer has its damage where the pointer is; where that is whole, and leads
    into the overwritten contents of objects, what it leads to was overwritten with them.
    """
    memory = _Memory(machine)
    pieces: List[_Piece] = []
    try:
        for one in findings[:_MOST] if len(findings) > 1 else ():
            whole = one.word is None and one.code in STRUCT_PAGES
            bare = one if whole else replace(one, page=None, slab=None, address=one.word)
            pieces += _pieces(memory, machine, bare)
    except (OSError, SlabTypeError):  # of the target as a whole
        raise
    except of_reading.CAUGHT:
        return Together()  # who tells how far the damage reaches tells why not
    runs = _joined(pieces)
    found = [{one.id for one in run.findings} for run in runs]
    together = [sorted(ids) for ids in found if len(ids) > 1]
    beside = {id for ids in together for id in ids}
    alone = [one for one in findings[:_MOST] if one.id not in beside]
    return Together(together, [pair for run in runs for pair in _inside(run, alone)])


def _inside(run: _Run, findings: Sequence[Finding]) -> Iterator[Tuple[int, int]]:
    # What leads into a run of overwritten contents, or to an object in which that begins.
    content = [one for one in run.findings if one.rule == "content"]
    start = run.parts[0].start
    begins = {one.object for one in content if (one.object or 0) < start < (one.address or 0)}
    for one in findings if content else ():
        leads = one.code == "cache-wrong" and one.value_kind == "address"
        if not leads or not isinstance(one.found, int):
            continue
        if start <= one.found < run.end or one.found in begins:
            yield min(each.id for each in content), one.id


def _pieces(memory: _Memory, machine: Machine, finding: Finding) -> Iterator[_Piece]:
    known = False
    for one in finding.ranges[:_RANGES]:
        known = True
        yield memory.grown(one.address, one.size, finding)
    if known or finding.rule == "content":
        return
    width = machine.memory.word_size
    where = [] if finding.address is None else [finding.address // width * width]
    for page in (finding.page, finding.slab):
        if page is not None:
            where += range(page, page + machine.page.size, width)
    for at in where:
        piece = memory.grown(at, width, finding)
        if piece.grows:
            yield piece
            return


def _joined(pieces: Sequence[_Piece]) -> List[_Run]:
    # Those that overlap or touch.
    joined: List[_Run] = []
    for piece in sorted(pieces, key=lambda piece: (piece.start, piece.end)):
        if joined and piece.start <= joined[-1].end:
            joined[-1].add(piece)
        else:
            joined.append(_Run([piece]))
    return joined


def _told(memory: _Memory, reading: Lookup, run: _Run) -> Stretch:
    what = [_what(memory, reading.machine, part) for part in run.parts]
    more = [f"{len(what) - _PARTS} more"] if len(what) > _PARTS else []
    first, end = run.parts[0].start, run.end
    start = describe(reading, first)
    inside = start.state == "in use" and start.part is None
    own = start.object if describe(reading, end - 1).object == start.object else None
    return Stretch(
        first,
        end,
        ", then ".join([*what[:_PARTS], *more]),
        starts=_place(reading, first) if inside else None,
        before=_place(reading, first - 1, own),
        after=_place(reading, end, own),
        findings=tuple(sorted({one.id for one in run.findings})),
    )


def _what(memory: _Memory, machine: Machine, piece: _Piece) -> str:
    order = "little" if machine.memory.byteorder == "<" else "big"
    held = memory.bytes(piece.start, min(piece.end, piece.start + _TOLD))
    data = b"" if held is None else held.tobytes()
    content = classify(data, machine.memory.word_size, order, piece.start)
    if piece.text:
        more = "…" if piece.end - piece.start > _TOLD else ""
        return f'text "{longest_text(data).decode("ascii")}{more}"'
    return f"0x{data[0]:02x}" if piece.period == 1 and data else content.text


def _place(reading: Lookup, address: int, own: Optional[int] = None) -> str:
    # Of the object in which all of it lies, all is told elsewhere.
    info = describe(reading, address)
    if own is not None and info.object == own and info.offset is not None:
        where = "before" if info.offset < 0 else "into"
        part = f", in its {info.part}" if info.part else ""
        return f"{plural(abs(info.offset), 'byte')} {where} the same object{part}"
    told = spell(info)
    if info.object is not None:
        told = f"0x{info.object:x}: {told}"
    made = next((track for track in info.tracks if track.event == "allocated"), None)
    return told if made is None else f"{told}, {spell_track(made)}"


def lines(stretch: Stretch, finding: Finding) -> Iterator[str]:
    """
    Yield what is told of a stretch with one of the findings about it.

    Nothing, where it is no more than the finding itself says.
    """
    ranges = [(one.address, one.address + one.size) for one in finding.ranges]
    if len(stretch.findings) < 2 and (stretch.start, stretch.end) in ranges:
        return
    many = plural(stretch.end - stretch.start, "byte")
    told = f"damage from 0x{stretch.start:x} to 0x{stretch.end:x}, {many} of {stretch.what}"
    others = [f"{id}" for id in stretch.findings if id != finding.id]
    if finding.id != stretch.findings[0]:
        yield f"{told}: see finding {stretch.findings[0]}"
        return
    if others:
        told += f"; finding{'s' if len(others) > 1 else ''} {', '.join(others)} too"
    yield told
    if stretch.starts is not None:
        yield f"it begins in 0x{stretch.start:x}: {stretch.starts}"
    yield f"directly before it: {stretch.before}"
    yield f"directly after it: {stretch.after}"


def _text(data: U8) -> Bools:
    # Which bytes can be text. Poison in a row cannot.
    alike = data[1:] == data[:-1]
    in_row = np.zeros(len(data), np.bool_)
    in_row[1:] |= alike
    in_row[:-1] |= alike
    text: Bools = _PRINTABLE[data] & ~(_POISON[data] & in_row)
    return text


class _Memory:
    # Pages of memory, read once.
    def __init__(self, machine: Machine) -> None:
        self._memory = machine.memory
        self._page = machine.memory.page_size
        self._pages: Dict[int, Optional[U8]] = {}

    def bytes(self, start: int, end: int) -> Optional[U8]:
        """Return some bytes; ``None`` if they are not in the target."""
        first, last = start // self._page, (end - 1) // self._page
        pages = [self._read(number) for number in range(first, last + 1)]
        there = [page for page in pages if page is not None]
        if len(there) < len(pages) or not there:
            return None
        offset = start - first * self._page
        return np.concatenate(there)[offset : offset + end - start]

    def _read(self, number: int) -> Optional[U8]:
        if number not in self._pages:
            self._pages[number] = self._page_at(number * self._page)
        return self._pages[number]

    def _page_at(self, address: int) -> Optional[U8]:
        # Dumps can have something at NULL, which is none of the kernel's.
        if not 0 <= address < 1 << 64:
            return None
        if not self._memory.is_kernel_address(np.array([address], np.uint64))[0]:
            return None
        try:
            return np.frombuffer(self._memory.read(address, self._page), np.uint8)
        except FaultError:
            # A capture has some of it. No pattern goes on over the zeroes that stand for the rest.
            words = np.arange(address, address + self._page, 8, dtype=np.uint64)
            some = self._memory.gather(words, 8)
            return some.bytes.reshape(-1) if some.ok.any() else None

    def grown(self, start: int, size: int, finding: Finding) -> _Piece:
        """Return how far what is in some bytes goes on, to both sides."""
        end = start + size
        data, alone = self.bytes(start, end), _Piece(start, end, 0, False, (finding,))
        if data is None or not data.any():
            return alone
        if (data == data[0]).all() and is_poison(int(data[0])):
            return alone
        for period in range(1, _LONGEST_PERIOD + 1):
            if (data[period:] != data[:-period]).any():
                continue
            first, last = self._repeats(start, end, period)
            if last - first >= (_LEAST_FILL if period == 1 else max(_LEAST, 3 * period)):
                return _Piece(first, last, period, False, (finding,))
        if size >= _LEAST_TEXT and _text(data).all():
            first, last = self._printable(start, end)
            if last - first >= _LEAST_FILL:
                return _Piece(first, last, 0, True, (finding,))
        return alone

    def _repeats(self, start: int, end: int, period: int) -> Tuple[int, int]:
        last = max(end, start + period)
        for low, high in self._steps(last, last + _REACH):
            differ = self._differ(low, high, -period)
            if len(differ):
                last = low + int(differ[0])
                break
            last = high
        first = min(start, last - period)
        for low, high in self._steps_back(first):
            differ = self._differ(low, high, period)
            if len(differ):
                first = low + int(differ[-1]) + 1
                break
            first = low
        return first, last

    def _differ(self, low: int, high: int, apart: int) -> np.ndarray:
        # Where bytes are not those so many bytes beside them.
        here, there = self.bytes(low, high), self.bytes(low + apart, high + apart)
        if here is None or there is None:
            return np.array([0 if apart < 0 else high - low - 1])
        return np.flatnonzero(here != there)

    def _printable(self, start: int, end: int) -> Tuple[int, int]:
        first, last = start, end
        for low, high in self._steps(end, end + _REACH):
            held = self.bytes(low, high)
            strange = [0] if held is None else np.flatnonzero(~_text(held))
            if len(strange):
                last = low + int(strange[0])
                break
            last = high
        for low, high in self._steps_back(start):
            held = self.bytes(low, high)
            strange = [high - low - 1] if held is None else np.flatnonzero(~_text(held))
            if len(strange):
                first = low + int(strange[-1]) + 1
                break
            first = low
        return self._without_pointers(start, end, first, last)

    def _without_pointers(self, start: int, end: int, first: int, last: int) -> Tuple[int, int]:
        # Some bytes of an address look like text, too.
        width = self._memory.word_size
        behind, before = last // width * width, -(-first // width) * width
        if end <= behind < last and self._is_pointer(behind):
            last = behind
        if first < before <= start and self._is_pointer(before - width):
            first = before
        return first, last

    def _is_pointer(self, address: int) -> bool:
        held = self.bytes(address, address + self._memory.word_size)
        if held is None:
            return False
        word = held.view(self._memory.word).astype(np.uint64)
        return bool(self._memory.is_kernel_address(word)[0])

    def _steps(self, start: int, limit: int) -> Iterator[Tuple[int, int]]:
        # From page border to page border.
        while start < limit:
            border = (start // self._page + 1) * self._page
            yield start, border
            start = border

    def _steps_back(self, end: int) -> Iterator[Tuple[int, int]]:
        limit = end - _REACH
        while end > limit:
            border = (end - 1) // self._page * self._page
            yield border, end
            end = border
