# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Columns of C structures
-----------------------

Many copies of one structure, read as bytes, seen member by member as numpy
arrays. Offsets, widths and bit fields come from the debug info.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Dict, Literal, Optional, Tuple

import numpy as np
import numpy.typing as npt
from drgn import Type, TypeKind, sizeof

from .memory import U8, U64, Gathered, Memory

_INTEGER_SIZES = (1, 2, 4, 8)
_DTYPES = {(order, size): np.dtype(f"{order}u{size}") for order in "<>" for size in _INTEGER_SIZES}
_COMPOUND = (TypeKind.STRUCT, TypeKind.UNION)


def numbers_at(raw: U8, offset: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """
    Return the number at an offset of each row, as it is stored: a view, for its bytes need not
    be copied together first.

    :param raw: Shape (n, bytes).
    """
    return raw[:, offset : offset + dtype.itemsize].view(dtype)[:, 0]


class Structure:
    """
    Where the members of one type lie.

    :param type: A complete structure, union or typedef of one.
    :param byteorder: ``<`` or ``>``, as numpy spells it.
    """

    def __init__(self, type: Type, byteorder: str) -> None:
        self.type = type
        self.size = sizeof(type)
        """Bytes of one copy."""
        self.byteorder = byteorder
        """``<`` or ``>``, as numpy spells it."""
        self._found: Dict[str, Tuple[int, Optional[int], Type]] = {}
        self._has: Dict[str, bool] = {}

    def has(self, path: str) -> bool:
        """Return whether a member exists; dots lead into nested structures."""
        found = self._has.get(path)
        if found is None:
            try:
                self.offset(path)
                found = True
            except LookupError:
                found = False
            self._has[path] = found
        return found

    def offset(self, path: str) -> int:
        """
        Return the offset of a member in bytes.

        :raises LookupError: if there is no such member.
        """
        return self._find(path)[0] // 8

    def size_of(self, path: str) -> int:
        """
        Return the size of a member in bytes.

        :raises LookupError: if there is no such member.
        """
        return sizeof(self._find(path)[2])

    def type_of(self, path: str) -> Type:
        """
        Return the type of a member.

        :raises LookupError: if there is no such member.
        """
        return self._find(path)[2]

    def _find(self, path: str) -> Tuple[int, Optional[int], Type]:
        # Offset and width in bits, and the type; asked for once per cache of the machine.
        found = self._found.get(path)
        if found is None:
            found = self._found[path] = self._look_up(path)
        return found

    def _look_up(self, path: str) -> Tuple[int, Optional[int], Type]:
        type, bits, width = self.type, 0, None
        for name in path.split("."):
            while type.kind == TypeKind.TYPEDEF:
                type = type.type
            if type.kind not in _COMPOUND:
                raise LookupError(f"{path}: {type.type_name()} has no member {name}")
            member = type.member(name)
            bits += member.bit_offset
            width = member.bit_field_size
            type = member.type
        return bits, width, type

    def column(self, raw: U8, path: str) -> npt.NDArray[np.uint64]:
        """
        Return one integer or pointer member of every row, zero-extended.

        :param raw: Shape (n, :attr:`size`).
        :return: Shape (n,), uint64 in host byte order.
        """
        bits, width, type = self._find(path)
        if width is None:
            size = sizeof(type)
            if size not in _INTEGER_SIZES:
                raise TypeError(f"{path} is no integer")
            return numbers_at(raw, bits // 8, _DTYPES[self.byteorder, size]).astype(np.uint64)
        # A bit field lies inside one naturally aligned unit of its own type.
        unit = sizeof(type)
        start = bits // (8 * unit) * unit
        words = numbers_at(raw, start, _DTYPES[self.byteorder, unit]).astype(np.uint64)
        shift = bits - 8 * start
        if self.byteorder == ">":
            shift = 8 * unit - shift - width
        return (words >> np.uint64(shift)) & np.uint64((1 << width) - 1)


class Rows:
    """
    Copies of one structure read from the target.

    ``rows["member"]`` is the column of that member.
    """

    def __init__(self, structure: Structure, addresses: U64, gathered: Gathered) -> None:
        self.structure = structure
        self.addresses = addresses
        """Shape (n,): where each row was read."""
        self.raw = gathered.bytes
        """Shape (n, size)."""
        self.ok = gathered.ok
        """Shape (n,): which rows could be read; the others are zero."""
        self._columns: Dict[str, npt.NDArray[np.uint64]] = {}

    def __len__(self) -> int:
        return len(self.addresses)

    @cached_property
    def by_address(self) -> Tuple[npt.NDArray[np.intp], U64]:
        """The rows in the order of their addresses, and these."""
        order = np.argsort(self.addresses, kind="stable")
        return order, self.addresses[order]

    def __getitem__(self, path: str) -> npt.NDArray[np.uint64]:
        column = self._columns.get(path)
        if column is None:
            column = self._columns[path] = self.structure.column(self.raw, path)
        return column

    def again(self, memory: Memory, rows: npt.NDArray[np.intp]) -> Rows:
        """
        Return the same structures, some of them as they are now.

        :param rows: Of those that are read again.
        """
        raw, ok = self.raw.copy(), self.ok.copy()
        raw[rows], ok[rows] = memory.gather(self.addresses[rows], self.raw.shape[1])
        return Rows(self.structure, self.addresses, Gathered(raw, ok))

    def put(self, path: str, row: int, value: int) -> None:
        """Put another number into one row of this copy; the target stays as it is."""
        start, size = self.structure.offset(path), self.structure.size_of(path)
        order: Literal["little", "big"] = "big" if self.structure.byteorder == ">" else "little"
        self.overwrite(row, start, value.to_bytes(size, order))

    def overwrite(self, row: int, start: int, data: bytes) -> None:
        """Put other bytes into one row of this copy; the target stays as it is."""
        self.raw[row, start : start + len(data)] = list(data)
        self._columns.clear()

    def integer(self, path: str) -> npt.NDArray[np.uint64]:
        """Return the column of a member that is a structure the size of an integer."""
        start, size = self.structure.offset(path), self.structure.size_of(path)
        if size not in _INTEGER_SIZES:
            raise TypeError(f"{path} has {size} bytes")
        return numbers_at(self.raw, start, _DTYPES[self.structure.byteorder, size]).astype(
            np.uint64
        )


def read_rows(
    memory: Memory, layout: Structure, addresses: U64, size: Optional[int] = None
) -> Rows:
    """
    Read the same structure at many virtual addresses.

    :param size: Bytes of each that exist, where that is less than the whole type.
    """
    addresses = np.asarray(addresses, np.uint64)
    return Rows(layout, addresses, memory.gather(addresses, layout.size if size is None else size))
