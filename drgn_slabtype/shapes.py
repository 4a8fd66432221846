# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the members of a record are
--------------------------------

An address is an integer, and so are a count and a mask. Where a record says in
the type of a member which of them it is, every format spells it the right way.
A member of a plain type needs nothing from here.
"""

from __future__ import annotations

import enum
from typing import (
    Annotated,
    Any,
    Callable,
    List,
    NamedTuple,
    Optional,
    Tuple,
    TypeVar,
    Union,
)


class Kind(enum.Enum):
    """How a value is spelled."""

    HEX = "0x…"
    WORD = "0x…, all digits of 32 bits"
    FLAGS = "0x…, all digits of 64 bits"
    BYTES = "with a unit for people, a number in JSON"
    MIXED = "an address, or a smaller number, or words"
    PAIRS = "counts by name"


Address = Annotated[int, Kind.HEX]
"""Where something is."""
Hex = Annotated[int, Kind.HEX]
"""Bits of any width."""
Word = Annotated[int, Kind.WORD]
"""32 bits."""
Flags = Annotated[int, Kind.FLAGS]
"""64 bits."""
Bytes = Annotated[int, Kind.BYTES]
"""A size."""
Value = Annotated[Union[int, str, None], Kind.MIXED]
"""What was expected or found: a count, an address or a short description."""
Pairs = Annotated[List[Tuple[str, int]], Kind.PAIRS]
"""Counts by name, in an order that matters."""


class Key(NamedTuple):
    """Where a member stands in JSON, if not in its order under its own name."""

    name: Optional[str] = None
    after: Optional[str] = None
    """Name of the member that it follows; empty: it is the first."""
    asked: bool = False
    """``None`` means that nobody asked for it: there is no key then."""
    hidden: bool = False
    """It tells those who present the record something, not those who read it."""


HIDDEN = Key(hidden=True)
_PLAIN = Key()

_Getter = TypeVar("_Getter", bound=Callable[..., Any])


def shown(key: Key = _PLAIN) -> Callable[[_Getter], _Getter]:
    """
    Make a property one of the members that are presented.

    It stands below ``@property``.
    """

    def mark(getter: _Getter) -> _Getter:
        getter.__dict__["shown"] = key
        return getter

    return mark
