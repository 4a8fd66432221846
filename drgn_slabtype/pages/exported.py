# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What dump tools make of a kernel
--------------------------------

Dump tools know slab pages by numbers that the kernel exports in VMCOREINFO, and
some compare the whole word of a page with them. Where the word of a slab holds
more than its type, they miss slabs.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt

from ..machine import Machine
from ..machine.columns import numbers_at
from ..pagetype.detect import ONLY_WHILE_IDLE, PageTypeLayout
from ..pagetype.sources import vmcoreinfo_number
from .scan import PageScan, scan

_SLAB = "PAGE_SLAB_MAPCOUNT_VALUE"


class Missed(NamedTuple):
    """Slabs that a tool does not know as such if it compares for equality."""

    number: int
    """As VMCOREINFO has it."""
    slabs: int
    pages: int
    of_slabs: int
    of_pages: int

    def __str__(self) -> str:
        return (
            f"a tool that compares the whole word with {_SLAB} {self.number} misses "
            f"{self.slabs} of {self.of_slabs} slabs, {self.pages} of {self.of_pages} slab pages"
        )


def missed_by_equality(machine: Machine, found: Optional[PageScan] = None) -> Optional[Missed]:
    """
    Return which slabs a dump tool misses that compares words for equality.

    :param found: A scan of the memory map, if there is one already.
    :return: ``None`` if it misses none, or has no number to compare with.
    """
    number = vmcoreinfo_number(machine.vmcoreinfo, _SLAB)
    layout = machine.layout
    if number is None or layout.slab_flag is not None:
        return None
    heads = (found or scan(machine)).heads
    at = layout.word_offset
    words = numbers_at(heads.raw, at, np.dtype(f"{machine.memory.byteorder}u4"))
    pages: npt.NDArray[np.int64] = np.int64(1) << np.minimum(heads.orders, 24).astype(np.int64)
    other = words != np.uint32(number & 0xFFFFFFFF)
    if not other.any():
        return None
    return Missed(number, int(other.sum()), int(pages[other].sum()), len(words), int(pages.sum()))


def misread(layout: PageTypeLayout, missed: Optional[Missed]) -> Tuple[str, ...]:
    """
    Return what dump tools misread of a kernel, each thing once.

    :param missed: What :func:`missed_by_equality` has found.
    """
    notes = layout.notes
    if missed is None:
        return notes
    others = tuple(note for note in notes if not note.startswith(ONLY_WHILE_IDLE))
    if len(others) == len(notes):
        return (*notes, str(missed))
    return (f"{ONLY_WHILE_IDLE}: {missed}", *others)
