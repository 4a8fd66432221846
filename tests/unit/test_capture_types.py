# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types leave one program and come back in another."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Optional

import pytest
from drgn import (
    Architecture,
    FindObjectFlags,
    Object,
    Platform,
    PlatformFlags,
    Program,
    Qualifiers,
    Symbol,
    SymbolBinding,
    SymbolKind,
    Type,
    TypeEnumerator,
    TypeMember,
    TypeParameter,
    sizeof,
)

from drgn_slabtype.capture.describe import find_variables
from drgn_slabtype.capture.types import TypeReader, TypeWriter
from drgn_slabtype.machine import Machine

PLATFORMS = {
    "64 bit little": Platform(Architecture.X86_64),
    "32 bit big": Platform(Architecture.ARM, PlatformFlags(0)),
}


class Source:
    """A program with the kinds of types that kernels have."""

    def __init__(self, platform: Platform) -> None:
        prog = self.prog = Program(platform)
        self.word = 8 if platform.flags & PlatformFlags.IS_64_BIT else 4
        self.int = prog.int_type("int", 4, True)
        self.ulong = prog.int_type("unsigned long", self.word, False)
        other = prog.struct_type("other", 4, (TypeMember(self.int, "x", 0),))
        self.node: Type = prog.struct_type(
            "node",
            4 * self.word,
            (
                TypeMember(lambda: prog.pointer_type(self.node), "next", 0),
                TypeMember(prog.pointer_type(other), "other", 8 * self.word),
                TypeMember(Object(prog, self.ulong, bit_field_size=5), "low", 8 * 2 * self.word),
                TypeMember(
                    Object(prog, self.ulong, bit_field_size=27), "high", 8 * 2 * self.word + 5
                ),
                TypeMember(self.union(), None, 8 * 3 * self.word),
            ),
        )

    def union(self) -> Type:
        byte = self.prog.int_type("unsigned char", 1, False)
        return self.prog.union_type(
            None,
            self.word,
            (
                TypeMember(self.ulong, "counters", 0),
                TypeMember(self.prog.array_type(byte, 4), "bytes", 0),
            ),
        )


def copy(source: Source, *types: Type) -> Program:
    """Return a program that knows only what went through JSON."""
    nodes = json.loads(json.dumps(TypeWriter(types).nodes))
    prog = Program(source.prog.platform)
    reader = TypeReader(prog, nodes)

    def find(prog: Program, kinds: Any, name: str, filename: Optional[str]) -> Optional[Type]:
        return next(filter(None, (reader.find(kind, name) for kind in kinds)), None)

    prog.register_type_finder("copy", find, enable_index=0)
    return prog


@pytest.fixture(params=PLATFORMS)
def source(request: pytest.FixtureRequest) -> Source:
    return Source(PLATFORMS[request.param])


def test_structure_comes_back_the_same(source: Source) -> None:
    node = copy(source, source.node).type("struct node")
    assert str(node) == str(source.node)
    assert sizeof(node) == sizeof(source.node)
    for member, original in zip(node.members or (), source.node.members or ()):
        assert member.bit_offset == original.bit_offset
        assert member.bit_field_size == original.bit_field_size
        assert member.type.type_name() == original.type.type_name()


def test_structure_that_was_not_asked_for_is_incomplete_behind_a_pointer(source: Source) -> None:
    prog = copy(source, source.node)
    other = prog.type("struct node").member("other").type.type
    assert other.tag == "other"
    assert not other.is_complete()


def test_structure_that_was_asked_for_is_complete_behind_a_pointer(source: Source) -> None:
    other = source.node.member("other").type.type
    prog = copy(source, source.node, other)
    assert prog.type("struct node").member("other").type.type.is_complete()
    assert prog.type("struct other").has_member("x")


def test_structure_leads_back_to_itself(source: Source) -> None:
    node = copy(source, source.node).type("struct node")
    again = node.member("next").type.type
    assert again.is_complete()
    assert str(again) == str(node)


def test_members_are_read_as_in_the_source(source: Source) -> None:
    prog = copy(source, source.node)
    data = bytes(range(1, 4 * source.word + 1))
    for one in (source.prog, prog):
        one.add_memory_segment(
            0x1000, len(data), lambda address, count, offset, _: data[offset : offset + count]
        )
    copied = Object(prog, "struct node", address=0x1000)
    original = Object(source.prog, source.node, address=0x1000)
    for name in ("next", "low", "high", "counters"):
        assert copied.member_(name).value_() == original.member_(name).value_()
    assert copied.bytes[2].value_() == original.bytes[2].value_()


KINDS: Dict[str, Callable[[Program], Type]] = {
    "void": lambda p: p.void_type(),
    "bool": lambda p: p.bool_type("_Bool", 1),
    "float": lambda p: p.float_type("double", 8),
    "big integer": lambda p: p.int_type("be", 4, False, "big"),
    "array": lambda p: p.array_type(p.int_type("int", 4, True), 3),
    "array without length": lambda p: p.array_type(p.int_type("int", 4, True)),
    "incomplete structure": lambda p: p.struct_type("s"),
    "incomplete enumeration": lambda p: p.enum_type("e"),
    "class": lambda p: p.class_type("c", 4, (TypeMember(p.int_type("int", 4, True), "x", 0),)),
    "const pointer": lambda p: p.pointer_type(p.void_type(qualifiers=Qualifiers.CONST)),
    "function": lambda p: p.function_type(
        p.void_type(), (TypeParameter(p.pointer_type(p.void_type())),), True
    ),
    "typedef of an anonymous structure": lambda p: p.typedef_type(
        "atomic_t", p.struct_type(None, 4, (TypeMember(p.int_type("int", 4, True), "counter"),))
    ),
    "enumeration": lambda p: p.enum_type(
        "e", p.int_type("int", 4, True), (TypeEnumerator("A", -1), TypeEnumerator("B", 7))
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind_comes_back(kind: str) -> None:
    prog = Program(PLATFORMS["64 bit little"])
    type = KINDS[kind](prog)
    writer = TypeWriter([])
    ref = writer.add(type)
    nodes = json.loads(json.dumps(writer.nodes))
    back = TypeReader(Program(PLATFORMS["64 bit little"]), nodes).type(ref)
    assert back.kind == type.kind
    assert str(back) == str(type)
    assert back.is_complete() == type.is_complete()


def test_enumerators_are_constants() -> None:
    prog = Program(PLATFORMS["64 bit little"])
    integer = prog.int_type("unsigned int", 4, False)
    first = prog.enum_type("pageflags", integer, (TypeEnumerator("PG_slab", 9),))
    second = prog.enum_type("pagetype", integer, (TypeEnumerator("PG_slab", 0x1000),))
    writer = TypeWriter([first, second])
    reader = TypeReader(prog, writer.nodes)
    constant = reader.constant("PG_slab")
    assert constant is not None
    assert (constant.value_(), constant.type_.tag) == (9, "pageflags")
    at = writer.add(second)
    assert isinstance(at, int)
    constant = reader.constant("PG_slab", at)
    assert constant is not None
    assert (constant.value_(), constant.type_.tag) == (0x1000, "pagetype")
    assert reader.constant("PG_none") is None


def test_same_structure_of_two_compilation_units_is_one_node() -> None:
    prog = Program(PLATFORMS["64 bit little"])
    twins = [
        prog.struct_type("s", 4, (TypeMember(prog.int_type("int", 4, True), "x", 0),))
        for _ in range(2)
    ]
    writer = TypeWriter(twins)
    assert sum(node[0] == "struct" for node in writer.nodes) == 1


def test_complete_type_is_found_before_an_incomplete_one(source: Source) -> None:
    # The same tag, once behind a pointer and once embedded.
    prog = source.prog
    other = source.node.member("other").type.type
    holder = prog.struct_type(
        "holder", 4 + 4 * source.word, (TypeMember(source.node, "n"), TypeMember(other, "o"))
    )
    found = copy(source, holder).type("struct other")
    assert found.is_complete()


def test_declaration_without_a_length_is_described_as_the_definition() -> None:
    # Which of the two drgn finds is left to chance; the capture must not be.
    prog = Program(PLATFORMS["64 bit little"])
    char = prog.int_type("char", 1, True, qualifiers=Qualifiers.CONST)
    lengths: Dict[str, Optional[int]] = {"declared": None, "defined": 24}

    def find(
        prog: Program, name: str, flags: FindObjectFlags, filename: Optional[str]
    ) -> Optional[Object]:
        if name not in lengths:
            return None
        banner = prog.array_type(char, lengths[name], qualifiers=Qualifiers.CONST)
        return Object(prog, banner, address=0x1000)

    prog.register_object_finder("test", find, enable_index=0)
    prog.register_symbol_finder(
        "test",
        lambda prog, name, address, one: [
            Symbol("declared", 0x1000, 24, SymbolBinding.WEAK, SymbolKind.OBJECT)
        ],
        enable_index=0,
    )
    types = [found.type_ for _, found in find_variables(Machine(prog), list(lengths))]
    found = [(type.length, type.qualifiers) for type in types]
    assert found == [(24, Qualifiers.CONST)] * 2
