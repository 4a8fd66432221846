# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pointers to the allocator's own structures, before they are followed."""

from __future__ import annotations

from typing import Optional

import numpy as np

from ..codes import ADDRESS
from ..ledger import U64, Bools, Suspect
from ..machine import Machine
from .whereabouts import in_no_memory


def wild_pointers(machine: Machine, pointers: U64, alignment: int, there: Bools) -> Bools:
    """
    Return which pointers lead where no target can have a structure.

    :param alignment: What the structures are aligned to, in bytes.
    :param there: Which lead to something. What is not in the target, and in no slab, was not
        left out of it: such structures lie in slabs.
    """
    wild = ~machine.memory.is_kernel_address(pointers)
    wild |= pointers % np.uint64(alignment) != 0
    lost = ~wild & ~there
    if lost.any():
        wild[lost] = in_no_memory(machine, pointers[lost])
    return wild


def wild_pointer(
    what: str,
    pointer: int,
    node: Optional[int] = None,
    cpu: Optional[int] = None,
    place: Optional[str] = None,
    word: Optional[int] = None,
) -> Suspect:
    """
    Return the finding that a node or CPU has lost one of its structures.

    :param what: The structure.
    :param place: What is in it.
    :param word: Where the pointer stands.
    """
    leads = f"leads to 0x{pointer:x}" if pointer else "is NULL"
    message = f"pointer to the {what} {leads}"
    return Suspect(
        "container-state",
        message,
        node=node,
        cpu=cpu,
        place=place,
        found=pointer,
        word=word,
        measure=ADDRESS,
    )


def repeated(pointers: U64, holders: U64) -> Bools:
    """
    Return which pointers lead where one before them leads; NULL leads nowhere.

    :param holders: Where each stands: one that is met twice is one pointer.
    """
    there = pointers != 0
    if np.count_nonzero(there) < 2:
        return np.zeros(len(there), np.bool_)
    return there & _again(pointers) & ~_again(holders)


def _again(numbers: U64) -> Bools:
    found = np.ones(len(numbers), np.bool_)
    found[np.unique(numbers, return_index=True)[1]] = False
    return found


def as_shared(pointer: Suspect) -> Suspect:
    """Return what :func:`wild_pointer` says as that the structure is another's as well."""
    return pointer._replace(message=f"{pointer.message}, which is another's as well")
