# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels built with less than the lab's: members taken out of a replayed kernel's types."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, FrozenSet, List, NamedTuple, Set, Tuple

import pytest
from drgn import Object, Program, Type, TypeKind, TypeKindSet, sizeof

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report

from ..recipes.overlay import Write, overlay
from ..recipes.runner import run
from ..recipes.slub.machine import Machine
from ..recipes.slub.things import Slab
from ..recipes.suites import suite_of

_NO_SLUB_DEBUG = frozenset({"nr_slabs", "total_objects", "full"})


def _without(folder: Path, name: str, members: FrozenSet[str]) -> Program:
    prog = open_capture(str(folder / "capture.xz"))
    whole = prog.type(f"struct {name}")
    pruned = prog.struct_type(
        name, whole.size, [member for member in whole.members or () if member.name not in members]
    )

    def find(prog: Program, kinds: TypeKindSet, wanted: str, filename: object) -> Type | None:
        return pruned if wanted == name and TypeKind.STRUCT in kinds else None

    prog.register_type_finder("without", find, enable_index=0)
    return prog


@pytest.mark.parametrize("name", ["debian-5.10-plain", "debian-7-plain"])
def test_without_slub_debug_no_node_counter_is_asked_for(name: str) -> None:
    prog = _without(Path(__file__).parent / name, "kmem_cache_node", _NO_SLUB_DEBUG)
    assert not prog.type("struct kmem_cache_node").has_member("nr_slabs")
    report = check(prog)
    assert report.findings == []
    assert report.unavailable == []


@pytest.mark.parametrize("name", ["debian-5.10-plain", "debian-7-plain"])
def test_without_slub_debug_counts_and_freelists_are_still_compared(name: str) -> None:
    prog = _without(Path(__file__).parent / name, "kmem_cache_node", _NO_SLUB_DEBUG)
    names = {"inuse-one-too-high", "inuse-one-too-low"}
    found: Set[str] = set()
    for result in run(prog, suite_of(prog), sorted(names)):
        assert result.outcome != "missed", result.reasons
        if result.outcome == "found":
            found.add(result.name)
    assert found


_EXTENSION = 8  # bytes of a struct slabobj_ext in that kernel
_DEBUGGED = Path(__file__).parent / "debian-7-debug" / "capture.xz"


class Vector(NamedTuple):
    """Where a slab has room for a vector of what is known of its objects."""

    start: int
    step: int
    end: int


def _behind(slab: Slab) -> Vector:
    start = slab.start + slab.objects * slab.cache.size
    return Vector(-(-start // 16) * 16, _EXTENSION, slab.start + (4096 << slab.order))


def _within(slab: Slab) -> Vector:
    # Behind the free pointer, two tracks and the size asked for.
    cache = slab.cache
    end = cache.inuse + (8 if cache.offset >= cache.inuse else 0)
    end += 2 * sizeof(cache.object.prog_.type("struct track")) + 8
    return Vector(slab.start + cache.pad + end, cache.size, slab.start + cache.size)


def _with_vector(place: Callable[[Slab], Vector]) -> Tuple[Slab, List[Write]]:
    # As memory cgroups leave a slab: a pointer to the vector, and pointers in it.
    machine = Machine(open_capture(str(_DEBUGGED)))
    width = _EXTENSION

    def fits(slab: Slab) -> bool:
        vector = place(slab)
        need = width * slab.objects if vector.step == width else width
        return (
            slab.quiet
            and {"OBJECT_POISON", "STORE_USER"} <= set(slab.cache.flags)
            and vector.end - vector.start >= need + 4
        )

    slab = machine.slab("room for a vector", fits)
    vector, pointer = place(slab), (slab.start | 0x40).to_bytes(8, "little")
    at = slab.page + machine.offset("obj_exts")
    writes = [Write(at, (vector.start | 1).to_bytes(8, "little"))]
    writes += [Write(vector.start + i * vector.step, pointer) for i in range(slab.objects)]
    if vector.step != width:
        prog = machine.prog
        bit = prog.type("struct slab").member("obj_exts_in_object").bit_offset
        mark, byte = slab.page + bit // 8, prog.read(slab.page + bit // 8, 1)[0]
        writes.append(Write(mark, bytes([byte | 1 << bit % 8])))
    return slab, writes


@pytest.mark.parametrize("place", [_behind, _within])
def test_vector_inside_a_slab_is_no_damage(place: Callable[[Slab], Vector]) -> None:
    _, writes = _with_vector(place)
    prog = open_capture(str(_DEBUGGED))
    overlay(prog, writes)
    assert check(prog).findings == []


@pytest.mark.parametrize("place", [_behind, _within])
def test_padding_beside_a_vector_is_still_judged(place: Callable[[Slab], Vector]) -> None:
    slab, writes = _with_vector(place)
    damaged = place(slab).end - 1
    prog = open_capture(str(_DEBUGGED))
    overlay(prog, [*writes, Write(damaged, b"\x00")])
    findings = check(prog).findings
    assert [(one.code, one.slab, one.address) for one in findings] == [
        ("padding", slab.page, damaged)
    ]


def test_what_only_looks_like_a_vector_hides_no_damage() -> None:
    # A pointer into the first object, where no vector can be.
    slab, _ = _with_vector(_behind)
    prog = open_capture(str(_DEBUGGED))
    machine = Machine(open_capture(str(_DEBUGGED)))
    at = slab.page + machine.offset("obj_exts")
    damaged = slab.start + (4096 << slab.order) - 1
    overlay(prog, [Write(at, (slab.start | 1).to_bytes(8, "little")), Write(damaged, b"\x00")])
    found = {(one.code, one.address) for one in check(prog).findings}
    assert found == {("slab-vector-wrong", None), ("padding", damaged)}


_NODES = Path(__file__).parent / "debian-7-numa" / "capture.xz"


def _counted_elsewhere(name: str, slabs: Tuple[int, int]) -> Report:
    # As nodes 0 and 1 count slabs of a cache, with some more or fewer.
    prog = open_capture(str(_NODES))
    (cache,) = [one for one in Machine(prog).caches if one.name == name]
    objects = cache.object.oo.x.value_() & 0xFFFF
    writes = []
    for nid, more in enumerate(slabs):
        node = Object(prog, "struct kmem_cache_node *", value=cache.nodes[nid])
        for member, each in ((node.nr_slabs, 1), (node.total_objects, objects)):
            number = member.counter.value_() + more * each
            writes.append(Write(member.counter.address_, number.to_bytes(8, "little")))
    overlay(prog, writes)
    return check(prog)


def test_a_slab_that_was_counted_for_a_node_without_memory_is_no_finding() -> None:
    report = _counted_elsewhere("kmem_cache_node", (1, -1))
    assert report.findings == report.changing == []


@pytest.mark.parametrize(
    ("name", "slabs"),
    [("kmalloc-64", (1, -1)), ("kmalloc-64", (0, -9)), ("kmem_cache_node", (1, 0))],
)
def test_no_other_slab_is_counted_elsewhere(name: str, slabs: Tuple[int, int]) -> None:
    report = _counted_elsewhere(name, slabs)
    # One slab less than there are may be new: the capture does not tell who was at work.
    too_few = {nid for nid in range(2) if slabs[nid] == -1}
    for told, nodes in (
        (report.findings, {nid for nid in range(2) if slabs[nid]} - too_few),
        (report.changing, too_few),
    ):
        assert {one.node for one in told} == nodes
        assert {one.code for one in told} == ({"node-slabs", "node-objects"} if nodes else set())
        assert {one.cache for one in told} == ({name} if nodes else set())


def test_each_node_had_one_such_slab_at_most() -> None:
    report = _counted_elsewhere("kmem_cache_node", (2, -2))
    assert {one.node for one in (*report.findings, *report.changing)} == {0, 1}
    assert {one.node for one in report.findings} == {0}
