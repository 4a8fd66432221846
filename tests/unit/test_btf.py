# SPDX-License-Identifier: LGPL-2.1-or-later
"""Types of BTF: as they are in C, or one clear line."""

from __future__ import annotations

import contextlib
import struct
import sys
from typing import Callable, List, Optional, Tuple

import pytest
from drgn import (
    Architecture,
    Platform,
    PlatformFlags,
    Program,
    Qualifiers,
    Type,
    TypeKind,
    offsetof,
    sizeof,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_slabtype.btf import blob as b
from drgn_slabtype.btf.blob import Blob, BtfError
from drgn_slabtype.btf.nodes import BtfNodes
from drgn_slabtype.errors import TargetError
from drgn_slabtype.finders import TypeBuilder

from ..synthetic.btf import BtfWriter


class Built:
    """The types of some BTF, by name."""

    def __init__(self, data: bytes) -> None:
        self.blob = Blob(data)
        little = self.blob.byteorder == "<"
        flags = PlatformFlags.IS_64_BIT
        if little:
            flags |= PlatformFlags.IS_LITTLE_ENDIAN
        self.prog = Program(Platform(Architecture.X86_64 if little else Architecture.S390X, flags))
        self.types = TypeBuilder(self.prog, BtfNodes(self.blob, 8))

    def __call__(self, name: str, *kinds: int) -> Type:
        number = self.blob.find(name, *(kinds or range(1, 20)))
        assert number is not None
        return self.types.type(number)


@pytest.fixture(params=[True, False], ids=["little", "big"])
def btf(request: pytest.FixtureRequest) -> BtfWriter:
    """Where a test writes its types."""
    return BtfWriter(request.param)


def test_integers(btf: BtfWriter) -> None:
    btf.integer("long unsigned int", 8)
    btf.integer("int", 4, 1)
    btf.integer("_Bool", 1, 4)
    btf.add(b.FLOAT, "double", 8)
    built = Built(btf.data())
    prog = built.prog
    expected = {
        "long unsigned int": prog.int_type("long unsigned int", 8, False),
        "int": prog.int_type("int", 4, True),
        "_Bool": prog.bool_type("_Bool", 1),
        "double": prog.float_type("double", 8),
    }
    assert {name: repr(built(name)) for name in expected} == {
        name: repr(type) for name, type in expected.items()
    }


def test_structure_that_points_to_itself(btf: BtfWriter) -> None:
    long = btf.integer("long", 8, 1)
    btf.structure("node", 16, [("next", long + 2, 0), ("value", long, 64)])
    btf.add(b.PTR, None, long + 1)
    node = Built(btf.data())("node")
    assert (node.kind, node.tag, node.size) == (TypeKind.STRUCT, "node", 16)
    assert repr(node.member("next").type.type) == repr(node)
    assert node.member("value").bit_offset == 64


def test_bit_fields(btf: BtfWriter) -> None:
    unsigned = btf.integer("unsigned int", 4)
    members = [("inuse", unsigned, 16 << 24), ("objects", unsigned, 15 << 24 | 16)]
    btf.structure("slab", 8, [*members, ("next", unsigned, 32)], flag=True)
    slab = Built(btf.data())("slab")
    assert [(m.name, m.bit_offset, m.bit_field_size) for m in slab.members or ()] == [
        ("inuse", 0, 16),
        ("objects", 16, 15),
        ("next", 32, None),
    ]


def test_bit_fields_of_old(btf: BtfWriter) -> None:
    narrow = btf.integer("unsigned int", 4, bits=3, start=2)
    alias = btf.add(b.TYPEDEF, "tiny", narrow)
    btf.structure("old", 4, [("field", alias, 8)])
    member = Built(btf.data())("old").member("field")
    assert (member.bit_offset, member.bit_field_size) == (10, 3)


def test_members_without_a_name(btf: BtfWriter) -> None:
    long = btf.integer("long", 8, 1)
    inner = btf.structure(None, 16, [("a", long, 0), ("b", long, 64)])
    union = btf.structure(None, 16, [("", inner, 0), ("word", long, 0)], b.UNION)
    btf.structure("outer", 24, [("first", long, 0), ("", union, 64)])
    outer = Built(btf.data())("outer")
    assert offsetof(outer, "b") == 16
    assert outer.has_member("word")


def test_arrays(btf: BtfWriter) -> None:
    byte = btf.integer("unsigned char", 1)
    some, none = btf.array(byte, 12), btf.array(byte, 0)
    btf.structure("flexible", 12, [("start", some, 0), ("rest", none, 96)])
    btf.structure("empty", 12, [("nothing", none, 0), ("start", some, 0)])
    built = Built(btf.data())
    assert built("flexible").member("start").type.length == 12
    assert built("flexible").member("rest").type.length is None
    assert built("empty").member("nothing").type.length == 0


def test_qualifiers_typedefs_and_tags(btf: BtfWriter) -> None:
    int = btf.integer("int", 4, 1)
    tagged = btf.add(b.TYPE_TAG, "rcu", int)
    volatile = btf.add(b.VOLATILE, None, tagged)
    const = btf.add(b.CONST, None, volatile)
    btf.add(b.DECL_TAG, "tag", const, [0])
    btf.add(b.TYPEDEF, "both", const)
    restricted = btf.add(b.RESTRICT, None, btf.add(b.PTR, None, 0))
    btf.add(b.TYPEDEF, "anything", restricted)
    built = Built(btf.data())
    assert built("both").type.qualifiers == Qualifiers.CONST | Qualifiers.VOLATILE
    assert built("both").type.unqualified().name == "int"
    assert built("anything").type.type.kind == TypeKind.VOID
    assert built("anything").type.qualifiers == Qualifiers.RESTRICT


def test_functions(btf: BtfWriter) -> None:
    int = btf.integer("int", 4, 1)
    proto = btf.prototype(int, [int, btf.add(b.PTR, None, 0), 0])
    btf.structure("ops", 8, [("call", btf.add(b.PTR, None, proto), 0)])
    call = Built(btf.data())("ops").member("call").type.type
    assert call.type_name() == "int (int, void *, ...)"


def test_enumerations(btf: BtfWriter) -> None:
    btf.enum("plain", {"A": 0, "B": 0xF5000000})
    btf.enum("negative", {"RESERVE": -128, "C": 1})
    btf.enum("wide", {"LOW": 1, "HIGH": 1 << 40}, 8)
    btf.enum("wide_negative", {"DEEP": -(1 << 40)}, 8)
    btf.add(b.ENUM, "declared", 4)
    btf.enum(None, {"UNNAMED": 7})
    built = Built(btf.data())
    values = {
        e.name: e.value
        for name in ("plain", "negative", "wide", "wide_negative")
        for e in built(name).enumerators or ()
    }
    assert values == {
        "A": 0,
        "B": 0xF5000000,
        "RESERVE": -128,
        "C": 1,
        "LOW": 1,
        "HIGH": 1 << 40,
        "DEEP": -(1 << 40),
    }
    assert built("negative").type.is_signed
    assert not built("plain").type.is_signed
    assert sizeof(built("wide")) == 8
    assert not built("declared").is_complete()
    number = built.blob.enumeration("UNNAMED")
    assert number is not None
    found = built.types.enumerator("UNNAMED", number)
    assert found is not None
    assert found.value_() == 7
    assert built.blob.enumeration("NAMED") is None


def test_forward_declaration_is_the_structure_itself_if_there_is_one(btf: BtfWriter) -> None:
    here, there = btf.add(b.FWD, "here"), btf.add(b.FWD, "there", flag=True)
    btf.add(b.TYPEDEF, "a", btf.add(b.PTR, None, here))
    btf.add(b.TYPEDEF, "b", btf.add(b.PTR, None, there))
    btf.structure("here", 8, [])
    btf.structure("there", 8, [])
    built = Built(btf.data())
    assert repr(built("a").type.type) == repr(built("here", b.STRUCT))
    # A union of that name is declared only.
    assert (built("b").type.type.kind, built("b").type.type.is_complete()) == (
        TypeKind.UNION,
        False,
    )


def test_the_end_of_another_string_is_a_name(btf: BtfWriter) -> None:
    btf.integer("unsigned int", 4)
    data = bytearray(btf.data())
    # The name of the first type moves nine characters on.
    order = "<" if Blob(bytes(data)).byteorder == "<" else ">"
    struct.pack_into(f"{order}I", data, b.HEADER_BYTES, 1 + len("unsigned "))
    blob = Blob(bytes(data))
    assert blob.numbers("int") == [1]
    assert blob.numbers("unsigned int") == []


# Damage.


def typedef_of_itself(btf: BtfWriter) -> int:
    return btf.add(b.TYPEDEF, "x", 1)


def const_of_itself(btf: BtfWriter) -> int:
    return btf.add(b.TYPEDEF, "x", btf.add(b.CONST, None, 1))


def pointers_in_a_circle(btf: BtfWriter) -> int:
    btf.add(b.PTR, None, 2)
    return btf.add(b.TYPEDEF, "x", 1)


def function_that_returns_itself(btf: BtfWriter) -> int:
    btf.prototype(2, [2])
    return btf.add(b.TYPEDEF, "x", 1)


def structure_in_itself(btf: BtfWriter) -> int:
    return btf.structure("x", 8, [("", 1, 0)])


def many_structures_in_each_other(btf: BtfWriter) -> int:
    for number in range(1, 40):
        btf.structure(None, 8, [("", number + 1, 0), ("", number + 1, 0)])
    btf.structure(None, 8, [])
    return btf.structure("x", 8, [("", 1, 0)])


def member_outside(btf: BtfWriter) -> int:
    return btf.structure("x", 8, [("a", btf.integer("int", 4), 800)])


def type_that_is_not_there(btf: BtfWriter) -> int:
    return btf.add(b.TYPEDEF, "x", 77)


def name_that_is_not_there(btf: BtfWriter) -> int:
    return btf.structure("x", 8, [])


def function_as_a_type(btf: BtfWriter) -> int:
    return btf.add(b.TYPEDEF, "x", btf.add(b.FUNC, "f", 0))


def huge_integer(btf: BtfWriter) -> int:
    return btf.integer("x", 4000)


def huge_enumeration(btf: BtfWriter) -> int:
    return btf.enum("x", {"A": 1}, 3)


@pytest.mark.parametrize(
    "damage",
    [
        typedef_of_itself,
        const_of_itself,
        pointers_in_a_circle,
        function_that_returns_itself,
        structure_in_itself,
        many_structures_in_each_other,
        member_outside,
        type_that_is_not_there,
        function_as_a_type,
        huge_integer,
        huge_enumeration,
    ],
)
def test_damaged_type(btf: BtfWriter, damage: Callable[[BtfWriter], int]) -> None:
    damage(btf)
    built = Built(btf.data())
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        with pytest.raises(TargetError, match="damaged"):
            built("x", b.TYPEDEF, b.STRUCT, b.INT, b.ENUM)
    finally:
        sys.setprofile(None)
    assert calls < 10_000


def blob_of(*changes: object) -> bytes:
    """Return small BTF in which words of the header are replaced: pairs of place and value."""
    btf = BtfWriter()
    btf.integer("int", 4, 1)
    data = bytearray(btf.data())
    for at, value in zip(changes[::2], changes[1::2]):
        struct.pack_into("<I", data, int(str(at)), int(str(value)))
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cut off"),
        (b"\x9f\xeb\x01\0", "cut off"),
        (bytes(100), "something else"),
        (blob_of(0, 0x0002EB9F), "version 2"),
        (blob_of(4, 4), "do not fit"),
        (blob_of(4, 1 << 31), "do not fit"),
        (blob_of(12, 1 << 20), "do not fit"),
        (blob_of(20, 1 << 20), "do not fit"),
        (blob_of(8, 2), "do not fit"),
        (blob_of(12, 12), "do not fill"),
        (blob_of(12, 0), "do not fill"),
        (blob_of(28, 31 << 24), "kind 31"),
        (blob_of(28, 0), "kind 0"),
        (blob_of(28, 4 << 24 | 0xFFFF), "do not fill"),
    ],
)
def test_damaged_header(data: bytes, message: str) -> None:
    with pytest.raises(BtfError, match=message):
        Blob(data)


def sample() -> bytes:
    """Return BTF with some of everything."""
    btf = BtfWriter()
    int = btf.integer("int", 4, 1)
    byte = btf.integer("unsigned char", 1)
    pointer = btf.add(b.PTR, None, int)
    const = btf.add(b.CONST, None, pointer)
    array = btf.array(byte, 3)
    union = btf.structure(None, 8, [("word", int, 0), ("bytes", array, 0)], b.UNION)
    outer = btf.structure(
        "outer", 24, [("p", const, 0), ("", union, 64), ("low", int, 3 << 24 | 128)], flag=True
    )
    btf.add(b.TYPEDEF, "outer_t", outer)
    btf.enum("colour", {"RED": 0, "GREEN": 1, "NONE": -1})
    btf.enum("wide", {"FAR": 1 << 33}, 8)
    proto = btf.prototype(int, [const, outer, 0])
    function = btf.add(b.FUNC, "work", proto)
    variable = btf.add(b.VAR, "counter", int, [1])
    btf.structure(".data..percpu", 64, [("", variable, 0)], b.DATASEC)
    btf.add(b.DECL_TAG, "tag", function, [0])
    btf.add(b.FWD, "missing")
    btf.add(b.FLOAT, "double", 8)
    return btf.data()


NAMES = ("int", "outer", "outer_t", "colour", "wide", "work", "counter", "double", "missing", "x")


def touch(type: Type, depth: int = 0) -> None:
    """Look at everything of a type that anybody may look at."""
    type.type_name()
    if type.kind in (TypeKind.STRUCT, TypeKind.UNION):
        for member in type.members or ():
            if member.name:
                type.has_member(member.name)
            if depth < 3:
                touch(member.type, depth + 1)
    elif type.kind in (TypeKind.POINTER, TypeKind.ARRAY, TypeKind.TYPEDEF) and depth < 8:
        touch(type.type, depth + 1)


def ask_all(data: bytes) -> None:
    """Ask some BTF for everything it may have."""
    built = Built(data)
    for name in NAMES:
        for number in built.blob.numbers(name):
            with contextlib.suppress(TargetError):
                touch(built.types.type(number))
    for name in ("RED", "GREEN", "NONE", "FAR", "outer"):
        owner: Optional[int] = built.blob.enumeration(name)
        if owner is not None:
            with contextlib.suppress(TargetError):
                built.types.enumerator(name, owner)


def test_sample_is_whole() -> None:
    built = Built(sample())
    for name in NAMES[:5]:
        touch(built(name))
    assert built.blob.find("work", b.FUNC)
    assert built.blob.find("counter", b.VAR)


@settings(max_examples=300, deadline=1000)
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_give_an_answer_or_one_error(rest: bytes, little: bool) -> None:
    size = len(rest) // 2 & ~3
    order = "<" if little else ">"
    header = struct.pack(f"{order}HBBIIIII", 0xEB9F, 1, 0, 24, 0, size, size, len(rest) - size)
    with contextlib.suppress(BtfError):
        ask_all(header + rest)


@settings(max_examples=500, deadline=1000)
@given(st.lists(st.tuples(st.integers(0, len(sample()) - 1), st.integers(0, 255)), max_size=8))
def test_damaged_bytes_give_an_answer_or_one_error(changes: List[Tuple[int, int]]) -> None:
    data = bytearray(sample())
    for at, value in changes:
        data[at] = value
    with contextlib.suppress(BtfError):
        ask_all(bytes(data))
