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

from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

from drgn import Object, Program, Qualifiers, Type, TypeEnumerator, TypeKind, TypeMember
from drgn import TypeParameter as Parameter

Node = List[Any]
"""One type: its kind followed by what the constructor of that kind needs."""
Ref = Union[int, List[int]]
"""Position of a node, or that and its qualifiers."""

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


class TypeReader:
    """
    Builds the types of a graph for another program, each when it is first asked for.

    :param nodes: :attr:`TypeWriter.nodes`.
    """

    def __init__(self, prog: Program, nodes: Sequence[Node]) -> None:
        self._prog = prog
        self._nodes = nodes
        self._built: Dict[int, Type] = {}
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
        if found is None:
            return None
        for enumerator, value in self._nodes[found][3]:
            if enumerator == name:
                return Object(self._prog, self.type(found), value)
        return None

    def type(self, ref: Ref) -> Type:
        """Return the type that a reference means."""
        if isinstance(ref, list):
            return self.type(ref[0]).qualified(Qualifiers(ref[1]))
        built = self._built.get(ref)
        if built is None:
            built = self._built[ref] = self._build(self._nodes[ref])
        return built

    def _build(self, node: Node) -> Type:
        prog, kind = self._prog, node[0]
        if kind == "void":
            return prog.void_type()
        if kind == "int":
            return prog.int_type(node[1], node[2], node[3], node[4])
        if kind == "bool":
            return prog.bool_type(node[1], node[2], node[3])
        if kind == "float":
            return prog.float_type(node[1], node[2], node[3])
        if kind == "typedef":
            return prog.typedef_type(node[1], self.type(node[2]))
        if kind == "pointer":
            return prog.pointer_type(self.type(node[1]), node[2])
        if kind == "array":
            return prog.array_type(self.type(node[1]), node[2])
        if kind == "function":
            parameters = [Parameter(self.type(ref)) for ref in node[2]]
            return prog.function_type(self.type(node[1]), parameters, node[3])
        if kind == "enum":
            if len(node) < 4:
                return prog.enum_type(node[1])
            enumerators = [TypeEnumerator(name, value) for name, value in node[3]]
            return prog.enum_type(node[1], self.type(node[2]), enumerators)
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
        return TypeMember(
            lambda: Object(self._prog, self.type(ref), bit_field_size=size), name, bit_offset
        )
