# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who points where, asked of real kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
from drgn import Program
from drgn.helpers.linux.slab import find_slab_cache, for_each_slab_cache

from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.members import member_at
from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.refs import refs
from drgn_slabtype.capture import open_capture
from drgn_slabtype.errors import ArgumentError

from . import ONE_OF_EACH_SHAPE

HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=ONE_OF_EACH_SHAPE)
def prog(request: pytest.FixtureRequest) -> Program:
    return open_capture(str(HERE / request.param / "capture.xz"))


def test_ends_of_the_list_of_caches_point_to_its_head(prog: Program) -> None:
    head = prog["slab_caches"]
    link = prog.type("struct kmem_cache").member("list").offset
    first, last = (getattr(head, name).value_() - link for name in ("next", "prev"))
    found = refs(prog, head.address_, 16, type="struct kmem_cache")
    told = {(ref.object, ref.member) for ref in found.references if ref.cache == "kmem_cache"}
    # The cache of caches itself may be a variable of the kernel's image.
    wanted = {(first, "list.prev"), (last, "list.next")}
    assert told <= wanted
    assert len(told) == sum(slab_object(prog, at).cache == "kmem_cache" for at, _ in wanted) > 0
    assert found.found == len(found.references)
    assert {ref.value for ref in found.references} == {head.address_}


def test_more_memory_than_there_are_addresses_is_refused(prog: Program) -> None:
    with pytest.raises(ArgumentError, match="size is 0xffffffffffffffff: from "):
        refs(prog, prog["slab_caches"].address_, (1 << 64) - 1)


def test_what_lies_beside_an_object_is_told_as_that() -> None:
    prog = open_capture(str(HERE / "broken" / "slub-6.1-plain-P-overflow-word.xz"))
    (found,) = refs(prog, 0xFFFF888000B917E0).references
    assert found.meaning.startswith("104 bytes into object 17 of lab_victim slab ")
    assert found.meaning.endswith(", in its free pointer")


def test_slabs_point_to_their_cache(prog: Program) -> None:
    cache = find_slab_cache(prog, "kmalloc-192")
    assert cache is not None
    found = refs(prog, cache.value_(), 1, kinds=["pages"])
    slabs = [ref for ref in found.references if "struct" in ref.meaning]
    assert len(slabs) > 0
    assert all("kmalloc-192 slab" in ref.meaning for ref in slabs)
    assert all(ref.value == cache.value_() for ref in found.references)


def test_object_is_searched_whole_and_few_are_shown(prog: Program) -> None:
    first = next(cache for cache in for_each_slab_cache(prog) if slab_object(prog, cache).cache)
    found = refs(prog, first.value_() + 8)
    assert found.start == first.value_()
    assert found.size == caches(prog, "kmem_cache").caches[0].object_size
    assert all(found.start <= ref.value < found.start + found.size for ref in found.references)
    few = refs(prog, first.value_(), most=1)
    assert len(few.references) == 1
    assert few.found == found.found
    assert few.by_kind == found.by_kind
    assert sum(few.by_kind.values()) == few.found


def test_nothing_points_to_what_is_not_there(prog: Program) -> None:
    found = refs(prog, 0xFFFF_0123_4567_0000, 64)
    assert (found.found, found.references, found.by_kind) == (0, [], {})
    assert found.unreadable_pages > 0
    with pytest.raises(ValueError, match="heaps is no kind of reference: these are slabs"):
        refs(prog, 0, kinds=["heaps"])


def test_member_is_named_by_its_offset(prog: Program) -> None:
    cache = prog.type("struct kmem_cache")
    for path in ("name", "list.next", "list.prev", "object_size"):
        offset, type = 0, cache
        for part in path.split("."):
            member = type.member(part)
            offset, type = offset + member.offset, member.type.unaliased()
        assert member_at(cache, offset) == path
    assert member_at(cache, cache.size or 0) is None
    assert member_at(prog.array_type(prog.type("struct list_head"), 3), 24) == "[1].prev"
