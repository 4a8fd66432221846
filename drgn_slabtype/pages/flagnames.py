# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Names of the bits of ``/proc/kpageflags``
-----------------------------------------

As in ``include/uapi/linux/kernel-page-flags.h``; names and letters are those of
the kernel's page-types tool.
"""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple


class Flag(NamedTuple):
    """A bit of ``/proc/kpageflags``."""

    name: str
    """As the kernel's page-types tool has it."""
    bit: int
    letter: str
    """In the short form of the page-types tool."""


FLAGS = tuple(
    Flag(name, bit, letter)
    for name, bit, letter in (
        ("locked", 0, "L"),
        ("error", 1, "E"),
        ("referenced", 2, "R"),
        ("uptodate", 3, "U"),
        ("dirty", 4, "D"),
        ("lru", 5, "l"),
        ("active", 6, "A"),
        ("slab", 7, "S"),
        ("writeback", 8, "W"),
        ("reclaim", 9, "I"),
        ("buddy", 10, "B"),
        ("mmap", 11, "M"),
        ("anonymous", 12, "a"),
        ("swapcache", 13, "s"),
        ("swapbacked", 14, "b"),
        ("compound_head", 15, "H"),
        ("compound_tail", 16, "T"),
        ("huge", 17, "G"),
        ("unevictable", 18, "u"),
        ("hwpoison", 19, "X"),
        ("nopage", 20, "n"),
        ("ksm", 21, "x"),
        ("thp", 22, "t"),
        ("offline", 23, "o"),
        ("zero_page", 24, "z"),
        ("idle_page", 25, "i"),
        ("pgtable", 26, "g"),
        ("reserved", 32, "r"),
        ("mlocked", 33, "m"),
        ("mappedtodisk", 34, "d"),
        ("private", 35, "P"),
        ("private_2", 36, "p"),
        ("owner_private", 37, "O"),
        ("arch", 38, "h"),
        ("uncached", 39, "c"),
        ("softdirty", 40, "f"),
        ("arch_2", 41, "H"),
        ("arch_3", 42, "H"),
    )
)
"""Every bit the kernel defines, lowest first."""
BITS: Dict[str, int] = {flag.name: flag.bit for flag in FLAGS}


def flag_names(word: int) -> Tuple[str, ...]:
    """Return the names of the bits that are set, as the page-types tool has them."""
    return tuple(flag.name for flag in FLAGS if int(word) >> flag.bit & 1)


def flag_letters(word: int) -> str:
    """Return the bits in the short form of the page-types tool."""
    return "".join(flag.letter if int(word) >> flag.bit & 1 else "_" for flag in FLAGS)
