# SPDX-License-Identifier: LGPL-2.1-or-later

"""
What every meaning of the page type word has in common.

The methods of :class:`Encoding` take one word (an ``int``, signed or unsigned)
or a ``uint32`` array, and answer with an ``int``/``bool`` or an array. The
encodings themselves are in :mod:`drgn_slabtype.pagetype.encoding`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, List, Mapping, Tuple, overload

from ..arguments import word32_of
from ..errors import ArgumentError
from ..shapes import Hex

# One word takes no numpy, whose import takes longer than all the rest of "decode".
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Words = npt.NDArray[np.uint32]
    Mask = npt.NDArray[np.bool_]

__all__ = ("ActiveState", "Encoding", "PackedActive")

WORD_MASK = 0xFFFFFFFF
_SIGN = 0x80000000


def _word(words: Any) -> Any:
    # Normalise the input: a uint32 array in native byte order, or an int in
    # 0..0xffffffff. Signed input is taken modulo 2**32.
    if is_one(words):
        return word32_of(words)
    if words.dtype.itemsize > 4 and ((words > WORD_MASK) | (words < -(1 << 31))).any():
        raise ArgumentError("an array has words of more than 32 bits")
    return words.astype("u4", copy=False)


def is_one(words: Any) -> bool:
    """Return whether this is one word, not an array of them."""
    return not getattr(words, "shape", ())


class ActiveState(IntEnum):
    """
    What the bits around an active count say about it.

    >>> ENCODINGS["rfc-v3"].active_state(0xffeffffa) is ActiveState.OK
    True
    """

    OK = 0
    """The word is a slab and nothing else; its count can be taken."""
    OVERFLOW = 1
    """The count went past 65535 and carried into the type bits."""
    UNDERFLOW = 2
    """The count went below zero and borrowed from the type bits."""
    NONE = 3
    """The word is not that of a slab and holds no count."""


class Counting:
    """The active count in the word of a slab, where an encoding has room for one."""

    name: str

    @property
    def carries_active(self) -> bool:
        """Whether the word of a slab has room for SLAB's active count."""
        return False

    # The hooks of encodings with carries_active.

    def _active(self, words: Any) -> Any:
        raise ValueError(f"{self.name} carries no active count")

    def _with_active(self, words: Any, active: Any) -> Any:
        raise ValueError(f"{self.name} carries no active count")

    def _active_state(self, words: Any) -> Tuple[Any, Any, Any]:
        # Masks of ok, overflow and underflow.
        raise ValueError(f"{self.name} carries no active count")

    @overload
    def active(self, words: int) -> int: ...
    @overload
    def active(self, words: npt.NDArray[Any]) -> Words: ...
    def active(self, words: Any) -> Any:
        """
        Return the active count as the kernel's ``slab_get_active()`` does.

        After an overflow or underflow, and for words that are no slab, the
        number is what the kernel would compute; see :meth:`active_state`.
        """
        return self._active(_word(words))

    @overload
    def with_active(self, words: int, active: int) -> int: ...
    @overload
    def with_active(self, words: npt.NDArray[Any], active: Any) -> Words: ...
    def with_active(self, words: Any, active: Any) -> Any:
        """
        Return the word with another active count.

        Counts outside 0..65535 give the word that incrementing or
        decrementing up to there gives in the kernel.
        """
        return self._with_active(_word(words), _word(active))

    @overload
    def increment(self, words: int) -> int: ...
    @overload
    def increment(self, words: npt.NDArray[Any]) -> Words: ...
    def increment(self, words: Any) -> Any:
        """Return the word after the kernel has added 1 to the active count."""
        words = _word(words)
        return self._with_active(words, self._active(words) + 1)

    @overload
    def decrement(self, words: int) -> int: ...
    @overload
    def decrement(self, words: npt.NDArray[Any]) -> Words: ...
    def decrement(self, words: Any) -> Any:
        """Return the word after the kernel has subtracted 1 from the active count."""
        words = _word(words)
        return self._with_active(words, self._active(words) - 1)

    @overload
    def active_state(self, words: int) -> ActiveState: ...
    @overload
    def active_state(self, words: npt.NDArray[Any]) -> npt.NDArray[np.uint8]: ...
    def active_state(self, words: Any) -> Any:
        """
        Return whether the active count in the word of a slab is sound.

        :return: An :class:`ActiveState`, or a ``uint8`` array of its values.
        """
        words = _word(words)
        ok, overflow, underflow = self._active_state(words)
        states = [ActiveState.OK, ActiveState.OVERFLOW, ActiveState.UNDERFLOW]
        if is_one(words):
            found = zip((ok, overflow, underflow), states)
            return next((state for is_so, state in found if is_so), ActiveState.NONE)
        import numpy as np

        code = np.full(words.shape, ActiveState.NONE, np.uint8)
        for is_so, state in zip((underflow, overflow, ok), reversed(states)):
            code[is_so] = state
        return code


@dataclass(frozen=True)
class Encoding(Counting, ABC):
    """
    One meaning of the page type word.

    >>> encoding = ENCODINGS["rfc-v3"]
    >>> isinstance(encoding, Encoding), encoding.types["slab"] == 0x100000
    (True, True)
    >>> word = encoding.set(encoding.idle, "slab")
    >>> hex(encoding.increment(word)), encoding.active(encoding.increment(word))
    ('0xffeffffe', 1)
    >>> hex(encoding.decrement(word)), encoding.active_state(encoding.decrement(word)).name
    ('0xfff00000', 'UNDERFLOW')
    >>> hex(encoding.clear(word, "slab"))
    '0xffffffff'
    """

    name: str
    """Short stable name, a key of :data:`ENCODINGS`."""
    types: Mapping[str, Hex] = field(hash=False)
    """
    Page types by the kernel's lower-case name: the mask of the bit, or the
    value of the top byte. The order is that of :meth:`types_of` bits.
    """

    idle = WORD_MASK
    """The word of a page that has no type and no mapping."""

    def __post_init__(self) -> None:
        if len(self.types) > 16:
            raise ValueError(f"{self.name}: more than 16 page types")

    @property
    def has_slab_type(self) -> bool:
        """Whether slab is a page type (otherwise it is a page flag)."""
        return "slab" in self.types

    # The hooks of each encoding. They get and return what _word() returns, in
    # expressions that mean the same for an int and for an array.

    @abstractmethod
    def _is(self, words: Any, value: int) -> Any: ...

    @abstractmethod
    def _has_type(self, words: Any) -> Any: ...

    @abstractmethod
    def _set(self, words: Any, value: int) -> Any: ...

    @abstractmethod
    def _clear(self, words: Any, value: int) -> Any: ...

    @abstractmethod
    def _low_bits(self, words: Any) -> Any: ...

    @abstractmethod
    def _conflict(self, words: Any) -> Any: ...

    @abstractmethod
    def _faults(self, word: int) -> List[str]:
        # What _conflict() objects to, in words.
        ...

    def _type_bits(self, words: Words) -> npt.NDArray[np.uint16]:
        import numpy as np

        bits = np.zeros(words.shape, np.uint16)
        for i, value in enumerate(self.types.values()):
            bits |= self._is(words, value).astype(np.uint16) << np.uint16(i)
        return bits

    @abstractmethod
    def _text(self, word: int) -> str: ...

    def _details(self, word: int) -> List[str]:
        # What explain() adds about a healthy word.
        return []

    def _value(self, type: str) -> int:
        try:
            return self.types[type]
        except KeyError:
            raise ValueError(f"{self.name} has no page type {type!r}") from None

    @overload
    def is_type(self, words: int, type: str) -> bool: ...
    @overload
    def is_type(self, words: npt.NDArray[Any], type: str) -> Mask: ...
    def is_type(self, words: Any, type: str) -> Any:
        """
        Return whether the kernel's test for a page type is true.

        More than one test can be true in the encodings that use one bit a
        type; see :meth:`conflict`.
        """
        return self._is(_word(words), self._value(type))

    @overload
    def has_type(self, words: int) -> bool: ...
    @overload
    def has_type(self, words: npt.NDArray[Any]) -> Mask: ...
    def has_type(self, words: Any) -> Any:
        """Return whether the word is a page type, not a map count."""
        return self._has_type(_word(words))

    @overload
    def set(self, words: int, type: str) -> int: ...
    @overload
    def set(self, words: npt.NDArray[Any], type: str) -> Words: ...
    def set(self, words: Any, type: str) -> Any:
        """Return the word after the kernel has set a page type."""
        return self._set(_word(words), self._value(type))

    @overload
    def clear(self, words: int, type: str) -> int: ...
    @overload
    def clear(self, words: npt.NDArray[Any], type: str) -> Words: ...
    def clear(self, words: Any, type: str) -> Any:
        """Return the word after the kernel has cleared a page type."""
        return self._clear(_word(words), self._value(type))

    @overload
    def low_bits(self, words: int) -> int: ...
    @overload
    def low_bits(self, words: npt.NDArray[Any]) -> Words: ...
    def low_bits(self, words: Any) -> Any:
        """Return the bits below the type, which its owner may use, raw."""
        return self._low_bits(_word(words))

    @overload
    def types_of(self, words: int) -> Tuple[str, ...]: ...
    @overload
    def types_of(self, words: npt.NDArray[Any]) -> npt.NDArray[np.uint16]: ...
    def types_of(self, words: Any) -> Any:
        """
        Return the page types whose test is true.

        :return: For one word a tuple of names; for an array a ``uint16``
            array in which bit *i* stands for the *i*-th name of :attr:`types`.
        """
        words = _word(words)
        if is_one(words):
            return tuple(name for name, value in self.types.items() if self._is(words, value))
        return self._type_bits(words)

    @overload
    def conflict(self, words: int) -> bool: ...
    @overload
    def conflict(self, words: npt.NDArray[Any]) -> Mask: ...
    def conflict(self, words: Any) -> Any:
        """
        Return whether the word is one that no healthy page shows.

        That is: two types at once, bits in use that belong to no type, a map
        count that overflowed or underflowed, or an overflow or underflow of
        the active count. On kernels where slab is a page flag, the word of a
        SLAB page is a plain active count, which is never a conflict.
        """
        return self._conflict(_word(words))

    def text(self, word: int) -> str:
        """
        Return the word as the kernel prints it.

        This is what ``%pGt`` prints (Linux 6.4 to 6.11), or what
        ``dump_page()`` prints after ``page_type:`` (since Linux 6.12; the
        empty string where it prints no such line). Older kernels print
        nothing; for them the form of Linux 6.4 is used.
        """
        return self._text(_word(word))

    def explain(self, word: int) -> str:
        """Return a short explanation of the word for a person."""
        word = _word(word)
        names = self.types_of(word)
        if names:
            told = " and ".join(names)
        elif word == self.idle:
            told = "no type, idle"
        elif word < _SIGN:
            told = f"no type, count {word}"
        else:
            told = "no type"
        return "; ".join([told, *self._details(word), *self._faults(word)])


@dataclass(frozen=True)
class PackedActive:
    """
    Alternative 2: SLAB's active count and ``s_mem`` offset in one word.

    Discussed with the RFC, so that page_type gets the whole ``_mapcount``
    word: ``s_mem`` is the address of the slab plus a 16-bit offset. Nothing was
    posted, so the place of the fields is data; take it from the debug info.

    An offset over 65535, possible for objects of hundreds of KiB, does not fit.
    """

    offset: int = 0
    """Offset of the 32-bit word in ``struct slab``, in bytes."""
    active_shift: int = 0
    """First bit of ``active`` in the 32-bit word."""
    s_mem_shift: int = 16
    """First bit of the offset of the first object."""

    def active(self, words: Any) -> Any:
        """Return the active count in a word or in a ``uint32`` array."""
        return (words >> self.active_shift) & 0xFFFF

    def s_mem_offset(self, words: Any) -> Any:
        """Return the offset of the first object from the slab, in bytes."""
        return (words >> self.s_mem_shift) & 0xFFFF

    def pack(self, active: Any, s_mem_offset: Any) -> Any:
        """
        Return the word for a count and an offset.

        What does not fit in 16 bits is cut off as a store to the member does,
        and never runs into the other field; see :meth:`fits`.
        """
        return ((active & 0xFFFF) << self.active_shift) | (
            (s_mem_offset & 0xFFFF) << self.s_mem_shift
        )

    @staticmethod
    def fits(active: Any, s_mem_offset: Any) -> Any:
        """Return whether a count and an offset can be stored without loss."""
        return (active >= 0) & (active <= 0xFFFF) & (s_mem_offset >= 0) & (s_mem_offset <= 0xFFFF)
