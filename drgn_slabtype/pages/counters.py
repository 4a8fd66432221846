# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a slab counts
------------------

The allocators' own counters, wherever the kernel keeps them.
"""

from __future__ import annotations

from drgn import Object

from ..errors import LayoutError
from ..pagetype.encoding import ActiveState
from .words import address_of, layout_of, word_of


def slab_get_active(slab: Object) -> int:
    """
    Return SLAB's count of objects of a slab that are not on its own freelist.

    Objects parked in array caches are among them. After an overflow or
    underflow of a count that shares its word with the page type, this is what
    the kernel reads; :func:`slab_active_state` tells.

    >>> (slab, *_) = for_each_slab(find_slab_cache("kmalloc-64"))
    >>> slab_get_active(slab)
    64

    :param slab: ``struct slab *``, or head ``struct page *``
    :return: Number of objects.
    :raises LayoutError: if the slabs of this kernel have no such count (SLUB).
    """
    layout = layout_of(slab)
    prog = slab.prog_
    # Since "[RFC v3 2/4] mm: move PG_slab flag to page_type", never merged, the
    # count is part of the page type word.
    if layout.active == "page_type":
        return layout.encoding.active(word_of(slab, layout))
    if layout.packed is not None:
        return int(layout.packed.active(prog.read_u32(address_of(slab) + layout.packed.offset)))
    if layout.active == "word":
        return word_of(slab, layout)
    raise LayoutError(f"the slabs of {layout.allocator} have no active count")


def slab_active_state(slab: Object) -> ActiveState:
    """
    Return whether the active count of a slab overflowed or underflowed.

    Only a count that shares its word with the page type can show it: RFC v3.

    >>> (slab, *_) = for_each_slab(find_slab_cache("kmalloc-64"))
    >>> slab_active_state(slab).name
    'OK'

    :param slab: ``struct slab *``, or head ``struct page *``
    :raises LayoutError: if the slabs of this kernel have no such count (SLUB).
    """
    layout = layout_of(slab)
    if layout.active is None:
        raise LayoutError(f"the slabs of {layout.allocator} have no active count")
    if layout.active != "page_type":
        return ActiveState.OK
    return layout.encoding.active_state(word_of(slab, layout))


def slab_get_inuse(slab: Object) -> int:
    """
    Return SLUB's count of objects of a slab that are not on its own freelist.

    >>> (slab, *_) = for_each_slab(find_slab_cache("kmalloc-64"))
    >>> try:
    ...     print(slab_get_inuse(slab))
    ... except LayoutError as error:
    ...     print(error)
    the slabs of SLAB have no inuse count

    :param slab: ``struct slab *``, or head ``struct page *``
    :return: Number of objects.
    :raises LayoutError: if the slabs of this kernel have no such count (SLAB).
    """
    layout = layout_of(slab)
    if layout.allocator != "SLUB":
        raise LayoutError(f"the slabs of {layout.allocator} have no inuse count")
    return int(
        Object(slab.prog_, f"struct {layout.slab_struct} *", address_of(slab)).inuse.value_()
    )
