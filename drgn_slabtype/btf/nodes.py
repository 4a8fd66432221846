# SPDX-License-Identifier: LGPL-2.1-or-later
"""
BTF as a graph of types
-----------------------

What :class:`~drgn_slabtype.finders.TypeBuilder` needs to know of each type, made
when it is asked for. Tags of types and declarations are left out.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

from drgn import Qualifiers

from ..finders import Node, Ref
from . import blob as b
from .blob import Blob, BtfError, Entry

_QUALIFIERS = {
    b.CONST: Qualifiers.CONST.value,
    b.VOLATILE: Qualifiers.VOLATILE.value,
    b.RESTRICT: Qualifiers.RESTRICT.value,
    b.TYPE_TAG: 0,
}
_MODIFIERS = (*_QUALIFIERS, b.TYPEDEF)
_TAGS = {b.STRUCT: "struct", b.UNION: "union"}
_OF_BITS = (b.INT, b.ENUM, b.ENUM64)
_SIGNED, _BOOL = 1, 4  # encodings of integers
_INTEGER_NAMES = {1: "char", 2: "short", 4: "int", 8: "long"}
_MAX_CHAIN = 64  # of qualifiers
_MAX_UNNAMED = 1 << 16  # structures without a name inside of one


class BtfNodes:
    """
    The graph of one kernel's types.

    :param word_size: Bytes of a pointer.
    """

    def __init__(self, blob: Blob, word_size: int) -> None:
        self.blob = blob
        self._word_size = word_size
        self._byteorder = "little" if blob.byteorder == "<" else "big"
        self._unnamed: Dict[int, int] = {}

    def __getitem__(self, at: int) -> Node:
        if not self.blob.kind(at):
            return ["void"]
        entry = self.blob.entry(at)
        kind, size_type, words = entry.kind, entry.size_type, entry.words
        if kind == b.INT:
            return self._integer(entry)
        if kind == b.FLOAT:
            return ["float", entry.name, size_type, self._byteorder]
        if kind == b.PTR:
            return ["pointer", self.ref(size_type), self._word_size]
        if kind == b.ARRAY:
            return ["array", self.ref(words[0]), words[2]]
        if kind == b.TYPEDEF:
            return ["typedef", entry.name, self.ref(size_type)]
        if kind in (b.STRUCT, b.UNION):
            self._count_unnamed(at)
            return [_TAGS[kind], entry.name or None, size_type, self._members(entry)]
        if kind in (b.ENUM, b.ENUM64):
            return self._enumeration(entry)
        if kind == b.FWD:
            return [_TAGS[_forward(entry)], entry.name]
        if kind == b.FUNC_PROTO:
            return self._prototype(entry)
        raise BtfError(f"BTF is damaged: type {at} of kind {kind} is used as that of a value")

    def ref(self, number: int) -> Ref:
        """
        Return a reference to a type, with its qualifiers.

        :raises BtfError: if qualifiers lead nowhere.
        """
        qualifiers = 0
        for _ in range(_MAX_CHAIN):
            kind = self.blob.kind(number)
            if kind == b.FWD:
                entry = self.blob.entry(number)
                whole = self.blob.find(entry.name, _forward(entry))
                number = number if whole is None else whole
            if kind not in _QUALIFIERS:
                return [number, qualifiers] if qualifiers else number
            qualifiers |= _QUALIFIERS[kind]
            number = self.blob.entry(number).size_type
        raise BtfError("BTF is damaged: qualifiers of qualifiers without end")

    def _bare(self, number: int) -> int:
        # Without qualifiers and typedefs.
        for _ in range(_MAX_CHAIN):
            if self.blob.kind(number) not in _MODIFIERS:
                return number
            number = self.blob.entry(number).size_type
        raise BtfError("BTF is damaged: typedefs of typedefs without end")

    def _integer(self, entry: Entry) -> Node:
        encoding = entry.words[0] >> 24
        size = entry.size_type
        if not 0 < size <= 16 or not entry.name:
            raise BtfError(f"BTF is damaged: an integer {entry.name} of {size} bytes")
        if encoding & _BOOL:
            return ["bool", entry.name, size, self._byteorder]
        return ["int", entry.name, size, bool(encoding & _SIGNED), self._byteorder]

    def _enumeration(self, entry: Entry) -> Node:
        tag, words = entry.name or None, entry.words
        if not words:
            return ["enum", tag]
        size = entry.size_type
        if size not in _INTEGER_NAMES:
            raise BtfError(f"BTF is damaged: an enumeration {entry.name} of {size} bytes")
        if entry.kind == b.ENUM:
            names, values, sign = words[::2], words[1::2], 1 << 31
        else:
            names, sign = words[::3], 1 << 63
            values = tuple(low | high << 32 for low, high in zip(words[1::3], words[2::3]))
        # Since Linux kernel commit 6089fb325cf7 ("bpf: Add btf enum64 support")
        # (in v6.0), a flag tells whether the values are signed. In older BTF
        # nothing does.
        if entry.flag:
            values = tuple((value ^ sign) - sign for value in values)
        name = _INTEGER_NAMES[size] if entry.flag else f"unsigned {_INTEGER_NAMES[size]}"
        integer: Node = ["int", name, size, entry.flag, self._byteorder]
        return ["enum", tag, integer, list(zip(map(self.blob.string, names), values))]

    def _prototype(self, entry: Entry) -> Node:
        types = list(entry.words[1::2])
        # The last of a variable number of parameters has neither name nor type.
        variadic = bool(types) and types[-1] == 0
        parameters = [self.ref(type) for type in types[: len(types) - variadic]]
        return ["function", self.ref(entry.size_type), parameters, variadic]

    def _members(self, entry: Entry) -> List[Node]:
        members: List[Node] = []
        words = entry.words
        for at in range(0, len(words), 3):
            offset, size = self._place(words[at + 1], words[at + 2], entry.flag)
            if offset > 8 * entry.size_type:
                raise BtfError(f"BTF is damaged: members outside of {entry.name or 'a structure'}")
            ref = self.ref(words[at + 1])
            if 0 < at == len(words) - 3 and entry.kind == b.STRUCT:
                ref = self._flexible(ref)
            name = self.blob.string(words[at]) or None
            members.append([name, offset, ref] if size is None else [name, offset, ref, size])
        return members

    def _flexible(self, ref: Ref) -> Ref:
        # At the end of a structure, an array without elements is one of any length.
        if isinstance(ref, int) and self.blob.kind(ref) == b.ARRAY:
            node = self[ref]
            if not node[2]:
                return ["array", node[1], None]
        return ref

    def _place(self, type: int, word: int, flag: bool) -> Tuple[int, Optional[int]]:
        # Offset in bits, and the size of a bit field.
        if flag:
            offset, bits = word & 0xFFFFFF, word >> 24
            if not bits:
                return offset, None
            bare = self._bare(type)
            fits = self.blob.kind(bare) in _OF_BITS
        else:
            # Before Linux kernel commit 9d5f9f701b18 ("bpf: btf: fix struct/
            # union/fwd types with kind_flag") (in v5.0), and where no member is
            # one, a bit field is an integer that does not fill its bytes.
            bare = self._bare(type)
            if self.blob.kind(bare) != b.INT:
                return word, None
            place = self.blob.entry(bare).words[0]
            offset, bits, fits = word + (place >> 16 & 0xFF), place & 0xFF, True
        room = 8 * self.blob.entry(bare).size_type if fits else 0
        if not 0 < bits <= room:
            raise BtfError(f"BTF is damaged: a bit field of {bits} bits of {room}")
        return offset, None if not flag and bits == room else bits

    def _count_unnamed(self, at: int, depth: int = 0) -> int:
        # What has no name is searched whenever a member is; it must end.
        counted = self._unnamed.get(at)
        if counted is None:
            self._unnamed[at] = _MAX_UNNAMED
            counted = 1
            words = self.blob.entry(at).words
            for member in range(0, len(words), 3):
                if words[member] and self.blob.string(words[member]):
                    continue
                inner = self._bare(words[member + 1])
                if self.blob.kind(inner) in _TAGS and depth < _MAX_CHAIN:
                    counted += self._count_unnamed(inner, depth + 1)
            self._unnamed[at] = counted if depth < _MAX_CHAIN else _MAX_UNNAMED
        if counted >= _MAX_UNNAMED:
            raise BtfError("BTF is damaged: a structure is part of itself")
        return counted


def _forward(entry: Entry) -> int:
    # What is declared: the flag tells a union from a structure.
    return b.UNION if entry.flag else b.STRUCT
