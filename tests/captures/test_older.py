# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels from 4.18 to 5.9, which Debian has no more: those of 5.10 with the types of then.

What they lack is taken out; what each memory cgroup had, slab caches of its own, is put
in. Where free pointers lie and how they are hardened, each slab tells.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Callable, Dict, FrozenSet, List, NamedTuple

import pytest
from drgn import Program, Type, TypeKind, TypeKindSet, TypeMember

from drgn_slabtype import objects
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.owners import owners
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check

from ..recipes.overlay import Write, overlay
from ..recipes.runner import run
from ..recipes.suites import suite_of

_MEMCG = 0xFFFF888000ABC000
_NAME = b"kmalloc-64(27:lab)\0"

# Since 5.9 (reciprocal_size, obj_cgroups, compound_nr) and 5.7 (hpage_pinned_refcount).
_LATER = frozenset({"reciprocal_size", "obj_cgroups", "compound_nr", "hpage_pinned_refcount"})


class Older(NamedTuple):
    """A replayed kernel in which one cache is that which a cgroup has of another."""

    prog: Program
    root: str
    in_use: Dict[str, int]
    """Objects of each cache before it was made one."""


def _without(prog: Program, type: Type, later: FrozenSet[str]) -> Type:
    make: Callable[..., Type] = prog.union_type if type.kind == TypeKind.UNION else prog.struct_type
    members = []
    for member in type.members or ():
        if member.name in later:
            continue
        inner = member.type
        if member.name is None and inner.kind in (TypeKind.STRUCT, TypeKind.UNION):
            inner = _without(prog, inner, later)
            members.append(TypeMember(inner, None, member.bit_offset))
        else:
            members.append(TypeMember(member.object, member.name, member.bit_offset))
    return make(type.tag, type.size or 0, members)


def _with_params(prog: Program, cache: Type) -> Type:
    # What is said of sysfs makes room.
    pointer = prog.pointer_type(prog.void_type())
    places = [TypeMember(pointer, "root_cache"), TypeMember(pointer, "memcg", 64)]
    params = prog.struct_type("memcg_cache_params", 16, places)
    members = [
        TypeMember(params, "memcg_params", member.bit_offset)
        if member.name == "kobj"
        else TypeMember(member.object, member.name, member.bit_offset)
        for member in cache.members or ()
    ]
    return prog.struct_type("kmem_cache", cache.size or 0, members)


def _older(capture: str, root: str, child: str) -> Older:
    path = str(Path(__file__).parent / capture / "capture.xz")
    prog = open_capture(path)
    known = {cache.name: cache for cache in caches(open_capture(path)).caches}
    types = {
        name: _without(prog, prog.type(f"struct {name}"), _LATER) for name in ("page", "kmem_cache")
    }
    if root:
        types["kmem_cache"] = _with_params(prog, types["kmem_cache"])

    def find(prog: Program, kinds: TypeKindSet, name: str, filename: object) -> Type | None:
        return types.get(name) if TypeKind.STRUCT in kinds else None

    prog.register_type_finder("older", find, enable_index=0)
    if root:
        cache = types["kmem_cache"]
        at = cache.member("memcg_params").bit_offset // 8
        # In an object of its own: where the old name is, there is no room for it.
        name = int(objects(open_capture(path), "kmalloc-1k", "in use").addresses()[0])
        told = known[child].address + cache.member("name").bit_offset // 8
        writes = [Write(one.address + at, bytes(16)) for one in known.values() if one.name != child]
        params = struct.pack("<QQ", known[root].address, _MEMCG)
        writes += [Write(known[child].address + at, params), Write(name, _NAME)]
        overlay(prog, [*writes, Write(told, struct.pack("<Q", name))])
    return Older(prog, root, {name: one.in_use for name, one in known.items()})


@pytest.mark.parametrize("capture", ["debian-5.10-plain", "slab-5.10-plain"])
def test_what_kernels_did_not_have_is_not_asked_for(capture: str) -> None:
    prog = _older(capture, "", "").prog
    assert not prog.type("struct kmem_cache").has_member("reciprocal_size")
    assert not prog.type("struct page").has_member("obj_cgroups")
    report = check(prog)
    assert report.findings == []
    assert report.unavailable == []


@pytest.mark.parametrize(
    ("capture", "names"),
    [
        ("debian-5.10-plain", ["inuse-one-too-high", "inuse-one-too-low"]),
        ("slab-5.10-plain", ["active-one-too-high", "active-zero"]),
    ],
)
def test_damage_to_them_is_found(capture: str, names: List[str]) -> None:
    prog = _older(capture, "", "").prog
    results = list(run(prog, suite_of(prog), names))
    assert [(result.name, result.outcome) for result in results] == [(n, "found") for n in names]


@pytest.fixture(scope="module")
def older() -> Older:
    return _older("debian-5.10-plain", "kmalloc-64", "kmalloc-rcl-64")


def test_caches_of_cgroups_are_judged_like_others(older: Older) -> None:
    report = check(older.prog)
    assert report.findings == []
    assert "kmalloc-64(27:lab)" in {cache.name for cache in report.caches}


def test_owners_of_a_cache_are_told_with_those_of_its_cgroups(older: Older) -> None:
    answer = owners(older.prog, older.root)
    mine, theirs = (older.in_use[name] for name in (older.root, "kmalloc-rcl-64"))
    assert answer.objects == mine + theirs
    assert [(owner.memcg, owner.objects) for owner in answer.owners] == [(_MEMCG, theirs)]
    assert answer.uncharged + answer.unknown == mine


def test_owner_of_a_cgroups_own_cache(older: Older) -> None:
    answer = owners(older.prog, "kmalloc-64(27:lab)")
    assert [(owner.memcg, owner.objects) for owner in answer.owners] == [(_MEMCG, answer.objects)]
    assert answer.uncharged == answer.unknown == 0
