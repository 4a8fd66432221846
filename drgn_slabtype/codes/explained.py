# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is said of a code, wherever it is said."""

from __future__ import annotations

from typing import Dict, NamedTuple, Optional, Tuple


class Commit(NamedTuple):
    """A commit of the Linux kernel that a rule goes by."""

    hash: str
    """Its first 12 digits."""
    subject: str
    """Its first line."""
    release: str
    """The first release that has it."""


class Measure(NamedTuple):
    """What a value that was expected or found is."""

    kind: str
    """Key into :data:`KINDS`."""
    unit: Optional[str] = None
    """What is counted or measured, in the plural."""


ADDRESS = Measure("address")
WORD = Measure("word")
SIZE = Measure("number", "bytes")
OBJECTS = Measure("count", "objects")
SLABS = Measure("count", "slabs")
SHEAVES = Measure("count", "sheaves")
REFERENCES = Measure("count", "references")

KINDS: Dict[str, str] = {
    "count": "so many of the unit",
    "address": "an address of the kernel's",
    "index": "a position in a slab, a list or an array, from 0 on",
    "bytes": "bytes in hex, in the order of memory",
    "word": "bits of a word: a page type, flags, a lock",
    "number": "a member of a structure that counts nothing; with a unit where it has one",
    "text": "words for people: a list, a place, a node",
}
"""Kinds of values."""


class Code(NamedTuple):
    """One kind of finding; codes are added, never renamed."""

    rule: str
    """Family of the rule that produces it."""
    meaning: str
    """What the finding says, in one sentence."""
    promise: str
    """What the kernel promises, and which of its functions keep that; of notes, and of what
    was not judged, what is behind them."""
    causes: Tuple[str, ...]
    """What usually breaks it."""
    look: Tuple[str, ...]
    """What to look at next."""
    commits: Tuple[Commit, ...] = ()
    """Those that made the promise what it is, or changed it."""
    more: str = ""
    """What else there is to know; Markdown."""
    measure: Optional[Measure] = None
    """What values of such findings are, unless one says otherwise; ``None`` if they have none."""
    reserved: bool = False
    """Whether this version never says it."""


FAMILIES: Dict[str, str] = {
    "word": "The page type word",
    "geometry": "What a slab is made of",
    "count": "Counts",
    "claim": "Free objects",
    "container": "Places",
    "list": "Lists",
    "content": "Contents of debug caches",
    "page": "Pages",
    "note": "Notes",
    "unavailable": "Not judged",
}
"""The families of rules, as people read them."""
