# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How records look
----------------

At a prompt, a record is what is set in it, in one line or in a short table, and
several are a table with a row each, with addresses in hexadecimal.
"""

from __future__ import annotations

import enum
import shutil
from dataclasses import fields, is_dataclass
from itertools import islice
from textwrap import wrap
from typing import (
    Any,
    ClassVar,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
    Union,
    get_args,
    get_type_hints,
)

from .shapes import Key, Kind

_MOST_ROWS = 20  # of a table
_MOST_CHARACTERS = 60  # of a value
_LEAST = 16  # characters of a column that is cut
_GAP = 2  # characters between two columns
_DIGITS = {Kind.WORD: 8, Kind.FLAGS: 16}


class Record:
    """Base of records: what is printed of one leaves out what is not set."""

    FIRST: ClassVar[str] = ""
    """Members and properties that are printed before others, as words."""

    def __init_subclass__(cls) -> None:
        # A dataclass makes one of its own where its class has none.
        if "__repr__" not in vars(cls):
            cls.__repr__ = cls._printed  # type: ignore[assignment]

    def _printed(self) -> str:
        return printed(self)


class Rows(List[Any]):
    """Some records of a kind, as a list that prints as a table."""

    def __repr__(self) -> str:
        return table(self, len(self))

    def __getitem__(self, which: Any) -> Any:
        found = super().__getitem__(which)
        return Rows(found) if isinstance(which, slice) else found


def as_rows(value: Any) -> Any:
    """Return a list as one that prints as a table, and anything else as it is."""
    return Rows(value) if type(value) is list else value


class Listing(Record):
    """
    An answer that is mostly a list of records: it can be indexed, sliced and iterated.

    >>> [cache.name for cache in caches(prog)[:3]]
    ['dentry', 'inode_cache', 'kmalloc-1k']
    """

    LISTED: ClassVar[str]
    """Member that has the records."""

    def __len__(self) -> int:
        return len(getattr(self, self.LISTED))

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        return iter(getattr(self, self.LISTED))

    def __getitem__(self, which: Union[int, slice]) -> Any:
        found = getattr(self, self.LISTED)[which]
        return Rows(found) if isinstance(which, slice) else found

    def _printed(self) -> str:
        # What else there is to it, and its rows.
        told = [
            f"{name.replace('_', ' ')} {spelled(value, kind)}"
            for name, value, kind in _set(self)
            if name != self.LISTED and not is_record(value)
        ]
        head = wrap(", ".join(told), max(shutil.get_terminal_size().columns, _LEAST))
        return "\n".join([*head, table(self, len(self))])


def line(record: Any) -> str:
    """Return a record as one line: ``CacheUsage(name='dentry', address=0xffff…, in_use=12)``."""
    told = ", ".join(f"{name}={_quoted(value, kind)}" for name, value, kind in _set(record))
    return f"{type(record).__name__}({told})"


def printed(record: Any) -> str:
    """Return a record as one line if the terminal has room for it, else a line for each member."""
    columns = shutil.get_terminal_size().columns
    alone = line(record)
    if len(alone) <= columns:
        return alone
    told = [(name.replace("_", " "), value, kind) for name, value, kind in _set(record)]
    wide = max(len(name) for name, _, _ in told)
    left = max(columns - wide - 2 * _GAP, _LEAST)
    lines = [type(record).__name__]
    for name, value, kind in told:
        # What is said in words is told whole.
        words = isinstance(value, str)
        cells = wrap(value, left) if words else [_cut(spelled(value, kind, left), left)]
        for at, cell in enumerate(cells):
            lines.append(f"  {'' if at else name:<{wide}}  {cell}")
    return "\n".join(lines)


def table(rows: Iterable[Any], total: int) -> str:
    """
    Return records as a table with the columns that fit, the first rows of very many.

    :param total: How many there are.
    """
    shown = list(islice(rows, _MOST_ROWS))
    if not shown or not all(is_record(one) for one in shown):
        return list.__repr__(shown)
    names = [name for name in _kinds(type(shown[0])) if any(_is_set(one, name) for one in shown)]
    columns: List[List[str]] = []
    left = shutil.get_terminal_size().columns
    for name in names:
        cells = [spelled(getattr(one, name), _kinds(type(one))[name]) for one in shown]
        numbers = all(type(getattr(one, name)) in (int, float, type(None)) for one in shown)
        width = max(len(cell) for cell in (name, *cells))
        if width > left and not numbers and left >= _LEAST:
            width = left  # the last one, in part
        if width > left and columns:
            break
        heading = name.upper().replace("_", " ")
        columns.append(
            [
                cell.rjust(width) if numbers else _cut(cell, width).ljust(width)
                for cell in (heading, *cells)
            ]
        )
        left -= width + _GAP
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns)]
    more = [f"{total - len(shown)} more rows"] if total > len(shown) else []
    others = [name.replace("_", " ") for name in names[len(columns) :]]
    more += [f"also {', '.join(others)}"] if others else []
    return "\n".join([*lines, *([f"… {'; '.join(more)}"] if more else [])])


def spelled(value: Any, kind: Optional[Kind], most: int = _MOST_CHARACTERS) -> str:
    """
    Return a value for people, in a few words.

    :param most: Characters that it takes at most.
    """
    if value is None:
        return ""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return _number(value, kind)
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, Mapping) and any(isinstance(name, int) for name in value):
        return _cut(", ".join(f"{name}: {number}" for name, number in value.items()), most)
    if isinstance(value, Mapping):
        return _cut(", ".join(f"{number} {name}" for name, number in value.items()), most)
    if isinstance(value, (list, tuple)) and not is_record(value):
        if value and is_record(value[0]):
            return f"{len(value)} × {type(value[0]).__name__}"
        return _cut(", ".join(spelled(part, kind) for part in value), most)
    return _cut(line(value) if is_record(value) else str(value), most)


def plural(number: int, noun: str, many: Optional[str] = None) -> str:
    """
    Return a number with its noun: ``1 slab``, ``2 slabs``.

    :param many: The noun of several, if an *s* does not make it.
    """
    return f"{number} {noun if number == 1 else many or noun + 's'}"


def is_record(value: Any) -> bool:
    """Return whether a value has members."""
    return (is_dataclass(value) and not isinstance(value, type)) or (
        isinstance(value, tuple) and hasattr(value, "_fields")
    )


def _set(record: Any) -> Iterator[Tuple[str, Any, Optional[Kind]]]:
    for name, kind in _kinds(type(record)).items():
        if _is_set(record, name):
            yield name, getattr(record, name), kind


def _is_set(record: Any, name: str) -> bool:
    # Whether it is worth a word: neither empty nor what it is if nothing is said of it.
    value, usual = getattr(record, name), getattr(type(record), name, None)
    if value is None or hasattr(value, "dtype"):
        return False
    if isinstance(usual, (bool, int, float, str, tuple)):
        return bool(value != usual)
    return (isinstance(value, (int, float)) and not isinstance(value, bool)) or bool(value)


def _quoted(value: Any, kind: Optional[Kind]) -> str:
    if isinstance(value, str):
        return _cut(repr(value))
    if isinstance(value, (list, tuple, Mapping)) and not is_record(value):
        return f"[{spelled(value, kind)}]"
    return spelled(value, kind)


def _number(value: int, kind: Optional[Kind]) -> str:
    if kind in (Kind.HEX, Kind.WORD, Kind.FLAGS):
        return f"0x{value:0{_DIGITS.get(kind, 1)}x}"
    # Nothing that is counted is that large.
    return hex(value) if value >> 47 > 0 else str(value)


def _cut(text: str, most: int = _MOST_CHARACTERS) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


_KNOWN: Dict[Any, Dict[str, Optional[Kind]]] = {}


def _kinds(record: Any) -> Dict[str, Optional[Kind]]:
    # Members that are shown, and how each is spelled.
    if record not in _KNOWN:
        hints = get_type_hints(record, include_extras=True)
        names = [f.name for f in fields(record)] if is_dataclass(record) else record._fields
        first = getattr(record, "FIRST", "").split()
        marks = {name: list(_marks(hints.get(name))) for name in [*first, *names]}
        _KNOWN[record] = {
            name: next((mark for mark in own if isinstance(mark, Kind)), None)
            for name, own in marks.items()
            if not any(isinstance(mark, Key) and mark.hidden for mark in own)
        }
    return _KNOWN[record]


def _marks(hint: Any) -> Iterator[Any]:
    # What stands beside a type, however deep.
    yield from getattr(hint, "__metadata__", ())
    inner = hint.__origin__ if hasattr(hint, "__metadata__") else None
    for part in (inner,) if inner is not None else get_args(hint):
        yield from _marks(part)
