# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Short lists of the kernel, link by link
---------------------------------------

Lists of slabs are walked over the columns of the index; those of a few hundred
structures are read as they stand. Nothing here trusts a list to end.
"""

from __future__ import annotations

from typing import List, NamedTuple

import numpy as np
from drgn import FaultError

from ..machine import Machine


class Followed(NamedTuple):
    """How far the links of a list lead."""

    links: List[int]
    """``struct list_head *`` of the members, in the order of the walk."""
    closed: bool
    """Whether the last leads back to the head."""
    at: int
    """The last link that made sense."""
    found: int
    """Where it leads."""
    readable: bool
    """Whether that is in the target."""


def follow(machine: Machine, head: int, most: int, backward: bool = False) -> Followed:
    """
    Follow a list from its head while each member leads back to the one before.

    :param head: ``struct list_head *``
    :param most: Number of members at which the walk ends.
    :param backward: Follow ``prev`` rather than ``next``.
    """
    read, word = machine.memory.read_word, machine.memory.word_size
    ahead, back = (word, 0) if backward else (0, word)
    links: List[int] = []
    seen = {head}
    at = link = head
    while len(links) < most:
        try:
            link = read(at + ahead)
            if link == head:
                return Followed(links, read(head + back) == at, at, link, True)
            kernel = machine.memory.is_kernel_address(np.array([link], np.uint64))[0]
            if link in seen or not kernel or read(link + back) != at:
                break
        except FaultError:
            return Followed(links, False, at, link, False)
        except OverflowError:  # the last bytes of the address space
            break
        seen.add(link)
        links.append(link)
        at = link
    return Followed(links, False, at, link, True)
