# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels before 5.9, in which each memory cgroup has slab caches of its own."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from drgn import Program, Type, TypeKind, TypeKindSet, TypeMember

from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.owners import owners
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check

from ..recipes.overlay import Write, overlay

_CAPTURE = str(Path(__file__).parent / "debian-5.10-plain" / "capture.xz")
_MEMCG = 0xFFFF888000ABC000
_NAMED = b"kmalloc-64(27:lab)\0"


def _with_cgroup_caches(root: str, child: str) -> Program:
    # One cache of a replayed kernel becomes that which a cgroup has of another, under
    # its name. What the types say of sysfs makes room for the member.
    prog = open_capture(_CAPTURE)
    whole = prog.type("struct kmem_cache")
    pointer = prog.pointer_type(prog.void_type())
    params = prog.struct_type(
        "memcg_cache_params",
        16,
        [TypeMember(pointer, "root_cache"), TypeMember(pointer, "memcg", 64)],
    )
    members = [
        TypeMember(params, "memcg_params", member.bit_offset) if member.name == "kobj" else member
        for member in whole.members or ()
    ]
    older = prog.struct_type("kmem_cache", whole.size or 0, members)

    def find(prog: Program, kinds: TypeKindSet, name: str, filename: object) -> Type | None:
        return older if name == "kmem_cache" and TypeKind.STRUCT in kinds else None

    prog.register_type_finder("older", find, enable_index=0)
    at = older.member("memcg_params").bit_offset // 8
    name_at = older.member("name").bit_offset // 8
    known = {cache.name: cache.address for cache in caches(open_capture(_CAPTURE)).caches}
    name = prog.read_u64(known[child] + name_at)
    writes = [Write(address + at, bytes(16)) for other, address in known.items() if other != child]
    writes.append(Write(known[child] + at, struct.pack("<QQ", known[root], _MEMCG)))
    writes.append(Write(name, _NAMED))
    overlay(prog, writes)
    return prog


@pytest.fixture(scope="module")
def prog() -> Program:
    return _with_cgroup_caches("kmalloc-64", "kmalloc-rcl-64")


def test_caches_of_cgroups_are_judged_like_others(prog: Program) -> None:
    report = check(prog)
    assert report.findings == []
    assert "kmalloc-64(27:lab)" in {cache.name for cache in report.caches}


def test_owners_of_a_cache_are_told_with_those_of_its_cgroups(prog: Program) -> None:
    known = {cache.name: cache for cache in caches(prog).caches}
    root, child = known["kmalloc-64"], known["kmalloc-64(27:lab)"]
    answer = owners(prog, "kmalloc-64")
    assert answer.objects == root.in_use + child.in_use
    assert [(owner.memcg, owner.objects, owner.bytes) for owner in answer.owners] == [
        (_MEMCG, child.in_use, child.in_use * child.size)
    ]
    assert answer.uncharged + answer.unknown == root.in_use


def test_owner_of_a_cgroups_own_cache(prog: Program) -> None:
    answer = owners(prog, "kmalloc-64(27:lab)")
    assert [(owner.memcg, owner.objects) for owner in answer.owners] == [(_MEMCG, answer.objects)]
    assert answer.uncharged == answer.unknown == 0
