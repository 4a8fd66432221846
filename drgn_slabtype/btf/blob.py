# SPDX-License-Identifier: LGPL-2.1-or-later
"""
BTF as columns
--------------

The format is that of Linux' ``Documentation/bpf/btf.rst``: a header, a section
of types, one behind the other and known by their number, and a section of
strings. All is in the byte order of the kernel. Nothing in it is trusted.
"""

from __future__ import annotations

import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt

from ..errors import TargetError

U32 = npt.NDArray[np.uint32]

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF, VOLATILE, CONST, RESTRICT = range(1, 12)
FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(12, 20)

HEADER_BYTES = 24
_MAGIC = 0xEB9F
_VERSION = 1
_WORD = 4
# Words that follow the three of each type: so many, and so many for each of the
# vlen things it has.
_FIXED = {INT: 1, ARRAY: 3, VAR: 1, DECL_TAG: 1}
_EACH = {STRUCT: 3, UNION: 3, ENUM: 2, FUNC_PROTO: 2, DATASEC: 3, ENUM64: 3}
_KINDS = range(INT, ENUM64 + 1)
_KIND_MASK, _KIND_SHIFT, _VLEN_MASK, _KIND_FLAG = 0x7F, 24, 0xFFFFFF, 1 << 31


class BtfError(TargetError):
    """BTF that is damaged, or of a kind this program does not know."""


class Entry(NamedTuple):
    """One type as it is written."""

    kind: int
    name: str
    """Empty if it has none."""
    flag: bool
    """The bit whose meaning depends on the kind."""
    size_type: int
    """Size in bytes, or the number of another type."""
    words: Tuple[int, ...]
    """What follows."""


class Blob:
    """
    The types of one kernel by number and by name.

    :param data: All of it, as between ``__start_BTF`` and ``__stop_BTF``.
    :raises BtfError: if it is not BTF.
    """

    def __init__(self, data: bytes) -> None:
        self.byteorder = _byteorder(data)
        """``<`` or ``>``."""
        header = struct.unpack_from(f"{self.byteorder}HBBIIIII", data)
        _, version, _, size, type_at, type_size, string_at, string_size = header
        if version != _VERSION:
            raise BtfError(f"BTF of version {version} is not known")
        type_end = size + type_at + type_size
        string_end = size + string_at + string_size
        if size < HEADER_BYTES or max(type_end, string_end) > len(data) or type_at % _WORD:
            raise BtfError("BTF is damaged: its sections do not fit into it")
        words = np.frombuffer(
            data, f"{self.byteorder}u4", type_size // _WORD, size + type_at
        ).astype(np.uint32)
        self._words = words.data  # gives integers, and faster than an array does
        self._strings = data[size + string_at : string_end]
        self._starts = np.array(self._walk(), np.uint32)
        infos = words[self._starts + 1]
        # Type 0 is void and not written down.
        self._kinds: U32 = np.zeros(len(self), np.uint32)
        self._kinds[1:] = infos >> _KIND_SHIFT & _KIND_MASK
        self._lengths: U32 = infos & np.uint32(_VLEN_MASK)
        names = words[self._starts]
        self._by_name = np.argsort(names, kind="stable")
        self._sorted_names: U32 = names[self._by_name]
        self._numbers: Dict[str, List[int]] = {}
        self._enumerators = self._find_enumerators(words)

    def __len__(self) -> int:
        # With type 0.
        return len(self._starts) + 1

    def _walk(self) -> List[int]:
        # Where each type begins.
        words, starts, at = self._words, [], 0
        fixed = [_FIXED.get(kind, 0) + 3 if kind in _KINDS else 0 for kind in range(128)]
        each = [_EACH.get(kind, 0) for kind in range(128)]
        end = len(words)
        while at + 2 < end:
            info = words[at + 1]
            kind = info >> _KIND_SHIFT & _KIND_MASK
            if not fixed[kind]:
                raise BtfError(f"BTF has types of kind {kind}, which is not known")
            starts.append(at)
            at += fixed[kind] + each[kind] * (info & _VLEN_MASK)
        if at != end or not starts:
            raise BtfError("BTF is damaged: its types do not fill their section")
        return starts

    def _find_enumerators(self, words: U32) -> Tuple[U32, U32]:
        # Where the name of each enumerator is, sorted, and which type it is of.
        names, owners = [np.zeros(0, np.uint32)], [np.zeros(0, np.uint32)]
        for kind in (ENUM, ENUM64):
            rows = np.flatnonzero(self._kinds[1:] == kind)
            counts = self._lengths[rows].astype(np.int64)
            first = np.repeat(np.cumsum(counts) - counts, counts)
            nth = np.arange(len(first)) - first
            at = np.repeat(self._starts[rows].astype(np.int64), counts) + 3 + nth * _EACH[kind]
            names.append(words[at])
            owners.append(np.repeat(rows + 1, counts).astype(np.uint32))
        all_names, all_owners = np.concatenate(names), np.concatenate(owners)
        order = np.lexsort((all_owners, all_names))
        return all_names[order], all_owners[order]

    def kind(self, number: int) -> int:
        """
        Return the kind of a type, 0 for void.

        :raises BtfError: if there is no such type.
        """
        if not 0 <= number < len(self):
            raise BtfError(f"BTF is damaged: it names type {number} of {len(self)}")
        return int(self._kinds[number])

    def entry(self, number: int) -> Entry:
        """
        Return a type as it is written.

        :raises BtfError: if there is no such type, or it is void.
        """
        kind = self.kind(number)
        if not kind:
            raise BtfError("BTF is damaged: something is of type void that cannot be")
        at = int(self._starts[number - 1])
        count = _FIXED.get(kind, 0) + _EACH.get(kind, 0) * int(self._lengths[number - 1])
        info = self._words[at + 1]
        return Entry(
            kind,
            self.string(self._words[at]),
            bool(info & _KIND_FLAG),
            self._words[at + 2],
            tuple(self._words[at + 3 : at + 3 + count]),
        )

    def string(self, offset: int) -> str:
        """
        Return the string at an offset.

        :raises BtfError: if it does not end.
        """
        end = self._strings.find(b"\0", offset) if offset < len(self._strings) else -1
        if end < 0:
            raise BtfError("BTF is damaged: a name lies outside of its strings")
        return self._strings[offset:end].decode("ascii", "replace")

    def numbers(self, name: str) -> List[int]:
        """Return the types of a name, of whatever kind, in their order."""
        found = self._numbers.get(name)
        if found is None:
            rows = np.concatenate(
                [self._by_name[slice(*_equal(self._sorted_names, at))] for at in self._places(name)]
                or [np.zeros(0, np.intp)]
            )
            found = self._numbers[name] = sorted((rows + 1).tolist())
        return found

    def find(self, name: str, *kinds: int) -> Optional[int]:
        """Return the first type of a name that is of one of some kinds."""
        return next((n for n in self.numbers(name) if self._kinds[n] in kinds), None)

    def enumeration(self, name: str) -> Optional[int]:
        """Return the first enumeration that has an enumerator of this name."""
        names, owners = self._enumerators
        ranges = [_equal(names, at) for at in self._places(name)]
        return min((int(owners[first]) for first, end in ranges if first < end), default=None)

    def _places(self, name: str) -> Iterator[int]:
        # Where the strings have it. One may be the end of another.
        wanted = name.encode("ascii", "replace") + b"\0"
        at = self._strings.find(wanted) if name else -1
        while at >= 0:
            yield at
            at = self._strings.find(wanted, at + 1)


def _byteorder(data: bytes) -> str:
    if len(data) < HEADER_BYTES:
        raise BtfError("BTF is cut off")
    for byteorder in "<>":
        if struct.unpack_from(f"{byteorder}H", data)[0] == _MAGIC:
            return byteorder
    raise BtfError("there is something else where BTF should be")


def _equal(ordered: U32, value: int) -> Tuple[int, int]:
    # The range of a sorted column that has a value.
    key = np.uint32(value)
    return int(np.searchsorted(ordered, key)), int(np.searchsorted(ordered, key, "right"))
