# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The words of one page
---------------------

Read from the target each time; of a ``struct page``, ``struct folio`` or ``struct
slab``, as a pointer or itself.
"""

from __future__ import annotations

from drgn import Object
from drgn.helpers.linux.mm import compound_head

from ..arguments import structure_of
from ..machine import machine
from ..pagetype.detect import PageTypeLayout

_POINTERS = frozenset({"struct page *", "struct folio *", "struct slab *"})


def address_of(page: Object) -> int:
    """
    Return where a page is: ``struct page *``.

    :raises ArgumentError: if it is none.
    """
    # Asked for each page that a script looks at: the name of a type is had at once.
    if isinstance(page, Object) and page.type_.type_name() in _POINTERS:
        at = int(page.value_())
        if at:
            return at
    return structure_of(page, "page", "folio", "slab")


def layout_of(page: Object) -> PageTypeLayout:
    """Return how the kernel of a page marks its pages."""
    address_of(page)
    return machine(page.prog_).layout


def head_of(page: Object) -> Object:
    """Return the head of the compound page that a page is part of, or itself."""
    return compound_head(Object(page.prog_, "struct page *", address_of(page)))


def flags_of(page: Object, layout: PageTypeLayout) -> int:
    """Return ``page->flags``."""
    return int(page.prog_.read_word(address_of(page) + layout.flags_offset))


def word_of(page: Object, layout: PageTypeLayout) -> int:
    """Return the 32 bits that hold the type or the map count of a page."""
    return int(page.prog_.read_u32(address_of(page) + layout.word_offset))
