# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The members of a record
-----------------------

Taken from the record's own class: fields of a dataclass or a named tuple, and
the properties that it shows. A member that is added there is in every format.
"""

from __future__ import annotations

import enum
from dataclasses import fields, is_dataclass
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    get_args,
    get_type_hints,
)

from ..shapes import Key, Kind
from .values import address, size, value


class Member(NamedTuple):
    """One member of a kind of record."""

    name: str
    kind: Optional[Kind]
    key: Key

    @property
    def heading(self) -> str:
        """Return its name as people read it."""
        return self.name.replace("_", " ")

    def told(self, record: Any) -> str:
        """Return its value in words."""
        return told(getattr(record, self.name), kind_in(record, self))


def kind_in(record: Any, member: Member) -> Optional[Kind]:
    """Return how a member of a record is spelled: what can be an address, if it is one."""
    if member.kind is not Kind.MIXED or getattr(record, "value_kind", None) != "address":
        return member.kind
    return Kind.HEX if isinstance(getattr(record, member.name), int) else member.kind


def is_record(value: Any) -> bool:
    """Return whether a value has members."""
    return is_dataclass(value) or (isinstance(value, tuple) and hasattr(value, "_fields"))


_KNOWN: Dict[type, Tuple[Member, ...]] = {}


def members(record: type) -> Tuple[Member, ...]:
    """Return the members of a class of records, in the order of JSON."""
    if record not in _KNOWN:
        _KNOWN[record] = tuple(_in_order(_members(record)))
    return _KNOWN[record]


def _members(record: Any) -> List[Member]:
    hints = get_type_hints(record, include_extras=True)
    names = [f.name for f in fields(record)] if is_dataclass(record) else record._fields
    found = [_member(name, list(_marks(hints[name]))) for name in names]
    for name, shown in _shown(record).items():
        hint = get_type_hints(getattr(record, name).fget, include_extras=True)["return"]
        found.append(_member(name, [shown, *_marks(hint)]))
    return found


def _shown(record: type) -> Dict[str, Key]:
    # Of its bases too.
    shown = {}
    for base in reversed(record.__mro__):
        for name, attribute in vars(base).items():
            getter: Any = attribute.fget if isinstance(attribute, property) else None
            if hasattr(getter, "shown"):
                shown[name] = getter.shown
    return shown


def _marks(hint: Any) -> Iterator[Any]:
    # What stands beside a type, however deep.
    yield from getattr(hint, "__metadata__", ())
    inner = hint.__origin__ if hasattr(hint, "__metadata__") else None
    for part in (inner,) if inner is not None else get_args(hint):
        yield from _marks(part)


def _member(name: str, marks: List[Any]) -> Member:
    kind = next((mark for mark in marks if isinstance(mark, Kind)), None)
    return Member(name, kind, next((mark for mark in marks if isinstance(mark, Key)), Key()))


def _in_order(found: List[Member]) -> List[Member]:
    ordered = [member for member in found if member.key.after is None]
    moved = [member for member in found if member.key.after is not None]
    while moved:
        names = ["", *(member.name for member in ordered)]
        member = next(member for member in moved if member.key.after in names)
        ordered.insert(names.index(member.key.after or ""), member)
        moved.remove(member)
    return ordered


def document(record: Any) -> Dict[str, Any]:
    """Return a record as JSON has it."""
    found = {}
    for member in members(type(record)):
        here = getattr(record, member.name)
        if not member.key.hidden and not (member.key.asked and here is None):
            found[member.key.name or member.name] = plain(here, kind_in(record, member))
    return found


_IN_JSON: Dict[Optional[Kind], Callable[[Any], Any]] = {
    Kind.HEX: address,
    Kind.WORD: lambda value: f"0x{value:08x}",
    Kind.FLAGS: lambda value: f"0x{value:016x}",
    Kind.MIXED: value,
    Kind.PAIRS: dict,
}


def plain(here: Any, kind: Optional[Kind] = None) -> Any:
    """Return a value as JSON has it."""
    if here is None:
        return None
    if is_record(here):
        return document(here)
    if isinstance(here, enum.Enum):
        return here.value
    if isinstance(here, Mapping):
        return {name: plain(part, kind) for name, part in here.items()}
    if isinstance(here, (list, tuple)) and kind is not Kind.PAIRS:
        return [plain(part, kind) for part in here]
    return _IN_JSON[kind](here) if kind in _IN_JSON else here


def told(here: Any, kind: Optional[Kind] = None) -> str:
    """Return a value as people read it; nothing is empty."""
    if here is None:
        return ""
    if isinstance(here, bool):
        return "yes" if here else "no"
    if is_record(here):
        parts = ((member.heading, member.told(here)) for member in members(type(here)))
        return ", ".join(f"{heading} {text}" for heading, text in parts if text)
    if isinstance(here, Mapping):
        return counts(here)
    if isinstance(here, (list, tuple)) and kind is not Kind.PAIRS:
        return ", ".join(told(part, kind) for part in here)
    if kind is Kind.PAIRS:
        return counts(dict(here))
    return size(here) if kind is Kind.BYTES else str(plain(here, kind))


def counts(by_name: Mapping[str, Any]) -> str:
    """Return counts with what is counted: ``3 freelist, 1 sheaf``."""
    return ", ".join(f"{count} {name}" for name, count in by_name.items() if count)
