# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which encoding a kernel uses
----------------------------

:func:`detect` decides from the debug info and VMCOREINFO how a kernel
marks slab pages and where SLAB keeps its active count, and says which evidence
it used. It never looks at the release, which distributions make meaningless
with backports, and it refuses what it does not recognise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Mapping, Optional, Tuple

import numpy as np
from drgn import Program, Type, sizeof

from ..errors import LayoutError, UnsupportedError
from ..records import Record
from .encoding import (
    RFC_V1,
    RFC_V1_LOW,
    RFC_V3,
    Encoding,
    InvertedBits,
    PackedActive,
)
from .evidence import Evidence
from .recognise import find_encoding
from .sources import (
    Field,
    fields,
    parts,
    vmcoreinfo_integer,
)
from .word import WORD_MASK

__all__ = ("ONLY_WHILE_IDLE", "PageTypeLayout", "detect")

ONLY_WHILE_IDLE = "the word of a slab is PAGE_SLAB_MAPCOUNT_VALUE only while no object is active"
"""What dump tools have to know of SLAB with RFC v3."""


@dataclass(frozen=True)
class PageTypeLayout(Record):
    """How one kernel tells what a page is."""

    encoding: Encoding
    """Meaning of the page type word."""
    slab_flag: Optional[int]
    """Bit number of ``PG_slab`` in ``page->flags``, ``None`` if slab is a page type."""
    head_flag: int
    """Bit number of ``PG_head`` in ``page->flags``."""
    allocator: str
    """``"SLAB"``, ``"SLUB"`` or ``"SLOB"``."""
    slab_struct: str
    """Structure with the members of a slab: ``"page"``, or ``"slab"`` since Linux 5.17."""
    active: Optional[str]
    """
    Where SLAB keeps its active count: ``"word"`` (plain, in place of the map
    count), ``"page_type"`` (in the page type word, see :attr:`encoding`),
    ``"packed"`` (elsewhere, see :attr:`packed`); ``None`` without SLAB.
    """
    packed: Optional[PackedActive]
    """Where the count is if :attr:`active` is ``"packed"``."""
    page_slab_follows_head: bool
    """Whether the kernel's ``PageSlab()`` is true for the tail pages of a slab."""
    word_offset: int
    """Offset of the page type word in ``struct page``, in bytes."""
    flags_offset: int
    """Offset of the flags in ``struct page``, in bytes."""
    flags_mask: int
    """All bits of an ``unsigned long``: the flags of a page never initialised."""
    evidence: Tuple[str, ...]
    """What the decision rests on, a sentence each."""
    notes: Tuple[str, ...]
    """What could not be confirmed, and what would mislead other tools."""

    def is_slab(self, flags: Any, words: Any) -> Any:
        """
        Return whether pages carry the slab mark.

        Each page is judged by itself: the tail pages of a slab carry none.

        :param flags: ``page->flags``, an integer or a ``uint64`` array.
        :param words: Page type words, an integer or a ``uint32`` array.
        """
        if self.slab_flag is None:
            return self.encoding.is_type(words, "slab")
        # A struct page that was never initialised may be all ones.
        if isinstance(flags, np.ndarray):
            flag = flags.dtype.type(1 << self.slab_flag)
            return ((flags & flag) != 0) & (flags != self.flags_mask)
        return bool(flags & (1 << self.slab_flag)) and flags != self.flags_mask


def detect(prog: Program, info: Mapping[str, str], origin: Optional[str]) -> PageTypeLayout:
    """
    Return how a kernel marks its pages.

    :param info: VMCOREINFO by its keys.
    :param origin: Where its types are from, if not from debug info: evidence, a sentence.
    :raises MissingDebugInfoError: if the types needed are not there.
    :raises LayoutError: if the layout is not known, or the debug info
        contradicts VMCOREINFO.
    :raises UnsupportedError: if the kernel is older than Linux 4.18.
    """
    return _layout(Evidence(prog, info, origin))


def _layout(told: Evidence) -> PageTypeLayout:
    word = _word(told)
    _check_page(told)
    allocator = _allocator(told)
    slab_struct, slab_type = told.slab_struct()
    encoding, slab_flag = find_encoding(told)
    active, packed = None, None
    if allocator == "SLAB":
        active, packed = _active(told, encoding, slab_flag, word, slab_struct, slab_type)
    if active == "packed" and isinstance(encoding, InvertedBits):
        # The bits of RFC v3, say, but the low half of the word stays unused.
        encoding = InvertedBits("alternative-2", encoding.types, encoding.base, encoding.low_mask)
    _check_types(told, encoding)
    _warn(told, encoding, slab_flag, active)
    if active is None and isinstance(encoding, InvertedBits) and encoding.carries_active:
        encoding = replace(encoding, keeps_active=False)
    return PageTypeLayout(
        encoding=encoding,
        slab_flag=slab_flag,
        head_flag=_head_flag(told),
        allocator=allocator,
        slab_struct=slab_struct,
        active=active,
        packed=packed,
        page_slab_follows_head=_follows_head(told, encoding, slab_type),
        word_offset=word.bit_offset // 8,
        flags_offset=told.page["flags"].bit_offset // 8,
        flags_mask=(1 << told.page["flags"].bit_size) - 1,
        evidence=tuple(told.evidence),
        notes=tuple(told.notes),
    )


def _word(told: Evidence) -> Field:
    word = told.page.get("_mapcount")
    if word is None or word.bit_size != 32 or "flags" not in told.page:
        raise LayoutError("struct page has no 32-bit _mapcount and flags")
    if "page_type" not in told.page:
        raise UnsupportedError(
            "struct page has no page_type: kernels before Linux 4.18 are not supported"
        )
    return word


def _check_page(told: Evidence) -> None:
    size = sizeof(told.page_type)
    offset = told.page["_mapcount"].bit_offset // 8
    for key, ours in (("SIZE(page)", size), ("OFFSET(page._mapcount)", offset)):
        theirs = vmcoreinfo_integer(told.info, key)
        if theirs is not None and theirs != ours:
            told.contradiction(key, theirs, f"the debug info says {ours}")


def _head_flag(told: Evidence) -> int:
    mask = told.number("PG_head_mask")
    flag = told.pageflags.get("PG_head")
    if flag is not None:
        if mask is not None and mask != 1 << flag:
            told.contradiction("NUMBER(PG_head_mask)", mask, f"PG_head is flag {flag}")
        return flag
    if mask is None or mask <= 0 or mask & (mask - 1):
        raise LayoutError("neither enum pageflags nor VMCOREINFO has PG_head")
    told.evidence.append(f"VMCOREINFO has PG_head_mask {mask:#x}")
    return mask.bit_length() - 1


def _allocator(told: Evidence) -> str:
    members = fields(told.type("struct kmem_cache"))
    for allocator, needed in (
        ("SLAB", ("cpu_cache", "num", "gfporder")),
        ("SLUB", ("oo", "offset")),
        ("SLOB", ("object_size", "name")),
    ):
        if all(name in members for name in needed):
            told.evidence.append(
                f"struct kmem_cache has {' and '.join(needed)}: the allocator is {allocator}"
            )
            return allocator
    raise LayoutError("struct kmem_cache is neither that of SLAB, nor of SLUB, nor of SLOB")


def _active(
    told: Evidence,
    encoding: Encoding,
    slab_flag: Optional[int],
    word: Field,
    slab_struct: str,
    slab_type: Type,
) -> Tuple[str, Optional[PackedActive]]:
    members = fields(slab_type)
    active = members.get("active")
    if active is None:
        types = members.get("page_type")
        if encoding is RFC_V3 and types is not None and types[1:] == word[1:]:
            told.evidence.append(
                f"struct {slab_struct} has page_type and no active:"
                " SLAB's active count is in the page type word"
            )
            return "page_type", None
    elif encoding in (RFC_V1, RFC_V1_LOW):
        return "page_type", None
    elif active.bit_size == 32 and active.bit_offset == word.bit_offset:
        if slab_flag is not None:
            told.evidence.append(f"struct {slab_struct} has active in the _mapcount word")
            return "word", None
    elif active.bit_size == 16 and "s_mem" not in members:
        packed = _packed(told, active, members)
        told.evidence.append(
            f"struct {slab_struct} has no s_mem, and a 16-bit active at offset"
            f" {active.bit_offset // 8}: Alternative 2"
        )
        return "packed", packed
    raise LayoutError(
        f"struct {slab_struct} is that of SLAB, but where it keeps the active count of a slab"
        f" is not known (encoding {encoding.name})"
    )


def _packed(told: Evidence, active: Field, members: Mapping[str, Field]) -> PackedActive:
    start = active.bit_offset & ~31
    others = [
        field
        for field in members.values()
        if field.bit_size == 16 and field.bit_offset & ~31 == start and field != active
    ]
    if len(others) != 1:
        raise LayoutError("the word of active in struct slab has no 16-bit s_mem offset")
    return PackedActive(start // 8, told.shift(active, start), told.shift(others[0], start))


def _follows_head(told: Evidence, encoding: Encoding, slab_type: Type) -> bool:
    # RFC v1 defines PageSlab() like the tests for all other types.
    if encoding in (RFC_V1, RFC_V1_LOW):
        return False
    # PageSlab() went to the head page until "slab: Reimplement page_slab()"
    # and the rest of its series (in v6.19). That leaves no trace in the
    # types, but struct freelist_counters is embedded in struct slab since
    # the same release.
    for type, field in parts(slab_type):
        if not field.name and getattr(type, "tag", None) == "freelist_counters":
            told.evidence.append(
                "struct slab embeds struct freelist_counters:"
                " PageSlab() does not go to the head page"
            )
            return False
    return True


def _check_types(told: Evidence, encoding: Encoding) -> None:
    agreed = []
    for name, mask in encoding.types.items():
        key = f"PAGE_{name.upper()}_MAPCOUNT_VALUE"
        number = told.number(key)
        if number is None:
            continue
        word = encoding.set(encoding.idle, name)
        if encoding in (RFC_V1, RFC_V1_LOW):
            # RFC v1 left VMCOREINFO alone, which prints ~PG_buddy of the
            # 16-bit value.
            word = ~(mask >> 16) & WORD_MASK
        if number & WORD_MASK != word:
            told.contradiction(f"NUMBER({key})", number, f"{name} pages have {word:#x}")
        agreed.append(f"{key} {number}")
    if agreed:
        told.evidence.append(f"VMCOREINFO agrees: {', '.join(agreed)}")


def _warn(
    told: Evidence, encoding: Encoding, slab_flag: Optional[int], active: Optional[str]
) -> None:
    if active == "page_type" and encoding is RFC_V3:
        told.notes.append(
            f"{ONLY_WHILE_IDLE}: tools that compare the whole word with it miss every slab in use"
        )
    number = told.number("PG_slab")
    if slab_flag is None and number is not None:
        told.notes.append(
            f"VMCOREINFO has PG_slab {number}, which is a page type here:"
            " tools that test it as a page flag misread every page"
        )
    if "PG_slab" in told.pagetype:
        told.notes.append(
            "PG_slab in the debug info is a page type here:"
            " tools that test it as a page flag misread every page"
        )
