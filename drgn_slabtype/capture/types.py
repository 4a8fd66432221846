# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A pruned graph of C types
-------------------------

Types leave one program as plain JSON and come back, built when asked for, in
another. A structure is complete where it is embedded or was asked for by name;
behind a pointer any other one stays incomplete, which keeps some hundred types
out of the hundred thousand of a kernel.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from drgn import Object, Program, Type, TypeKind, TypeMember

from ..finders import Node, Ref, TypeBuilder

_TAGGED = {
    TypeKind.STRUCT: "struct",
    TypeKind.UNION: "union",
    TypeKind.CLASS: "class",
    TypeKind.ENUM: "enum",
}
_COMPOUND = (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS)
_NAMED = {
    TypeKind.VOID: "void",
    TypeKind.INT: "int",
    TypeKind.BOOL: "bool",
    TypeKind.FLOAT: "float",
    TypeKind.TYPEDEF: "typedef",
}
_KIND_NAMES = {**_TAGGED, **_NAMED}


class TypeWriter:
    """
    Collects types of one program as nodes.

    :param wanted: Types that stay complete behind pointers.
    """

    def __init__(self, wanted: Iterable[Type]) -> None:
        self.nodes: List[Node] = []
        self._found: Dict[Tuple[Any, ...], int] = {}
        roots = [type.unqualified() for type in wanted]
        self._complete = {(type.kind, type.tag) for type in roots if type.kind in _COMPOUND}
        for type in roots:
            self.add(type)

    def add(self, type: Type) -> Ref:
        """Return a reference to a type, complete as far as it goes by value."""
        return self._ref(type, True)

    def _ref(self, type: Type, by_value: bool) -> Ref:
        at = self._position(type.unqualified(), by_value)
        qualifiers = type.qualifiers.value
        return [at, qualifiers] if qualifiers else at

    def _position(self, type: Type, by_value: bool) -> int:
        complete = by_value
        if type.kind in _COMPOUND:
            complete = type.is_complete() and (
                by_value or type.tag is None or (type.kind, type.tag) in self._complete
            )
        key = self._key(type, complete)
        at = self._found.get(key)
        if at is None:
            # Reserved first: a structure may lead back to itself.
            at = self._found[key] = len(self.nodes)
            self.nodes.append([])
            self.nodes[at] = self._node(type, complete)
        return at

    def _key(self, type: Type, complete: bool) -> Tuple[Any, ...]:
        # The same structure read from two compilation units is two types to
        # drgn; one node does for both if they have the same members.
        if type.kind in _COMPOUND:
            members = type.members if complete else None
            shape = tuple((m.name, m.bit_offset) for m in members or ())
            types = tuple(m.type.type_name() for m in members or ())
            return (type.kind, type.tag, complete, type.size if complete else None, shape, types)
        if type.kind == TypeKind.ENUM:
            return (type.kind, type.tag, _values(type))
        if type.kind == TypeKind.POINTER:
            return (type.kind, str(self._ref(type.type, False)))
        if type.kind == TypeKind.ARRAY:
            return (type.kind, str(self._ref(type.type, True)), type.length)
        if type.kind == TypeKind.TYPEDEF:
            return (type.kind, type.name, str(self._ref(type.type, complete)))
        if type.kind == TypeKind.FUNCTION:
            parameters = [self._ref(parameter.type, False) for parameter in type.parameters]
            return (type.kind, str(self._ref(type.type, False)), str(parameters), type.is_variadic)
        if type.kind == TypeKind.VOID:
            return (type.kind,)
        return (type.kind, type.name, type.size)

    def _node(self, type: Type, complete: bool) -> Node:
        kind = type.kind
        if kind == TypeKind.VOID:
            return ["void"]
        if kind == TypeKind.INT:
            return ["int", type.name, type.size, type.is_signed, type.byteorder]
        if kind in (TypeKind.BOOL, TypeKind.FLOAT):
            return [_NAMED[kind], type.name, type.size, type.byteorder]
        if kind == TypeKind.TYPEDEF:
            return ["typedef", type.name, self._ref(type.type, complete)]
        if kind == TypeKind.POINTER:
            return ["pointer", self._ref(type.type, False), type.size]
        if kind == TypeKind.ARRAY:
            return ["array", self._ref(type.type, True), type.length]
        if kind == TypeKind.FUNCTION:
            parameters = [self._ref(parameter.type, False) for parameter in type.parameters]
            return ["function", self._ref(type.type, False), parameters, type.is_variadic]
        if kind == TypeKind.ENUM:
            if type.type is None:
                return ["enum", type.tag]
            return ["enum", type.tag, self.add(type.type), _values(type)]
        if not complete:
            return [_TAGGED[kind], type.tag]
        return [_TAGGED[kind], type.tag, type.size, [self._member(m) for m in type.members or ()]]

    def _member(self, member: TypeMember) -> Node:
        node: Node = [member.name, member.bit_offset, self.add(member.type)]
        if member.bit_field_size is not None:
            node.append(member.bit_field_size)
        return node


def _values(type: Type) -> Tuple[Tuple[str, int], ...]:
    return tuple((enumerator.name, enumerator.value) for enumerator in type.enumerators or ())


class TypeReader(TypeBuilder):
    """
    Builds the types of a graph for another program, each when it is first asked for.

    :param nodes: :attr:`TypeWriter.nodes`.
    """

    def __init__(self, prog: Program, nodes: Sequence[Node]) -> None:
        super().__init__(prog, nodes)
        self._by_name: Dict[Tuple[str, str], int] = {}
        self.enumerators: Dict[str, int] = {}
        """Position of the first enumeration that has an enumerator of this name."""
        for at, node in enumerate(nodes):
            kind, name = node[0], node[1] if len(node) > 1 else None
            if isinstance(name, str):
                known = self._by_name.setdefault((kind, name), at)
                if len(nodes[known]) < len(node):
                    self._by_name[kind, name] = at
            if kind == "enum" and len(node) > 3:
                for enumerator, _ in node[3]:
                    self.enumerators.setdefault(enumerator, at)

    def find(self, kind: TypeKind, name: str) -> Optional[Type]:
        """Return the type of this kind and name (or tag), complete if the graph has it so."""
        at = self._by_name.get((_KIND_NAMES.get(kind, ""), name))
        return None if at is None else self.type(at)

    def constant(self, name: str, at: Optional[int] = None) -> Optional[Object]:
        """
        Return an enumerator as an object.

        :param at: Position of its enumeration, if it is not the first of that name.
        """
        found = self.enumerators.get(name) if at is None else at
        return None if found is None else self.enumerator(name, found)
