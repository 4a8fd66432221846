# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the members of ``struct page`` lie that tell what a page is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Optional

from .directmap import LINEAR_BYTES

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


def page_of(machine: Machine, address: int) -> Optional[int]:
    """
    Return the ``struct page *`` that an address lies in, or whose page it lies in.

    ``None`` for what is neither in the memory map nor in the direct map.
    """
    page, memory = machine.page, machine.memory
    inside = address - page.vmemmap
    if 0 <= inside < (LINEAR_BYTES >> memory.page_shift) * page.size:
        return address - inside % page.size
    physical = address - memory.linear_base
    if not 0 <= physical < LINEAR_BYTES:
        return None
    return page.vmemmap + (physical >> memory.page_shift) * page.size


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
