# SPDX-License-Identifier: LGPL-2.1-or-later
"""The answers on real kernels: they agree with each other, with drgn and with the check."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import List

import pytest
from drgn import Program
from drgn.helpers.linux.slab import find_slab_cache

from drgn_slabtype.answers.caches import CacheUsage, caches
from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.objects import for_each_object, for_each_slab, objects
from drgn_slabtype.answers.page import page_info
from drgn_slabtype.answers.refs import refs
from drgn_slabtype.answers.slabs import slabs
from drgn_slabtype.answers.what import what
from drgn_slabtype.capture import is_capture, open_capture
from drgn_slabtype.check import check, validate_slab_cache
from drgn_slabtype.command import incomplete
from drgn_slabtype.demo import captures, raise_count
from drgn_slabtype.errors import CorruptionError, TargetError
from drgn_slabtype.machine import machine, page_type_layout
from drgn_slabtype.pages.census import Selection, census
from drgn_slabtype.pages.counters import slab_get_active, slab_get_inuse
from drgn_slabtype.report import json as as_json
from drgn_slabtype.report import text as as_text

from ..recipes.overlay import Write, overlay

HERE = Path(__file__).parent
CAPTURES: List[Path] = [
    *captures(),
    *(path for path in sorted(HERE.glob("*/capture.xz")) if is_capture(str(path))),
]

pytestmark = pytest.mark.skipif(not CAPTURES, reason="there are no captures to ask")


@pytest.fixture(scope="module", params=CAPTURES, ids=lambda path: path.parent.name)
def prog(request: pytest.FixtureRequest) -> Program:
    return open_capture(str(request.param))


def test_caches_say_what_the_check_says(prog: Program) -> None:
    results = {result.address: result for result in check(prog).caches}
    answer = caches(prog, sort="name", per_node=True)
    assert [cache.name for cache in answer.caches] == sorted(c.name for c in answer.caches)
    for cache in answer.caches:
        result = results[cache.address]
        assert cache.consistent
        assert (cache.objects, cache.counted, cache.in_use) == (
            result.objects,
            result.counted,
            result.in_use,
        )
        assert sum(node.objects for node in cache.nodes) == cache.objects
    assert answer.total.in_use == sum(result.in_use for result in results.values())


def test_objects_add_up_to_the_cache(prog: Program) -> None:
    for cache in caches(prog).caches[:10]:
        found = objects(prog, cache.address)
        states = [record.state for record in found]
        assert len(found) == cache.objects + len(found.guarded)
        assert states.count("in use") == cache.in_use + sum(
            record.state == "in use" for record in found.guarded
        )
        assert "unknown" not in states


def _fullest(prog: Program) -> CacheUsage:
    return max(caches(prog).caches, key=lambda cache: cache.slabs)


def test_for_each_object_gives_objects_of_the_type(prog: Program) -> None:
    slab_cache = find_slab_cache(prog, _fullest(prog).name)
    addresses = set()
    for pointer in for_each_object(slab_cache):
        assert pointer.type_.type_name() == "void *"
        addresses.add(pointer.value_())
    free = {pointer.value_() for pointer in for_each_object(slab_cache, "void *", "free")}
    assert addresses
    assert not addresses & free


def test_for_each_slab_gives_slabs_whose_counts_add_up(prog: Program) -> None:
    known = _fullest(prog)
    slab_cache = find_slab_cache(prog, known.name)
    found = list(for_each_slab(slab_cache))
    assert len(found) == known.slabs
    assert all(slab.slab_cache == slab_cache for slab in found)
    is_slab = page_type_layout(prog).allocator == "SLAB"
    counted = sum(slab_get_active(slab) if is_slab else slab_get_inuse(slab) for slab in found)
    assert counted == known.counted


@pytest.mark.parametrize("state", ["in use", "free"])
def test_every_object_is_found_by_its_address(prog: Program, state: str) -> None:
    records = list(objects(prog, "kmalloc-64", state))
    for record in records[:: max(1, len(records) // 20)]:
        if record.place == "KFENCE":
            continue
        info = slab_object(prog, record.address + 5)
        assert (info.kind, info.cache, info.offset) == ("slab object", "kmalloc-64", 5)
        assert (info.object, info.slab, info.index) == (record.address, record.slab, record.index)
        assert info.state == state
        assert not info.contradictions
        if record.place == "allocator":
            assert info.places == ("allocator",)
        elif record.place is not None:
            assert info.places == (f"{record.place}, position {record.position}",)


def test_struct_slab_is_recognised(prog: Program) -> None:
    record = next(iter(objects(prog, "kmalloc-64")))
    assert slab_object(prog, record.slab).kind == "struct slab"
    assert slab_object(prog, record.slab).cache == "kmalloc-64"


def test_addresses_that_are_nothing_are_told(prog: Program) -> None:
    for address in (0, 1, 1 << 47, (1 << 64) - 4096):
        info = slab_object(prog, address)
        assert info.kind == "other"
        assert info.state is None


def test_unknown_cache_is_an_error(prog: Program) -> None:
    with pytest.raises(TargetError, match="no slab cache named nope"):
        objects(prog, "nope")


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.parent.name)
def test_validation_names_the_damage(path: Path) -> None:
    damaged = open_capture(str(path))
    partial = [
        cache.name for cache in caches(open_capture(str(path))).caches if _has_partial(cache)
    ]
    raise_count(damaged, partial[0])
    with pytest.raises(CorruptionError) as caught:
        validate_slab_cache(find_slab_cache(damaged, partial[0]))
    assert caught.value.finding.cache == partial[0]
    validate_slab_cache(find_slab_cache(damaged, partial[1]))


def _has_partial(cache: CacheUsage) -> bool:
    return cache.lists.get("partial", 0) > 0


def test_cut_list_of_caches_is_told() -> None:
    (path,) = (one for one in CAPTURES if one.parent.name == "debian-7-plain")
    prog = open_capture(str(path))
    whole = caches(prog)
    assert whole.unavailable == ()
    assert incomplete(whole) == 0
    # A cache that no slab leads to is lost with the link.
    member = prog.type("struct kmem_cache").member("list").offset
    places = {cache.name: cache.address for cache in whole.caches}
    link = places["kmalloc-64"] + member
    damaged = open_capture(str(path))
    overlay(damaged, [Write(link, struct.pack("<Q", 0xDEAD000000000100))])
    answer = caches(damaged)
    assert f"next of 0x{places['kmalloc-64']:x} leads to 0xdead000000000100" in str(
        answer.unavailable
    )
    assert incomplete(answer) == 3
    assert f"unavailable: {answer.unavailable[0]}\n" in as_text.caches(answer)
    assert json.loads(as_json.caches(answer))["unavailable"] == [*answer.unavailable]
    found = objects(damaged, "kmalloc-64")
    assert found.unavailable == answer.unavailable
    assert "".join(as_text.objects(found)).endswith(f"unavailable: {found.unavailable[0]}\n")
    assert json.loads("".join(as_json.objects(found)))["unavailable"] == [*found.unavailable]
    assert slabs(damaged, "kmalloc-64").unavailable == found.unavailable


def test_cpus_and_nodes_that_are_not_there_are_an_error(prog: Program) -> None:
    count = len(machine(prog).cpus)
    there = f"0 to {count - 1}" if count > 1 else "0"
    with pytest.raises(TargetError, match=f"there is no CPU {count}: there (is|are) {there}"):
        slabs(prog, "kmalloc-64", cpu=count)
    for ask in (
        lambda: slabs(prog, "kmalloc-64", node=77),
        lambda: census(prog, select=Selection(node=77)),
    ):
        with pytest.raises(TargetError, match=r"there is no node 77: there (is 0|are 0 to 1)"):
            ask()


def test_addresses_of_more_than_64_bits_are_an_error(prog: Program) -> None:
    for ask in (slab_object, page_info, what, refs, lambda p, a: check(p, addresses=[a])):
        with pytest.raises(ValueError, match=r"0x10000000000000000 has more than 64 bits"):
            ask(prog, 1 << 64)


def test_some_of_the_caches_have_the_sums_of_all(prog: Program) -> None:
    every, some = caches(prog), caches(prog, most=3)
    assert some.caches == every.caches[:3]
    assert some.total == every.total
    count = len(every.caches)
    assert as_text.caches(some).splitlines()[-1].startswith(f"{count} caches, 3 shown; ")


def test_answers_are_lists_of_records(prog: Program) -> None:
    answer = caches(prog)
    assert answer[:3] == answer.caches[:3]
    assert answer[0] is answer.caches[0]
    assert list(answer) == answer.caches
    assert len(answer) == len(answer.caches)
    assert list(slabs(prog, "kmalloc-64")) == slabs(prog, "kmalloc-64").slabs
    assert census(prog)[0].pages >= census(prog)[-1].pages
    found = objects(prog, "kmalloc-64")
    every = list(found)
    assert found[:5] == every[:5]
    assert (found[0], found[-1]) == (every[0], every[-1])
    with pytest.raises(IndexError):
        found[len(every)]
    # Of nothing, too, there is something to tell.
    assert what(prog, 0x7FFFFFFFFFFFFFFF)


def test_no_more_is_told_than_was_asked_for(prog: Program) -> None:
    every = slabs(prog, "kmalloc-64")
    some = slabs(prog, "kmalloc-64", most=2)
    assert some.slabs == every.slabs[:2]
    assert some.found == every.found == len(every)
    both = objects(prog, "kmalloc-64", ["free", "in use"])
    for most in (0, 3, len(both), len(both) + 1):
        told = objects(prog, "kmalloc-64", ["free", "in use"], most=most)
        assert list(told) == list(both)[:most]
        assert (told.found, len(told)) == (len(both), min(most, len(both)))
    text = "".join(as_text.objects(objects(prog, "kmalloc-64", ["free", "in use"], most=3)))
    assert text.split("\n")[0].endswith(", 3 shown")
    assert text.count("\n") >= 2 + 3
    assert f"{len(every)} slabs, 2 shown," in as_text.slabs(some)
    assert "shown" not in as_text.slabs(every)
