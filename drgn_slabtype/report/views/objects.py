# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people see of one address."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Iterator, List, NamedTuple, Optional, Tuple

from ...particulars import spell_age
from ..values import plural
from . import Column, Fact, View

if TYPE_CHECKING:
    from ...answers.address import AddressInfo, ObjectWord
    from ...answers.slabs import SlabsAnswer
    from ...answers.states import SlabObject

_WORD = 8  # bytes: 32-bit kernels are refused
_ADDRESS = 16  # digits of an address, as rows of bytes have it

TRACK = View(
    Column("by", "caller"),
    Column("CPU", "cpu"),
    Column("PID", "pid"),
    Column("task", cell=lambda track: track.task and f"({track.task})"),
    Column("at", "when"),
    Column("age", "age ago", spell_age),
    quiet="event stack overwritten",
)

NEIGHBOUR = View(quiet="address slab index state place position")


def _cache(info: AddressInfo) -> Optional[str]:
    return info.cache and f"{info.cache} (0x{info.slab_cache or 0:x})"


def _neighbour(other: Optional[SlabObject]) -> Optional[str]:
    if other is None:
        return None
    where = f" ({_place(other)})" if other.place else ""
    more = "".join(f", {name} {text}" for name, text in NEIGHBOUR.others(other))
    return f"0x{other.address:x}, {other.state}{where}{more}"


def _nearby(info: AddressInfo) -> List[Optional[str]]:
    # But for the two that are told as such.
    known = {one.address for one in (info.previous, info.next) if one is not None}
    return [_neighbour(one) for one in info.neighbours if one.address not in known]


def _page(info: AddressInfo) -> Optional[str]:
    return None if info.page is None else f"0x{info.page:x}, PFN {info.pfn:#x}"


def _tracks(info: AddressInfo) -> List[Fact]:
    facts: List[Fact] = []
    for track in info.tracks:
        if track.overwritten:
            facts.append((track.event, "the record of that is overwritten"))
            continue
        facts.append((track.event, TRACK.sentence(track)))
        facts += [("", frame) for frame in track.stack]
    return facts


def _stands(info: AddressInfo) -> Optional[str]:
    if info.list is None:
        return None
    return _list(info.list, info.owner)


def _asked(info: AddressInfo) -> Optional[str]:
    # What is asked by itself where that takes little, and elsewhere only if it is wanted.
    if info.everywhere:
        return None
    if info.kind == "slab object":
        return "its own cache alone, not whether others record it too; --everywhere asks all"
    if info.kind in ("struct slab", "per-CPU") and info.slab_cache is not None:
        return "what it is, not whether it is damaged; --everywhere asks that, too"
    return None


class Row(NamedTuple):
    """How bytes are told in a line."""

    bytes: int = 16
    text: bool = True
    """Whether as ASCII, too."""

    @property
    def width(self) -> int:
        """Return how many characters they take."""
        return 3 * self.bytes - 1 + (2 + self.bytes if self.text else 0)


_ROWS = (Row(), Row(8), Row(8, text=False), Row(4))


def row_of(info: AddressInfo, width: int) -> Row:
    """
    Return how the bytes of an object are told where there is no more room than that.

    :param width: In characters.
    """
    room = width - _offsets(info) - len(" ") - _ADDRESS - len(": ")
    return next((row for row in _ROWS if row.width <= room), _ROWS[-1])


def _offsets(info: AddressInfo) -> int:
    return max([5, *(len(f"{line.offset:+}") for line in info.lines)])


class _Bytes(NamedTuple):
    # What stands in one row.
    part: str
    offset: int
    address: int
    bytes: Tuple[str, ...]
    text: str
    damaged: Tuple[int, ...]


def _rows(info: AddressInfo, count: int) -> Iterator[_Bytes]:
    # So many bytes in each.
    for line in info.lines:
        pieces = line.bytes.split()
        for at in range(0, len(pieces), count):
            yield _Bytes(
                line.part,
                line.offset + at,
                line.address + at,
                tuple(pieces[at : at + count]),
                line.text[at : at + count],
                tuple(n - at for n in line.damaged if at <= n < at + count),
            )


def _lines(info: AddressInfo, row: Row) -> List[Fact]:
    facts: List[Fact] = []
    part, offsets = None, _offsets(info)

    def where(offset: int, address: int) -> str:
        return f"{offset:+{offsets}} {address:0{_ADDRESS}x}"

    for _, some in groupby(enumerate(_rows(info, row.bytes)), _bytes_of):
        alike = [one for _, one in some]
        # In place of one row there is nothing to be saved.
        for one in alike[: 1 if len(alike) > 2 else None]:
            head = f"{where(one.offset, one.address)}: "
            bytes = f"{' '.join(one.bytes):<{3 * row.bytes - 1}}"
            told = f"{bytes}  {one.text}" if row.text else bytes
            facts.append((one.part if one.part != part else "", head + told.rstrip()))
            part = one.part
            if one.damaged:
                marks = "".join("^^ " if n in one.damaged else "   " for n in range(row.bytes))
                facts.append(("damaged", " " * len(head) + marks.rstrip()))
        if len(alike) > 2:
            last, end = alike[-1], len(alike[-1].bytes) - 1
            same = "the same damage" if last.damaged else "the same"
            facts.append(("", f"{where(last.offset + end, last.address + end)}: {same} up to here"))
    return facts


def _bytes_of(numbered: Tuple[int, _Bytes]) -> Tuple[str, int, Tuple[str, ...], Tuple[int, ...]]:
    # What rows one behind the other have in common that hold the same.
    at, one = numbered
    return one.part, one.offset - at * len(one.bytes), one.bytes, one.damaged


def _damage(info: AddressInfo) -> List[Fact]:
    facts: List[Fact] = []
    for one in info.stretches:
        many = plural(one.end - one.start, "byte")
        facts.append(("damage", f"0x{one.start:x} to 0x{one.end:x}, {many}: {one.what}"))
        if one.starts is not None:
            facts.append(("", f"begins in {one.starts}"))
        facts += [("", f"before it: {one.before}"), ("", f"after it: {one.after}")]
    return facts


def _words(info: AddressInfo) -> List[Fact]:
    facts: List[Fact] = []
    for (_, spelled, meaning), some in groupby(enumerate(info.words), _word_of):
        first, *rest = [word.offset for _, word in some]
        same = f", and so on up to {rest[-1]:+}" if rest else ""
        facts.append(("" if facts else "words", f"{first:+5} 0x{spelled:016x}: {meaning}{same}"))
    return facts


def _word_of(numbered: Tuple[int, ObjectWord]) -> Tuple[int, int, str]:
    # What neighbours have in common that hold the same.
    at, word = numbered
    return word.offset - at * _WORD, word.word, word.meaning


def address(row: Row = _ROWS[0]) -> View:
    """Return what is told of an address."""
    return View(
        Column("cache", "cache slab_cache", _cache),
        Column("slab"),
        Column("object"),
        Column("in its", "part"),
        Column("KASAN", "shadow"),
        Column("state"),
        Column("recorded in", "places"),
        Column("holds"),
        Column("asked", "everywhere", _asked),
        Column("list", "list owner", _stands),
        Column("contradiction", "contradictions"),
        Column("previous", cell=lambda info: _neighbour(info.previous)),
        Column("next", cell=lambda info: _neighbour(info.next)),
        Column("nearby", "neighbours", _nearby),
        Column("page", "page pfn", _page),
        Column("", "tracks", _tracks),
        Column("bytes", "lines", lambda info: _lines(info, row)),
        Column("words", cell=_words),
        Column("damage", "stretches", _damage),
        Column("can be", "meanings", lambda info: [one.meaning for one in info.meanings]),
        quiet="address kind meaning index offset page_types unavailable",
    )


WORD = View(
    Column("stored in", "where"),
    Column("can be", "meanings", lambda word: [one.meaning for one in word.meanings]),
    quiet="word at",
)


def _place(found: SlabObject) -> Optional[str]:
    if found.place is None:
        return None
    return found.place if found.position is None else f"{found.place}, position {found.position}"


OBJECTS = View(
    Column("object", "address"),
    Column("index", right=True),
    Column("state"),
    Column("place", "place position", _place),
    quiet="slab",
)


def _list(name: Optional[str], owner: Optional[int]) -> str:
    if name is None:
        return "-"
    on_cpu = name.startswith("cpu") or name == "deferred"
    of = f" of {'CPU' if on_cpu else 'node'} {owner}"
    return f"{name}{'' if owner is None else of}"


def slabs(answer: SlabsAnswer) -> View:
    """Return what is told of the slabs of a cache."""
    any_unknown = any(slab.unknown for slab in answer.slabs)
    return View(
        Column("slab"),
        Column("memory", "address", less=3),
        Column("node", less=2),
        Column("list", "list owner", lambda slab: _list(slab.list, slab.owner), less=1),
        Column("order", right=True, less=4),
        Column("objects"),
        Column("in use"),
        Column("free", cell=lambda slab: sum(slab.free.values())),
        Column("waiting", when=any(slab.waiting for slab in answer.slabs)),
        Column("unknown", when=any_unknown),
        Column("free in", "free", less=1),
        Column("finding", when=any(slab.finding for slab in answer.slabs)),
        quiet="counted",
    )


REFERENCE = View(
    Column("address"),
    Column("points to", "value"),
    Column("in", "kind"),
    Column("what", "meaning"),
    Column("state", less=2),
    Column("member", "member frame", lambda ref: ref.member or ref.frame, less=1),
    quiet="cache object offset",
)
