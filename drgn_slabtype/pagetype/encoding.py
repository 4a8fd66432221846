# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Encodings of the page type word.

``struct page`` has a 32-bit word that is a map count while the page can be
mapped by user space (``_mapcount``) and a page type otherwise (``page_type``).
What its bits mean has changed several times; each :class:`Encoding` is one
meaning, and :data:`ENCODINGS` has them all by name. This module knows integers
and :mod:`numpy` arrays only; which encoding a kernel uses is decided in
:mod:`drgn_slabtype.pagetype.detect`.

The word is always the 32-bit value a CPU of the dump's byte order loads, so
nothing here depends on endianness, except where two 16-bit members share the
word: see :class:`SplitHalves` and :class:`PackedActive`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple

from ..arguments import ByName
from .word import WORD_MASK, ActiveState, Encoding, PackedActive, is_one

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .word import Words

__all__ = (
    "ALTERNATIVE_1_SLUB",
    "ALTERNATIVE_2",
    "ENCODINGS",
    "INVERTED_6_10",
    "INVERTED_6_11",
    "PAGE_FLAG_4_18",
    "PAGE_FLAG_5_1",
    "PAGE_FLAG_5_3",
    "PAGE_FLAG_5_11",
    "PAGE_FLAG_6_9",
    "RFC_V1",
    "RFC_V1_LOW",
    "RFC_V3",
    "TOP_BYTE",
    "ActiveState",
    "Encoding",
    "InvertedBits",
    "NegatedActive",
    "PackedActive",
    "SplitHalves",
    "TopByte",
    "top_byte",
)

_SIGN = 0x80000000

# The order in which %pGt tries the names it knows; what remains of the word is
# printed as a number.
_PRINTED = ("slab", "hugetlb", "offline", "guard", "table", "buddy", "balloon", "kmemcg")


@dataclass(frozen=True)
class InvertedBits(Encoding):
    """
    One bit for each type, which is *clear* when the page has the type.

    :attr:`types` are masks. Since Linux kernel commit 6e292b9be7f4 ("mm: split
    page_type out from _mapcount") (in v4.18) and before Linux kernel commit
    4ffca5a96678 ("mm: support only one page_type per page") (in v6.12).
    """

    base: int = 0xF0000000
    """Bits that are all set in a word that holds types (``PAGE_TYPE_BASE``)."""
    low_mask: int = 0x7F
    """Bits that a map count can reach by underflow or that the owner may use."""
    low_owners: Optional[Tuple[str, ...]] = ()
    """Types whose owner may use the low bits; ``None`` if all may."""
    keeps_active: bool = field(default=True, compare=False)
    """Where :attr:`carries_active`: whether a count is there, which SLUB has elsewhere."""

    @cached_property
    def types_mask(self) -> int:
        """The bits of all types together."""
        mask = 0
        for bit in self.types.values():
            mask |= bit
        return mask

    @cached_property
    def reserved(self) -> int:
        """Bits that belong to nothing and are always set in a typed word."""
        return WORD_MASK & ~(self.base | self.types_mask | self.low_mask)

    def _is(self, words: Any, value: int) -> Any:
        return (words & (self.base | value)) == self.base

    def _has_type(self, words: Any) -> Any:
        # The kernel compares as signed: (int)word < PAGE_MAPCOUNT_RESERVE,
        # which is -128 (low_mask 0x7f) or -65536 (low_mask 0xffff).
        return (words >= _SIGN) & (words < (WORD_MASK & ~self.low_mask))

    def _set(self, words: Any, value: int) -> Any:
        return words & (WORD_MASK & ~value)

    def _clear(self, words: Any, value: int) -> Any:
        return words | value

    def _low_bits(self, words: Any) -> Any:
        return words & self.low_mask

    # The parts of a word that can be wrong. They are about words that are
    # negative as a map count; a mapped page is never in conflict.

    def _base_broken(self, words: Any) -> Any:
        return (words & self.base) != self.base

    def _many_types(self, words: Any) -> Any:
        cleared = ~words & self.types_mask
        # Page tables are accounted to memory cgroups, which is a type of its own
        # beside that of a table, before Linux kernel commit 18b2db3b0385 ("mm:
        # Convert page kmemcg type to a page memcg flag") (in v5.11).
        accounted = self.types.get("kmemcg")
        if accounted is not None:
            cleared = cleared & ~(accounted * ((cleared & self.types["table"]) != 0))
        return (cleared & (cleared - 1)) != 0

    def _reserved_used(self, words: Any) -> Any:
        return (words & self.reserved) != self.reserved

    def _low_stray(self, words: Any) -> Any:
        # Low bits in use although no type present owns them.
        owners = self.types if self.low_owners is None else self.low_owners
        owners_mask = 0
        for name in owners:
            owners_mask |= self.types[name]
        owned = ~words & owners_mask
        return ((words & self.low_mask) != self.low_mask) & (owned == 0)

    def _conflict(self, words: Any) -> Any:
        return (words >= _SIGN) & (
            self._base_broken(words)
            | self._many_types(words)
            | self._reserved_used(words)
            | self._low_stray(words)
        )

    def _faults(self, word: int) -> List[str]:
        if word < _SIGN:
            return []
        if self._base_broken(word):
            return ["map count overflow"]
        faults = []
        if self._many_types(word):
            faults.append("more than one type")
        if self._reserved_used(word):
            faults.append(f"reserved bits used: 0x{~word & self.reserved:x}")
        if self._low_stray(word):
            faults.append(f"map count underflow: low bits 0x{word & self.low_mask:x}")
        return faults

    def _details(self, word: int) -> List[str]:
        low = word & self.low_mask
        if self.types_of(word) and low != self.low_mask and not self._low_stray(word):
            return [f"low bits 0x{low:x}"]
        return []

    def _text(self, word: int) -> str:
        rest = WORD_MASK & ~word
        parts = []
        for name in _PRINTED:
            bit = self.types.get(name, 0)
            if rest & bit:
                parts.append(name)
                rest &= ~bit
        if rest:
            parts.append(f"{rest:#x}")
        return f"{word:#x}({'|'.join(parts) if self._has_type(word) else ''})"


@dataclass(frozen=True)
class NegatedActive(InvertedBits):
    """
    Inverted type bits with SLAB's active count, negated, in the low half.

    From "[RFC v3 2/4] mm: move PG_slab flag to page_type"
    (https://lore.kernel.org/linux-mm/20221218101901.373450-3-42.hyeyoo@gmail.com/),
    never merged. The word of a slab is ``0xffefffff - active``: one more active
    object is the word minus 1, in plain arithmetic, so a count that leaves
    0..65535 runs into the type bits.
    """

    @property
    def carries_active(self) -> bool:
        return True

    def _active(self, words: Any) -> Any:
        return ~(words | self.types["slab"]) & WORD_MASK

    def _with_active(self, words: Any, active: Any) -> Any:
        # Keeps the slab bit as it is; a word that is no slab stays none.
        slab = self.types["slab"]
        return (((WORD_MASK & ~slab) | (words & slab)) - active) & WORD_MASK

    def _active_state(self, words: Any) -> Tuple[Any, Any, Any]:
        upper = words >> 16
        slab = self.types["slab"] >> 16
        # 0 to 65535: the slab bit and nothing else is clear.
        ok = upper == (0xFFFF & ~slab)
        # From 65536 up the carry clears further type bits; from -1 down the
        # borrow sets the slab bit and clears the types below it.
        overflow = (
            self._is(words, slab << 16)
            & self._many_types(words)
            & ((words & self.reserved) == self.reserved)
        )
        underflow = upper == (0xFFFF & ~(self.types_mask >> 16) | slab)
        return ok, overflow, underflow

    def _details(self, word: int) -> List[str]:
        if self.keeps_active and self.active_state(word) is ActiveState.OK:
            return [f"active {self._active(word)}"]
        return super()._details(word)

    def _faults(self, word: int) -> List[str]:
        state = self.active_state(word)
        if state is ActiveState.OVERFLOW:
            return [f"active count overflow: {self._active(word)}"]
        if state is ActiveState.UNDERFLOW:
            return [f"active count underflow: {self._active(word) - self.types['slab']}"]
        return super()._faults(word)


@dataclass(frozen=True)
class SplitHalves(InvertedBits):
    """
    Two 16-bit members: type bits, and SLAB's active count as it is.

    From "[RFC PATCH] mm: move PG_slab flag to page_type"
    (https://lore.kernel.org/linux-mm/20220919125708.276864-1-42.hyeyoo@gmail.com/),
    never merged. ``page_type`` is meant to be the upper half of the word, and
    is on little endian. The posting tests ``CPU_BIG_ENDIAN`` where Kconfig
    defines ``CONFIG_CPU_BIG_ENDIAN``, so that a big-endian kernel built from it
    has ``page_type`` in the lower half: :attr:`type_low`. Masks are given for
    the upper half in both cases.

    The count cannot run into the type bits: past 65535 it is 0 again, which no
    single word shows. ``page_has_type()`` of that posting is never true (it
    compares a 16-bit value with -1); :meth:`has_type` does what it meant.
    """

    type_low: bool = False
    """Whether the type bits are in the lower half of the word."""

    @property
    def carries_active(self) -> bool:
        return True

    def _turn(self, words: Any) -> Any:
        # Between the word and the form with the types in the upper half.
        return ((words << 16) | (words >> 16)) & WORD_MASK if self.type_low else words

    def _is(self, words: Any, value: int) -> Any:
        return super()._is(self._turn(words), value)

    def _has_type(self, words: Any) -> Any:
        return super()._has_type(self._turn(words))

    def _set(self, words: Any, value: int) -> Any:
        return self._turn(super()._set(self._turn(words), value))

    def _clear(self, words: Any, value: int) -> Any:
        return self._turn(super()._clear(self._turn(words), value))

    def _low_bits(self, words: Any) -> Any:
        return super()._low_bits(self._turn(words))

    def _conflict(self, words: Any) -> Any:
        return super()._conflict(self._turn(words))

    def _faults(self, word: int) -> List[str]:
        return super()._faults(self._turn(word))

    def _active(self, words: Any) -> Any:
        return self._turn(words) & 0xFFFF

    def _with_active(self, words: Any, active: Any) -> Any:
        return self._turn((self._turn(words) & 0xFFFF0000) | (active & 0xFFFF))

    def _active_state(self, words: Any) -> Tuple[Any, Any, Any]:
        slab = self._is(words, self.types["slab"])
        return slab, False & slab, False & slab

    def _details(self, word: int) -> List[str]:
        has_count = self.keeps_active and self._is(word, self.types["slab"])
        return [f"active {self._active(word)}"] if has_count else []

    def _text(self, word: int) -> str:
        names = [name for name in _PRINTED if name in self.types_of(word)]
        return f"{word:#x}({'|'.join(names)})"


@dataclass(frozen=True)
class TopByte(Encoding):
    """
    One type for a page, the value of the top byte.

    :attr:`types` are byte values. Since Linux kernel commit 4ffca5a96678 ("mm:
    support only one page_type per page") (in v6.12). The low 24 bits belong to
    the owner of the page, so the whole word must never be compared.
    """

    def _is(self, words: Any, value: int) -> Any:
        return (words >> 24) == value

    def _has_type(self, words: Any) -> Any:
        return (words >= _SIGN) & (words < 0xFF000000)

    def has_type_of_6_12(self, word: int) -> bool:
        """
        Return what ``page_has_type()`` answers in Linux 6.12 to 6.14.

        It passes the word where the word plus 1 is expected ("mm: fix parameter
        passed to page_mapcount_is_type()" repairs it), and so differs from
        :meth:`has_type` for 0x80000000 and 0xff000000, which no page has.
        """
        return self.has_type(word - 1)

    def _set(self, words: Any, value: int) -> Any:
        return (words & 0) | (value << 24)

    def _clear(self, words: Any, value: int) -> Any:
        return words | WORD_MASK

    def _low_bits(self, words: Any) -> Any:
        return words & 0xFFFFFF

    def _table(self) -> npt.NDArray[np.uint16]:
        # For each top byte, the bit of its type.
        import numpy as np

        table = np.zeros(256, np.uint16)
        for i, value in enumerate(self.types.values()):
            table[value] |= 1 << i
        return table

    def _type_bits(self, words: Words) -> npt.NDArray[np.uint16]:
        bits: npt.NDArray[np.uint16] = self._table()[words >> 24]
        return bits

    def _conflict(self, words: Any) -> Any:
        # 0x00 to 0x7f is a map count, 0x80 to 0xef one that overflowed.
        known = self.types.values()
        if is_one(words):
            return words >> 24 >= 0x80 and words >> 24 not in known and words != WORD_MASK
        import numpy as np

        unknown = np.arange(256) >= 0x80
        unknown[list(known)] = False
        return unknown[words >> 24] & (words != WORD_MASK)

    def _faults(self, word: int) -> List[str]:
        byte = word >> 24
        if byte < 0x80 or byte in self.types.values() or word == WORD_MASK:
            return []
        if byte < 0xF0:
            return ["map count overflow"]
        if byte == 0xFF:
            return ["map count underflow"]
        return [f"unknown type 0x{byte:x}"]

    def _details(self, word: int) -> List[str]:
        low = self._low_bits(word)
        return [f"low bits 0x{low:x}"] if self.types_of(word) and low else []

    def _text(self, word: int) -> str:
        if not self._has_type(word):
            return ""
        byte = word >> 24
        names = {value: name for name, value in self.types.items()}
        name = names.get(byte, "unknown")
        return f"{byte:x}({_PRINTED_BY_TOP_BYTE.get(name, name)})"


# Types that dump_page() has no name for, and what it prints instead.
_PRINTED_BY_TOP_BYTE = {"zsmalloc": "(null)", "large_kmalloc": "unknown"}


def _shifted(types: Mapping[str, int], bits: int) -> Dict[str, int]:
    return {name: mask << bits for name, mask in types.items()}


# Before Linux kernel commit 46df8e73a4a3 ("mm: free up PG_slab") (in v6.10),
# slab is a page flag. The other types are macros, so that debug info does not
# have them; each numbering is known by the first release that has it.
PAGE_FLAG_4_18 = InvertedBits(
    "page-flag-4.18", {"buddy": 0x80, "balloon": 0x100, "kmemcg": 0x200, "table": 0x400}
)
# Since "mm: convert PG_balloon to PG_offline" (in v5.1).
PAGE_FLAG_5_1 = InvertedBits(
    "page-flag-5.1", {"buddy": 0x80, "offline": 0x100, "kmemcg": 0x200, "table": 0x400}
)
# Since "mm, debug_pagealloc: use a page type instead of page_ext flag" (in v5.3).
PAGE_FLAG_5_3 = InvertedBits("page-flag-5.3", {**PAGE_FLAG_5_1.types, "guard": 0x800})
# Since Linux kernel commit 18b2db3b0385 ("mm: Convert page kmemcg type to a
# page memcg flag") (in v5.11).
PAGE_FLAG_5_11 = InvertedBits(
    "page-flag-5.11", {"buddy": 0x80, "offline": 0x100, "table": 0x200, "guard": 0x400}
)
# Since Linux kernel commit d99e3140a4d3 ("mm: turn folio_test_hugetlb into a
# PageType") (in v6.9, and in stable releases of older kernels).
PAGE_FLAG_6_9 = InvertedBits("page-flag-6.9", {**PAGE_FLAG_5_11.types, "hugetlb": 0x800})

# Since Linux kernel commit 46df8e73a4a3 ("mm: free up PG_slab") (in v6.10).
INVERTED_6_10 = InvertedBits("inverted-6.10", {**PAGE_FLAG_6_9.types, "slab": 0x1000})
# Since Linux kernel commit 8db00ad56461 ("mm: allow reuse of the lower 16 bit
# of the page type with an actual type") (in v6.11).
INVERTED_6_11 = InvertedBits(
    "inverted-6.11",
    {
        "buddy": 0x40000000,
        "offline": 0x20000000,
        "table": 0x10000000,
        "guard": 0x08000000,
        "hugetlb": 0x04000000,
        "slab": 0x02000000,
        "zsmalloc": 0x01000000,
    },
    base=0x80000000,
    low_mask=0xFFFF,
    low_owners=None,
)
TOP_BYTE = TopByte(
    "top-byte",
    {
        "buddy": 0xF0,
        "offline": 0xF1,
        "table": 0xF2,
        "guard": 0xF3,
        "hugetlb": 0xF4,
        "slab": 0xF5,
        "zsmalloc": 0xF6,
        "unaccepted": 0xF7,
        "large_kmalloc": 0xF8,
    },
)

_RFC_V1_TYPES = {"buddy": 0x2, "offline": 0x4, "table": 0x8, "guard": 0x10, "slab": 0x20}
RFC_V1 = SplitHalves("rfc-v1", _shifted(_RFC_V1_TYPES, 16), low_mask=0xFFFF, low_owners=("slab",))
RFC_V1_LOW = replace(RFC_V1, name="rfc-v1-low", type_low=True)
RFC_V3 = NegatedActive(
    "rfc-v3",
    {"buddy": 0x10000, "offline": 0x20000, "table": 0x40000, "guard": 0x80000, "slab": 0x100000},
    low_mask=0xFFFF,
    low_owners=("slab",),
)
# Discussed with the RFC: convert SLUB only and leave SLAB its page flag, so
# that no bits need to move; and give SLAB's count another place.
ALTERNATIVE_1_SLUB = InvertedBits("alternative-1-slub", {**PAGE_FLAG_5_11.types, "slab": 0x800})
ALTERNATIVE_2 = InvertedBits("alternative-2", RFC_V3.types, low_mask=0xFFFF)

ENCODINGS: Mapping[str, Encoding] = ByName(
    "layout",
    PAGE_FLAG_4_18,
    PAGE_FLAG_5_1,
    PAGE_FLAG_5_3,
    PAGE_FLAG_5_11,
    PAGE_FLAG_6_9,
    RFC_V1,
    RFC_V1_LOW,
    RFC_V3,
    ALTERNATIVE_1_SLUB,
    ALTERNATIVE_2,
    INVERTED_6_10,
    INVERTED_6_11,
    TOP_BYTE,
)
"""
Every known encoding by name, oldest first.

Their methods know integers and :mod:`numpy` arrays only, and no kernel: ``set()``, ``clear()``,
``increment()`` and ``decrement()`` do to a word what the kernel does.

>>> list(ENCODINGS)[:3]
['page-flag-4.18', 'page-flag-5.1', 'page-flag-5.3']
>>> hex(ENCODINGS["rfc-v3"].increment(0xffefffff))
'0xffeffffe'
"""


def top_byte(types: Mapping[str, int]) -> TopByte:
    """
    Return the top-byte encoding with the types of a kernel's own ``enum pagetype``.

    :param types: Byte value of each type, by lower-case name.
    """
    return replace(TOP_BYTE, types=dict(types))
