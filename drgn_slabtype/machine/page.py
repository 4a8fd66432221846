# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the members of ``struct page`` lie that tell what a page is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from . import Machine


class PageFields(NamedTuple):
    """Offsets in ``struct page``, in bytes, and where all of them lie."""

    size: int
    flags: int
    word: int
    """``_mapcount`` / ``page_type``."""
    compound: int
    """``compound_head``, since Linux 7.1 ``compound_info``."""
    refcount: int
    long: int
    """Bytes of an ``unsigned long``."""
    vmemmap: int = 0
    """``struct page *`` of page frame 0."""


def page_fields(machine: Machine) -> PageFields:
    """
    Return the :class:`PageFields` of a machine.

    :raises LookupError: if there is no ``struct page``, or no one memory map.
    """
    page = machine.structure("struct page")
    # Since Linux kernel commit d50569612c29 (in v7.1), compound_head is
    # named compound_info.
    compound = "compound_info" if page.has("compound_info") else "compound_head"
    return PageFields(
        page.size,
        page.offset("flags"),
        page.offset("_mapcount"),
        page.offset(compound),
        page.offset("_refcount"),
        machine.memory.word_size,
        machine.memory_map.vmemmap,
    )
