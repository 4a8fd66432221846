# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Short lists of the kernel, link by link
---------------------------------------

Lists of slabs are walked over the columns of the index; those of a few hundred
structures are read as they stand. Nothing here trusts a list to end.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional

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


class Torn(NamedTuple):
    """The link at which a list does not close."""

    links: int
    """``struct list_head *`` it is part of."""
    member: str
    """``next`` or ``prev``."""
    word: int
    """Where it is."""
    expected: Optional[int]
    """Where it should lead, as far as others tell."""
    found: int
    """Where it leads."""


def torn(machine: Machine, forward: Followed, backward: Followed) -> Torn:
    """
    Return the damaged link of a list that does not close.

    :param forward: The list, followed until it does not lead on.
    :param backward: Followed the other way.
    """
    word, link = machine.memory.word_size, forward.found
    if link == backward.found and link not in (forward.at, backward.at):
        # Both neighbours lead to a member that leads to neither.
        ways = unlisted(machine, link)
        if ways is not None and forward.at != ways[1]:
            if ways[0] == backward.at:
                return Torn(link, "prev", link + word, forward.at, ways[1])
            return Torn(link, "next", link, backward.at, ways[0])
    # The walk from behind came to the neighbour of the damaged link.
    if link == backward.at and backward.found != forward.at:
        return Torn(backward.at, "prev", backward.at + word, forward.at, backward.found)
    expected = backward.at if backward.found == forward.at else None
    return Torn(forward.at, "next", forward.at, expected, link)


def unlisted(machine: Machine, link: int) -> Optional[List[int]]:
    """
    Return the next and prev of a member that no neighbour leads back to.

    It is on no list then. ``None`` of one that is on one, or is not in the target.

    :param link: ``struct list_head *``.
    """
    read, word = machine.memory.read_word, machine.memory.word_size
    try:
        ahead, back = read(link), read(link + word)
    except (FaultError, OverflowError):
        return None
    for neighbour, where in ((ahead, ahead + word), (back, back)):
        try:
            if neighbour != link and read(where) == link:
                return None
        except (FaultError, OverflowError):  # no address, which is no other list
            pass
    return [ahead, back]
