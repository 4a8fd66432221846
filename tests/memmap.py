# SPDX-License-Identifier: LGPL-2.1-or-later
"""A memory map for findings that no machine has: which struct page an address is of."""

from __future__ import annotations

from typing import Optional

MAP, PAGE = 0xFFFFEA0000000000, 64
"""Where the struct pages begin, and how many bytes each has."""
LINEAR = 0xFFFF888000000000
"""Where the memory begins that they describe."""


def page_of(address: int) -> Optional[int]:
    """Return the struct page that an address lies in, or that describes it."""
    if address >= MAP:
        return address - (address - MAP) % PAGE
    return MAP + (address - LINEAR >> 12) * PAGE if address >= LINEAR else None
