# SPDX-License-Identifier: LGPL-2.1-or-later
"""The slabs of a cache, and caches by name, asked of real kernels."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from drgn import Program

from drgn_slabtype.answers.caches import CacheUsage, caches
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.owners import owners
from drgn_slabtype.answers.slabs import slabs
from drgn_slabtype.capture import open_capture
from drgn_slabtype.errors import TargetError
from drgn_slabtype.report import text as as_text

from ..recipes.overlay import Write, overlay
from ..recipes.slub.machine import Machine
from . import ONE_OF_EACH_SHAPE

HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=ONE_OF_EACH_SHAPE)
def prog(request: pytest.FixtureRequest) -> Program:
    return open_capture(str(HERE / request.param / "capture.xz"))


@pytest.fixture(scope="module")
def used(prog: Program) -> CacheUsage:
    # A cache with much of everything.
    return max(caches(prog).caches, key=lambda cache: len(cache.lists) * 1000 + cache.slabs)


def test_slabs_add_up_to_the_cache(prog: Program) -> None:
    for cache in caches(prog, per_node=True).caches[:12]:
        found = slabs(prog, cache.address).slabs
        assert len(found) == cache.slabs
        for name in ("objects", "counted", "in_use", "waiting"):
            assert sum(getattr(slab, name) for slab in found) == getattr(cache, name), name
        free = {
            place: sum(slab.free.get(place, 0) for slab in found)
            for slab in found
            for place in slab.free
        }
        assert free == {place: count for place, count in cache.free.items() if count}
        assert not any(slab.unknown or slab.finding for slab in found)
        for node in cache.nodes:
            assert len(slabs(prog, cache.address, node=node.node).slabs) == node.slabs


def test_of_one_slab_no_more_objects_are_told_than_asked_for(prog: Program) -> None:
    whole = next(one for one in slabs(prog, "kmalloc-64").slabs if one.objects > 3)
    told = slabs(prog, "kmalloc-64", slab=whole.slab)
    some = slabs(prog, "kmalloc-64", slab=whole.slab, most=3)
    assert some.slabs == told.slabs == [whole]
    assert len(told.objects) == whole.objects
    assert some.objects == told.objects[:3]
    assert as_text.slabs(some).splitlines()[-1] == f"{whole.objects - 3} more objects"
    assert slabs(prog, "kmalloc-64", slab=whole.slab, most=0).objects == ()


def test_the_name_of_nothing_is_in_quotes(prog: Program) -> None:
    for name in ("", "a b"):
        with pytest.raises(ValueError, match=f"there is no slab cache named '{name}'"):
            caches(prog, name)


def test_slab_says_where_it_stands(prog: Program, used: CacheUsage) -> None:
    found = slabs(prog, used.name).slabs
    # There, a full slab counts as such though it is on no list.
    for name in set(used.lists) - {"full", "no list"}:
        assert sum(slab.list == name for slab in found) == used.lists[name]
    partial = slabs(prog, used.name, partial=True).slabs
    assert {slab.list for slab in partial} <= {"partial", "cpu partial"}
    full = slabs(prog, used.name, full=True).slabs
    assert all(slab.counted == slab.objects for slab in full)
    both = slabs(prog, used.name, partial=True, full=True).slabs
    assert {slab.slab for slab in both} == {slab.slab for slab in [*partial, *full]}
    for cpu in {slab.owner for slab in found if slab.list == "cpu"}:
        assert all(slab.owner == cpu for slab in slabs(prog, used.name, cpu=cpu).slabs)


def test_one_slab_has_its_objects(prog: Program, used: CacheUsage) -> None:
    some = slabs(prog, used.name).slabs[0]
    for address in (some.slab, some.address, some.address + 100):
        answer = slabs(prog, used.name, slab=address)
        assert [slab.slab for slab in answer.slabs] == [some.slab]
        assert [one for one in objects(prog, used.name) if one.slab == some.slab] == list(
            answer.objects
        )
    with pytest.raises(TargetError, match=f"is no slab of {used.name}"):
        slabs(prog, used.name, slab=0x1000)
    other = next(one for one in caches(prog).caches if one.slabs and one.name != used.name)
    address = slabs(prog, other.address).slabs[0].slab
    with pytest.raises(TargetError, match=rf"and in none: .*{re.escape(other.name)}"):
        slabs(prog, used.name, slab=address)


def test_pattern_means_all_caches_that_match(prog: Program) -> None:
    every = caches(prog, sort="name").caches
    wanted = [cache.name for cache in every if cache.name.startswith("kmalloc-")]
    found = caches(prog, "kmalloc-*", sort="name")
    assert [cache.name for cache in found.caches] == wanted
    assert found.total.slabs == sum(cache.slabs for cache in found.caches)
    assert [cache.name for cache in caches(prog, "kmalloc-64", "kmalloc-6[4]").caches] == [
        "kmalloc-64"
    ]
    with pytest.raises(TargetError, match=r"kmalloc-\* means \d+ slab caches: kmalloc"):
        slabs(prog, "kmalloc-*")


def test_where_there_is_no_slab_or_object_is_said(prog: Program) -> None:
    every = caches(prog).caches
    for cache in every[:20]:
        for asked in ({"partial": True}, {"full": True}, {"cpu": 0}, {"node": 0}):
            answer = slabs(prog, cache.name, **asked)
            assert (answer.why_none is None) == (answer.found != 0)
            assert len(as_text.slabs(answer).splitlines()) > 1
            if answer.why_none is not None and cache.slabs:
                assert answer.why_none.startswith(f"of its {cache.slabs} slab")
        for state in ("waiting", "unknown"):
            found = objects(prog, cache.name, state)
            told = "".join(as_text.objects(found))
            assert ("ADDRESS" in told) == bool(found.found)
            if cache.objects and not found.found:
                many = f"{cache.objects} object" + "s" * (cache.objects > 1)
                assert told == f"{cache.name}: of its {many} none is in that state\n"
    empty = next((cache for cache in every if not cache.slabs), None)
    if empty is not None:
        assert slabs(prog, empty.name).why_none == "the cache has no slab"
        assert "".join(as_text.objects(objects(prog, empty.name))).endswith("it has no object\n")


def test_near_miss_is_suggested(prog: Program) -> None:
    for ask in (slabs, objects, caches):
        with pytest.raises(
            TargetError, match="no slab cache named kmaloc-64; did you mean kmalloc-64"
        ):
            ask(prog, "kmaloc-64")


def test_how_many_are_told_is_no_matter_of_damage() -> None:
    path = Path(__file__).parent / "broken" / "slub-6.1-plain-P-overflow-word.xz"
    broken = open_capture(str(path))
    assert slabs(broken, "lab_victim").damaged
    assert slabs(broken, "lab_victim", most=0).damaged
    assert not slabs(broken, "kmalloc-64").damaged


def test_objects_that_are_nobodys_are_told_of_owners() -> None:
    path = str(Path(__file__).parent / "debian-6.1-plain" / "capture.xz")
    prog, damaged = open_capture(path), open_capture(path)
    slab = next(one for one in Machine(prog).all_slabs() if one.free and one.counted)
    sound = owners(prog, slab.cache.name)
    assert (sound.contradicted, sound.damaged) == (0, False)
    assert "unknown" not in as_text.owners(sound)
    assert "wrong" not in as_text.owners(sound)
    overlay(damaged, [Write(slab.spot("freelist").address, bytes(range(8)))])
    found = owners(damaged, slab.cache.name)
    assert found.damaged
    assert found.contradicted == caches(damaged, slab.cache.name).total.unknown > 0
    assert f"{found.contradicted} unknown" in as_text.owners(found)
    assert f"something is wrong with {found.cache}: see check" in as_text.owners(found)
