# SPDX-License-Identifier: LGPL-2.1-or-later
"""One page_type word, read without a kernel."""

from __future__ import annotations

from typing import Annotated, List, NamedTuple, Optional, Tuple

from drgn import IntegerLike

from ..arguments import one_of, word32_of
from ..pagetype.encoding import ENCODINGS
from ..records import Rows, line
from ..shapes import HIDDEN, Word


class Decoded(NamedTuple):
    """What a page_type word says under one layout."""

    layout: str
    """Name of the layout, a key of ``ENCODINGS``."""
    word: Annotated[Word, HIDDEN]
    """The word, unsigned."""
    types: Tuple[str, ...]
    """Page types whose test is true."""
    active: Optional[int]
    """SLAB's active count, for layouts and words that carry one."""
    conflict: bool
    """Whether no healthy page has this word."""
    printed: str
    """What the kernel prints."""
    meaning: str
    """The same for people."""

    def __repr__(self) -> str:
        return line(self)


def decode(word: IntegerLike, layout: Optional[str] = None) -> List[Decoded]:
    """
    Return what a page_type word says.

    >>> [one] = decode(0xffeffffa, "rfc-v3")
    >>> one.types, one.active, one.meaning
    (('slab',), 5, 'slab; active 5')

    :param word: 32 bits, signed as VMCOREINFO has them or unsigned.
    :param layout: Name of a layout; every known one if ``None``.
    :raises ArgumentError: if there is no layout of that name, or *word* has more than 32 bits.
    """
    word = word32_of(word)
    if layout is not None:
        one_of("layout", layout, ENCODINGS)
    decoded = Rows()
    for name in ENCODINGS if layout is None else [layout]:
        encoding = ENCODINGS[name]
        types = encoding.types_of(word)
        decoded.append(
            Decoded(
                layout=name,
                word=word,
                types=types,
                active=encoding.active(word)
                if encoding.carries_active and "slab" in types
                else None,
                conflict=encoding.conflict(word),
                printed=encoding.text(word),
                meaning=encoding.explain(word),
            )
        )
    return decoded
