# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Types and objects that do not come from debug info
--------------------------------------------------

A capture brings its types along, a kernel with BTF has them in its own memory.
Both are graphs of plain nodes; here they become drgn types, each when it is
first asked for, and answer a program's questions. This module is imported into
every drgn program through the plugin and therefore imports nothing heavy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Dict, List, Optional, Protocol, Union

from drgn import (
    FindObjectFlags,
    Object,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
)
from drgn import TypeParameter as Parameter

from .errors import TargetError

Node = List[Any]
"""One type: its kind followed by what the constructor of that kind needs."""
Ref = Union[int, List[Any]]
"""Position of a node, that and its qualifiers, or a node itself."""

_SIZES = (1, 2, 4, 8, 10, 12, 16)  # of numbers, in bytes
_MAX_DEPTH = 200  # of pointers to arrays to typedefs; a few dozen in any kernel


class Nodes(Protocol):
    """A graph of types; a list of nodes is one."""

    def __getitem__(self, at: int, /) -> Node:
        """Return the node at a position."""


class TypeBuilder:
    """
    Builds the types of a graph, each when it is first asked for.

    :param nodes: What leads back to itself does so through members of
        structures; a graph in which anything else does is damaged.
    """

    def __init__(self, prog: Program, nodes: Nodes) -> None:
        self._prog = prog
        self._nodes = nodes
        self._built: Dict[int, Type] = {}
        self._depth = 0

    def enumerator(self, name: str, at: int) -> Optional[Object]:
        """
        Return an enumerator as an object.

        :param at: Position of its enumeration.
        """
        try:
            for enumerator, value in self._nodes[at][3]:
                if enumerator == name:
                    return Object(self._prog, self.type(at), value)
        except _DAMAGED as error:
            raise _damaged(error) from None
        return None

    def type(self, ref: Ref) -> Type:
        """
        Return the type that a reference means.

        :raises TargetError: if it is made of nothing but itself, or of what is no type.
        """
        try:
            return self._type(ref)
        except _DAMAGED as error:
            raise _damaged(error) from None

    def _type(self, ref: Ref) -> Type:
        if isinstance(ref, list):
            if isinstance(ref[0], str):
                return self._build(ref)
            return self._type(ref[0]).qualified(Qualifiers(ref[1]))
        built = self._built.get(ref)
        if built is None:
            built = self._built[ref] = self._build(self._nodes[ref])
        return built

    def _build(self, node: Node) -> Type:
        if self._depth > _MAX_DEPTH:
            raise TargetError("the description of types is damaged: one leads to itself")
        self._depth += 1
        try:
            return self._make(node)
        finally:
            self._depth -= 1

    def _make(self, node: Node) -> Type:
        prog, kind = self._prog, node[0]
        if kind == "void":
            return prog.void_type()
        if kind in ("int", "bool", "float") and node[2] not in _SIZES:
            raise ValueError(f"{node[1]} of {node[2]} bytes")
        if kind == "int":
            return prog.int_type(node[1], node[2], node[3], node[4])
        if kind == "bool":
            return prog.bool_type(node[1], node[2], node[3])
        if kind == "float":
            return prog.float_type(node[1], node[2], node[3])
        if kind == "typedef":
            return prog.typedef_type(node[1], self._type(node[2]))
        if kind == "pointer":
            return prog.pointer_type(self._type(node[1]), node[2])
        if kind == "array":
            return prog.array_type(self._type(node[1]), node[2])
        if kind == "function":
            parameters = [Parameter(self._type(ref)) for ref in node[2]]
            return prog.function_type(self._type(node[1]), parameters, node[3])
        if kind == "enum":
            if len(node) < 4:
                return prog.enum_type(node[1])
            enumerators = [TypeEnumerator(name, value) for name, value in node[3]]
            return prog.enum_type(node[1], self._type(node[2]), enumerators)
        make = {"struct": prog.struct_type, "union": prog.union_type, "class": prog.class_type}
        if len(node) < 4:
            return make[kind](node[1])
        return make[kind](node[1], node[2], [self._member(member) for member in node[3]])

    def _member(self, member: Node) -> TypeMember:
        # The member's type is built on first use, so that structures may lead
        # back to themselves.
        name, bit_offset, ref = member[:3]
        if len(member) == 3:
            return TypeMember(lambda: self.type(ref), name, bit_offset)
        size = member[3]
        return TypeMember(lambda: self._bit_field(ref, size), name, bit_offset)

    def _bit_field(self, ref: Ref, size: int) -> Object:
        try:
            return Object(self._prog, self.type(ref), bit_field_size=size)
        except _DAMAGED as error:
            raise _damaged(error) from None


# What comes of nodes that are none.
_DAMAGED = (AttributeError, LookupError, OverflowError, TypeError, ValueError)


def _damaged(error: Exception) -> TargetError:
    return TargetError(f"the description of types is damaged: {' '.join(str(error).split())}")


class Finders(ABC):
    """Answers for the types and objects of a program; what it does not know is ``None``."""

    @abstractmethod
    def find_type(self, kind: TypeKind, name: str) -> Optional[Type]:
        """Return the type of this kind and name (or tag)."""

    @abstractmethod
    def find_variable(self, name: str) -> Optional[Object]:
        """Return a variable."""

    @abstractmethod
    def find_function(self, name: str) -> Optional[Object]:
        """Return a function."""

    @abstractmethod
    def find_constant(self, name: str) -> Optional[Object]:
        """Return an enumerator."""

    def register_finders(self, prog: Program, name: str) -> None:
        """
        Ask these before all others.

        :param name: Of the finders in the program.
        """
        prog.register_type_finder(name, self._type, enable_index=0)
        prog.register_object_finder(name, self._object, enable_index=0)

    def _type(
        self, prog: Program, kinds: TypeKindSet, name: str, filename: Optional[str]
    ) -> Optional[Type]:
        for kind in TypeKind:
            if kind in kinds:
                found = self.find_type(kind, name)
                if found is not None:
                    return found
        return None

    def _object(
        self, prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]
    ) -> Optional[Object]:
        found = None
        if flags & FindObjectFlags.VARIABLE:
            found = self.find_variable(name)
        if found is None and flags & FindObjectFlags.FUNCTION:
            found = self.find_function(name)
        if found is None and flags & FindObjectFlags.CONSTANT:
            found = self.find_constant(name)
        return found
