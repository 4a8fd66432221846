# SPDX-License-Identifier: LGPL-2.1-or-later
"""Columns agree with what drgn reads, member by member."""

from __future__ import annotations

from typing import Any, Dict, Tuple

import numpy as np
import pytest
from drgn import Object, Type, cast, sizeof
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_slabtype.machine import machine as machine_of
from drgn_slabtype.machine.columns import Structure
from tests.direct_map import LINEAR, CountedMemory, make_mapped_kernel
from tests.synthetic import make_kernel
from tests.synthetic.kernel import PAGE_SIZE, Kernel

MACHINES = [(little, bits) for little in (True, False) for bits in (64, 32)]
MEMBERS = (
    "tiny", "small", "plain", "wide", "pointer", "inner.left", "inner.right", "list.next",
    "list.prev", "inuse", "objects", "frozen", "first", "second", "third", "alone", "either.word",
    "either.half",
)  # fmt: skip


def define(kernel: Kernel) -> Type:
    """A structure with a member of every kind that the kernel's have."""
    t = kernel.types
    inner = t.typedef("inner_t", t.struct(None, ("left", t.u8), ("right", t.uint)))
    bits = t.struct(None, ("inuse", t.uint, 16), ("objects", t.uint, 15), ("frozen", t.uint, 1))
    return t.struct(
        "made_up",
        ("tiny", t.u8),
        ("small", t.u16),
        ("plain", t.uint),
        ("wide", t.ulong),
        ("pointer", t.pointer),
        ("inner", inner),
        ("list", kernel.list_head),
        (None, t.union(("counters", t.ulong), (None, bits))),
        # Narrow fields share a unit; the last does not fit and starts the next.
        ("first", t.uint, 3), ("second", t.uint, 20), ("third", t.uint, 17),
        ("alone", t.ulong, 5),
        ("either", t.union(("word", t.uint), ("half", t.u16))),
        ("entries", t.array(t.uint, 3)),
    )  # fmt: skip


@pytest.fixture(scope="module", params=MACHINES, ids=str)
def kernel(request: pytest.FixtureRequest) -> Any:
    little, bits = request.param
    kernel = make_kernel("5.10-slub", little, bits)
    where = Object(kernel.prog, kernel.types.ulong, value=0x80000000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drgn_slabtype.machine.directmap.phys_to_virt", lambda prog, address: where)
        define(kernel)
        layout = machine_of(kernel.prog).structure("struct made_up")
    return kernel, layout


def value_of(kernel: Kernel, type: Type, raw: bytes, path: str) -> int:
    """What drgn reads, zero-extended."""
    found = Object.from_bytes_(kernel.prog, type, raw)
    for name in path.split("."):
        found = found.member_(name)
    if found.bit_field_size_ is None:
        found = cast(kernel.prog.int_type("word", sizeof(found), False), found)
    return found.value_()


@given(data=st.data())
@settings(max_examples=60)
def test_columns_agree_with_drgn(kernel: Tuple[Kernel, Structure], data: st.DataObject) -> None:
    machine, layout = kernel
    copies = data.draw(
        st.lists(st.binary(min_size=layout.size, max_size=layout.size), min_size=1, max_size=3)
    )
    raw = np.frombuffer(b"".join(copies), np.uint8).reshape(-1, layout.size)
    for path in MEMBERS:
        column = layout.column(raw, path)
        assert column.dtype == np.uint64
        assert column.tolist() == [value_of(machine, layout.type, copy, path) for copy in copies], (
            path
        )


def test_offsets_are_those_of_drgn(kernel: Tuple[Kernel, Structure]) -> None:
    machine, layout = kernel
    base = Object(machine.prog, layout.type, address=0)
    for path in ("tiny", "wide", "inner.right", "list.prev", "either.half", "entries"):
        found = base
        for name in path.split("."):
            found = found.member_(name)
        assert layout.offset(path) == found.address_
    assert layout.size == sizeof(layout.type)


def test_has_tells_members_of_unnamed_and_nested_structures() -> None:
    machine = make_mapped_kernel()
    layout = Structure(define(machine), "<")
    assert all(layout.has(path) for path in (*MEMBERS, "counters", "entries"))
    absent = ("nothing", "inner.nothing", "tiny.nothing", "pointer.nothing", "list.next.prev")
    assert not any(layout.has(path) for path in absent)
    with pytest.raises(LookupError, match="tiny"):
        layout.offset("tiny.nothing")


def test_column_of_no_integer_is_refused() -> None:
    machine = make_mapped_kernel()
    layout = Structure(define(machine), "<")
    with pytest.raises(TypeError, match="entries is no integer"):
        layout.column(np.zeros((1, layout.size), np.uint8), "entries")


def test_rows_that_could_not_be_read_are_zero() -> None:
    machine = make_mapped_kernel()
    type = define(machine)
    base = LINEAR + (1 << 20)
    values: Dict[str, int] = {"tiny": 7, "wide": 1 << 60}
    object = Object(machine.prog, type, value=values)
    data = bytearray(3 * PAGE_SIZE)
    for page in range(3):
        data[page * PAGE_SIZE : page * PAGE_SIZE + sizeof(type)] = object.to_bytes_()
    CountedMemory(base, data, holes=[1]).add_to(machine)
    rows = machine_of(machine.prog).rows(
        "struct made_up",
        np.array([base + 2 * PAGE_SIZE, base + PAGE_SIZE, 0, base], np.uint64),
    )
    assert len(rows) == 4
    assert rows.ok.tolist() == [True, False, False, True]
    assert rows["tiny"].tolist() == [7, 0, 0, 7]
    assert rows["wide"].tolist() == [1 << 60, 0, 0, 1 << 60]
    assert rows["tiny"] is rows["tiny"]


def test_only_the_part_that_exists_is_read() -> None:
    # A kmem_cache is allocated only up to the nodes that exist.
    machine = make_mapped_kernel()
    define(machine)
    base = LINEAR + (1 << 20)
    memory = CountedMemory(base, bytearray(b"\1" * PAGE_SIZE)).add_to(machine)
    end = base + PAGE_SIZE
    rows = machine_of(machine.prog).rows("struct made_up", np.array([end - 8], np.uint64), size=8)
    assert rows.ok.all()
    assert rows["tiny"].tolist() == [1]
    assert memory.reads[-1].size == 8


def test_structure_is_made_once_a_program() -> None:
    machine = make_mapped_kernel()
    known = machine_of(machine.prog)
    assert known.structure("struct page") is known.structure("struct page")
    with pytest.raises(LookupError):
        known.structure("struct not_there")
