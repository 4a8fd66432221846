# SPDX-License-Identifier: LGPL-2.1-or-later
"""C types of a made-up program."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from drgn import (
    Object,
    PlatformFlags,
    Program,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    sizeof,
)


class Types:
    """
    Types of one program, laid out as a C compiler does.

    Members are given as ``(name, type)`` or ``(name, type, bits)``; a name of
    ``None`` embeds an unnamed structure or union.
    """

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.little = bool(prog.platform and prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN)
        self.known: Dict[str, Type] = {}
        word = prog.address_size()
        self.void = prog.void_type()
        self.pointer = prog.pointer_type(self.void)
        for name, size, signed in (
            ("char", 1, True),
            ("unsigned char", 1, False),
            ("unsigned short", 2, False),
            ("int", 4, True),
            ("unsigned int", 4, False),
            ("long", word, True),
            ("unsigned long", word, False),
        ):
            self.known[name] = prog.int_type(name, size, signed)
        self.ulong = self.known["unsigned long"]
        self.uint = self.known["unsigned int"]
        self.int = self.known["int"]
        self.u16 = self.typedef("u16", self.known["unsigned short"])
        self.u8 = self.typedef("u8", self.known["unsigned char"])
        prog.register_type_finder("synthetic", self._find, enable_index=0)

    def _find(self, prog: Program, kinds: TypeKindSet, name: str, filename: Any) -> Optional[Type]:
        for kind, prefix in (
            (TypeKind.STRUCT, "struct "),
            (TypeKind.UNION, "union "),
            (TypeKind.ENUM, "enum "),
            (TypeKind.TYPEDEF, ""),
            (TypeKind.INT, ""),
        ):
            type = self.known.get(prefix + name)
            if kind in kinds and type is not None and type.kind is kind:
                return type
        return None

    def typedef(self, name: str, type: Type) -> Type:
        """Define a typedef."""
        self.known[name] = self.prog.typedef_type(name, type)
        return self.known[name]

    def enum(self, tag: str, values: Mapping[str, int]) -> Type:
        """Define an enumeration, as wide as its values need."""
        negative = any(value < 0 for value in values.values())
        wide = any(
            not -(1 << 31) <= value < (1 << (31 if negative else 32)) for value in values.values()
        )
        compatible = self.prog.int_type(
            "long long" if wide else "int" if negative else "unsigned int",
            8 if wide else 4,
            negative,
        )
        enumerators = [TypeEnumerator(name, value) for name, value in values.items()]
        self.known[f"enum {tag}"] = self.prog.enum_type(tag, compatible, enumerators)
        return self.known[f"enum {tag}"]

    def array(self, type: Type, length: int) -> Type:
        """Return an array type."""
        return self.prog.array_type(type, length)

    def align(self, type: Type) -> int:
        """Return the alignment of a type in bytes."""
        if type.kind is TypeKind.TYPEDEF or type.kind is TypeKind.ARRAY:
            return self.align(type.type)
        if type.kind in (TypeKind.STRUCT, TypeKind.UNION):
            return max((self.align(member.type) for member in type.members or ()), default=1)
        return int(sizeof(type))

    def _members(
        self, members: Sequence[Tuple[Any, ...]], union: bool
    ) -> Tuple[List[TypeMember], int]:
        result, bits, end, align = [], 0, 0, 1
        for name, type, *width in members:
            align = max(align, self.align(type))
            start = 0 if union else bits
            size = 8 * sizeof(type)
            if width:
                unit = start // size * size
                if start + width[0] > unit + size:
                    start = unit + size
                value: Any = Object(self.prog, type, value=0, bit_field_size=width[0])
                bits = start + width[0]
            else:
                start = -(-start // (8 * self.align(type))) * 8 * self.align(type)
                value = type
                bits = start + size
            end = max(end, bits)
            result.append(TypeMember(value, name, start))
        return result, -(-end // (8 * align)) * align

    def struct(self, tag: Optional[str], *members: Tuple[Any, ...]) -> Type:
        """Define a structure."""
        made, size = self._members(members, union=False)
        type = self.prog.struct_type(tag, size, made)
        if tag is not None:
            self.known[f"struct {tag}"] = type
        return type

    def union(self, *members: Tuple[Any, ...]) -> Type:
        """Return a union without a name."""
        made, size = self._members(members, union=True)
        return self.prog.union_type(None, size, made)
