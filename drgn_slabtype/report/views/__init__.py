# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What people see of a record
---------------------------

A view names what is told, in which order and in which words; text, HTML and
JUnit all take it from there. Members that a view does not mention are told
after those that it does, under their own names, so that nothing is left out
but what the view calls quiet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ...shapes import Kind
from ..members import Member, is_record, members, told

Fact = Tuple[str, str]
"""What something is called, and what it is."""


class Column(NamedTuple):
    """One thing that is told: a column of a table, or a line of a list."""

    heading: str
    members: str = ""
    """The members it is made of; by default the one that is called like it."""
    cell: Optional[Callable[[Any], Any]] = None
    """
    Takes the record; returns text or a number, ``None`` to say nothing. In
    lists also many texts, or many facts, a line each.
    """
    right: Optional[bool] = None
    """Whether cells stand on the right, as numbers do."""
    when: bool = True
    """Whether it is told at all."""
    width: int = 0
    """Characters, in tables that are written as they are made."""
    proper: bool = False
    """Whether the heading is a name, which is spelled as it is."""
    less: int = 0
    """Columns of the greatest numbers go first where a terminal is too narrow; those of 0 stay."""
    least: int = 0
    """Characters to which it is broken into several lines before others go; 0: it is not."""

    @property
    def names(self) -> List[str]:
        """Return the names of its members."""
        return (self.members or self.heading.replace(" ", "_")).split()


@dataclass
class Grid:
    """A table before it has a format."""

    columns: List[Column]
    rows: List[List[Any]]

    def insert(self, at: int, column: Column, cells: Iterable[Any]) -> Grid:
        """Put a column between the others, and return the table."""
        self.columns.insert(at, column)
        for row, cell in zip(self.rows, cells):
            row.insert(at, cell)
        return self


class View:
    """What people see of one kind of record."""

    def __init__(self, *columns: Column, quiet: str = "") -> None:
        self._columns = columns
        self.mentioned = {name for column in columns for name in column.names}
        self.mentioned.update(quiet.split())

    def columns(self, record: Optional[type]) -> List[Column]:
        """Return what is told of a class of records, ``None`` if there is none."""
        found = [column for column in self._columns if column.when]
        return found if record is None else [*found, *self._others(record)]

    def _others(self, record: type) -> Iterator[Column]:
        for member in members(record):
            if member.name not in self.mentioned and not member.key.hidden:
                right = True if member.kind is Kind.BYTES else None
                yield Column(member.heading, member.name, right=right)

    def table(self, records: Sequence[Any]) -> Tuple[List[Column], Iterator[List[Any]]]:
        """Return records as columns and rows, which are made as they are asked for."""
        if not records:
            return self.columns(None), iter(())
        columns = self.columns(type(records[0]))
        cells = [_cell(column, type(records[0])) for column in columns]
        return columns, ([cell(record) for cell in cells] for record in records)

    def grid(self, records: Sequence[Any]) -> Grid:
        """Return records as a table, a row each; numbers stand on the right."""
        columns, made = self.table(records)
        rows = list(made)
        return Grid([_aligned(*pair) for pair in zip(columns, zip(*rows))] or columns, rows)

    def facts(self, record: Any) -> Iterator[Fact]:
        """Return a record as a list, without what is empty."""
        return _facts(self.columns(type(record)), record)

    def others(self, record: Any) -> Iterator[Fact]:
        """Return what only the record itself names; the rest is in sentences."""
        return _facts(self._others(type(record)), record)

    def sentence(self, record: Any) -> str:
        """Return a record as the parts of a sentence: ``expected 3, found 4``."""
        return ", ".join(f"{heading} {text}".strip() for heading, text in self.facts(record))


def _member(column: Column, record: type) -> Member:
    (name,) = column.names
    return next(member for member in members(record) if member.name == name)


def _cell(column: Column, record: type) -> Callable[[Any], Any]:
    # What makes the cells of a column. A number stays one.
    given = column.cell
    if given is not None:
        return lambda record: "" if (made := given(record)) is None else made
    name, kind, _ = _member(column, record)

    def cell(record: Any) -> Any:
        here = getattr(record, name)
        return here if kind is None and type(here) is int else told(here, kind)

    return cell


def _aligned(column: Column, cells: Sequence[Any]) -> Column:
    if column.right is not None:
        return column
    return column._replace(right=any(isinstance(cell, int) for cell in cells))


def _facts(columns: Iterable[Column], record: Any) -> Iterator[Fact]:
    for column in columns:
        if column.cell is not None:
            here, kind = column.cell(record), None
        else:
            _, kind, _ = member = _member(column, type(record))
            here = getattr(record, member.name)
        for part in _parts(here, kind):
            is_fact = column.cell is not None and isinstance(part, tuple)
            heading, text = part if is_fact else (column.heading, told(part, kind))
            if text:
                yield heading, text


def _parts(here: Any, kind: Optional[Kind]) -> Sequence[Any]:
    # What has a line of its own.
    if here is None or here is False:
        return ()
    several = isinstance(here, (list, tuple)) and not is_record(here) and kind is not Kind.PAIRS
    return here if several else (here,)
