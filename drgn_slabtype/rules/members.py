# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the members of a cache promise about each other
----------------------------------------------------

``struct kmem_cache`` is laid out once, when the cache is made; later only an
alias of it can make its objects larger. So its members follow from each other,
and one that does not is damaged, whatever the slabs say.

The two allocators lay out a cache in their own ways; each hands over the members
as they are in memory, and nothing here trusts them.
"""

from __future__ import annotations

from typing import Iterable, Iterator, NamedTuple, Optional, Tuple

from ..arguments import named
from ..codes import ADDRESS, OBJECTS, SIZE, Measure
from ..ledger import Suspect
from ..records import plural

MAX_ORDER = 24  # no kernel allocates more than 2^24 pages at once
MAX_OBJECTS = 32767  # of a slab of SLUB: more do not fit slab->objects, of 15 bits


class Pointer(NamedTuple):
    """A pointer of a cache."""

    name: str
    address: int
    leads: bool
    """Whether it leads to something of its kind."""
    needed: bool
    """Whether no cache is without it."""
    alignment: int = 1
    kind: str = ""
    """What it must lead to, as a finding spells it; empty if to any memory."""


class SlabMembers(NamedTuple):
    """The members that ``__kmem_cache_create()`` of SLAB leaves; sizes are bytes."""

    page_size: int
    order: int
    size: int
    object_size: int
    obj_offset: int
    num: int
    colour: int
    colour_off: int
    freelist_size: int
    index_size: int
    """Bytes of one entry of an index array."""
    on_slab: bool
    """Whether index arrays lie at the end of their slabs."""

    @property
    def span(self) -> int:
        """Bytes of a slab."""
        return self.page_size << min(self.order, MAX_ORDER)


class SlubMembers(NamedTuple):
    """The members that ``calculate_sizes()`` of SLUB leaves; sizes are bytes."""

    word: int
    """Bytes of a pointer."""
    size: int
    object_size: int
    inuse: int
    align: int
    offset: int
    red_zone: bool
    """Whether the cache's flags ask for red zones."""
    red_left_pad: Optional[int]
    """``None`` without ``CONFIG_SLUB_DEBUG``."""
    usercopy: Optional[Tuple[int, int]]
    """``useroffset`` and ``usersize``; ``None`` where no cache has them."""
    in_middle: bool
    """Whether free pointers lie in the middle of objects."""


class Tuning(NamedTuple):
    """How many objects an array of a CPU may hold, and how many it gives away at a time."""

    limit: int
    batchcount: int


def _wrong(
    member: str,
    what: str,
    expected: Optional[int],
    found: int,
    measure: Optional[Measure] = None,
) -> Suspect:
    return Suspect(
        "cache-wrong", what, expected=expected, found=found, member=member, measure=measure
    )


def judge_pointers(pointers: Iterable[Pointer]) -> Iterator[Suspect]:
    """Yield the pointers of a cache that lead where no kernel has anything."""
    for pointer in pointers:
        at = pointer.address
        sound = pointer.leads and at % pointer.alignment == 0
        if not sound and (at or pointer.needed):
            kind = f", which is no {pointer.kind}" if pointer.kind else ""
            yield _wrong(
                pointer.name, f"{pointer.name} leads to {named(at)}{kind}", None, at, ADDRESS
            )


def judge_slab(cache: SlabMembers) -> Iterator[Suspect]:
    """Yield what ``__kmem_cache_create()`` cannot have left in a cache of SLAB."""
    slot = max(cache.size, 1) + (cache.index_size if cache.on_slab else 0)
    num, left = divmod(cache.span, slot)
    for member, kept, should, measure in (
        ("num", cache.num, num, OBJECTS),
        ("freelist_size", cache.freelist_size, num * cache.index_size, SIZE),
        ("colour", cache.colour, left // cache.colour_off, None),
    ):
        if kept != should:
            what = (
                f"{member} is {kept} for slots of {plural(cache.size, 'byte')} in slabs of order "
            )
            yield _wrong(member, f"{what}{cache.order}, not {should}", should, kept, measure)
    if cache.object_size + cache.obj_offset > cache.size:
        what = f"objects of {plural(cache.object_size, 'byte')} do not fit slots of {cache.size}"
        yield _wrong("object_size", what, None, cache.object_size, SIZE)


def judge_slub(cache: SlubMembers) -> Iterator[Suspect]:
    """Yield what ``calculate_sizes()`` cannot have left in a cache of SLUB."""
    yield from _judge_inuse(cache)
    size, align, word = cache.size, cache.align, cache.word
    if not align or size % align:
        yield _wrong(
            "align", f"align is {align} with slots of {plural(size, 'byte')}", None, align, SIZE
        )
    left = (cache.red_left_pad or 0) if cache.red_zone else 0
    if cache.offset % word or cache.offset + word > size - left:
        what = f"free pointers are at offset {cache.offset} in slots of {plural(size, 'byte')}"
        yield _wrong("offset", what, None, cache.offset, SIZE)
    if cache.red_left_pad is not None:
        should = _round_up(word, max(align, 1)) if cache.red_zone else 0
        if cache.red_left_pad != should:
            what = f"red_left_pad is {cache.red_left_pad}, not {should}"
            yield _wrong("red_left_pad", what, should, cache.red_left_pad, SIZE)
    if cache.usercopy is not None:
        first, end = cache.usercopy[0], sum(cache.usercopy)
        if end > cache.object_size:
            what = f"bytes {first} to {end} may be copied of objects of {cache.object_size}"
            yield _wrong("usersize", what, None, end, SIZE)


def usual_inuse(object_size: int, red_zone: bool, word: int) -> int:
    """Return the bytes of an object up to its metadata, as ``calculate_sizes()`` takes them."""
    usual = _round_up(object_size, word)
    # A red zone that finds no room behind the object gets a word of its own.
    return usual + word if red_zone and usual == object_size else usual


def _judge_inuse(cache: SlubMembers) -> Iterator[Suspect]:
    inuse, usual = cache.inuse, usual_inuse(cache.object_size, cache.red_zone, cache.word)
    # What is larger than its slot, or has no room for the pointer in its middle, is wrong itself;
    # an alias may have made the objects larger since.
    middle = cache.object_size // 2 // cache.word * cache.word
    if inuse != usual and (
        cache.object_size > cache.size or (cache.in_middle and cache.offset > middle)
    ):
        what = f"object_size is {cache.object_size}, and inuse {inuse}"
        yield _wrong("object_size", what, None, cache.object_size, SIZE)
    elif inuse != usual:
        what = f"inuse is {inuse} for objects of {plural(cache.object_size, 'byte')}"
        yield _wrong("inuse", what, usual, inuse, SIZE)
    if inuse > cache.size:
        what = f"inuse is {inuse} in slots of {plural(cache.size, 'byte')}"
        yield _wrong("inuse", what, cache.size, inuse, SIZE)


def judge_tuning(cache: Tuning, arrays: Optional[Tuning]) -> Iterator[Suspect]:
    """
    Yield what no cache can be tuned to.

    :param arrays: What the arrays of all its CPUs agree on; ``None`` if they do not.
    """
    # While a cache is tuned, its arrays are the new ones and its own numbers
    # the old; both are such as a cache can be tuned to.
    if arrays is None:
        return
    for member, kept, own, sound in (
        ("limit", cache.limit, arrays.limit, cache.limit > 0),
        (
            "batchcount",
            cache.batchcount,
            arrays.batchcount,
            0 < cache.batchcount <= cache.limit,
        ),
    ):
        if kept != own and not sound:
            what = f"{member} is {kept}, and the arrays of its CPUs have {own}"
            yield _wrong(member, what, own, kept, OBJECTS)
            return


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
