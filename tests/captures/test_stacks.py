# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who allocated the objects, asked of real kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import pytest
from drgn import Program, offsetof
from drgn.helpers.linux.slab import find_slab_cache

from drgn_slabtype.answers.likeness import kinds
from drgn_slabtype.answers.lookup import lookup
from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.sites import allocation_sites
from drgn_slabtype.answers.slots import Slot, slot
from drgn_slabtype.answers.stacks import stacks
from drgn_slabtype.answers.tracks import spell_track
from drgn_slabtype.capture import open_capture
from drgn_slabtype.commands import COMMANDS
from drgn_slabtype.errors import TargetError
from drgn_slabtype.machine import machine
from drgn_slabtype.machine.clock import Clock, clock
from drgn_slabtype.machine.symbols import CodeNames, depot_stack, depot_traces, symbolise
from drgn_slabtype.report.text import stacks as as_text
from drgn_slabtype.report.views.stacks import ranges

from ..recipes.overlay import Write, overlay

HERE = Path(__file__).parent
TRACKED = "debian-7-debug"


@pytest.fixture(scope="module")
def prog() -> Program:
    return open_capture(str(HERE / TRACKED / "capture.xz"))


def test_stacks_say_what_each_object_says(prog: Program) -> None:
    name = "kmalloc-256"
    wanted: Counter[Tuple[Optional[str], Tuple[str, ...]]] = Counter()
    for held in objects(prog, name, "in use"):
        tracks = [t for t in slab_object(prog, held.address).tracks if t.event == "allocated"]
        for track in tracks:
            wanted[track.caller, track.stack] += 1
    answer = stacks(prog, name)
    told: Counter[Tuple[Optional[str], Tuple[str, ...]]] = Counter()
    for one in answer.stacks:
        # Functions of one name are several call traces.
        told[one.caller, one.stack] += one.count
    assert told == wanted
    assert sum(one.count for one in answer.stacks) == answer.objects - answer.untracked
    assert answer.found == len(answer.stacks)


def test_every_cache_is_told_with_the_largest_group_first(prog: Program) -> None:
    answer = stacks(prog, most=10)
    assert answer.caches > 100
    assert len(answer.stacks) == 10 < answer.found
    counts = [one.count for one in answer.stacks]
    assert counts == sorted(counts, reverse=True)
    for one in answer.stacks:
        assert one.youngest is not None
        assert one.youngest <= (one.average or 0) <= (one.oldest or 0)
        assert one.cpus
        assert 0 < len(one.pids) <= one.processes


def test_free_objects_are_told_by_who_freed_them(prog: Program) -> None:
    answer = stacks(prog, "kmalloc-*", freed=True)
    assert answer.event == "freed"
    free = sum(len(objects(prog, f"kmalloc-{size}", "free")) for size in (64, 128, 256))
    assert answer.objects >= free


def test_depot_gives_many_traces_as_it_gives_one(prog: Program) -> None:
    kernel = machine(prog)
    held = [one.address for one in objects(prog, "kmalloc-256", "in use")]
    reading = lookup(kernel)
    offset = slot(kernel, reading.caches, reading.number("kmalloc-256")).tracks
    assert offset is not None
    rows = kernel.rows("struct track", np.array(held, np.uint64) + np.uint64(offset))
    handles = rows["handle"]
    found = depot_traces(kernel, np.append(handles, np.uint64(0xFFFFFFF1)))
    assert 0xFFFFFFF1 not in found
    type = prog.type("depot_stack_handle_t")
    names = kernel.fact(CodeNames)
    from drgn import Object

    for handle in set(handles.tolist()) - {0}:
        whole = depot_stack(kernel, Object(prog, type, value=handle))
        assert tuple(names[address] for address in found[handle]) == whole


def test_names_are_those_of_single_questions(prog: Program) -> None:
    kernel = machine(prog)
    names = kernel.fact(CodeNames)
    function = prog.symbol(prog["slab_caches"].address_)
    for address in (function.address, function.address + 1, 0x1000, (1 << 64) - 1):
        assert names[address] == symbolise(kernel, address)


def test_kinds_of_objects_add_up(prog: Program) -> None:
    answer = kinds(prog, "kmalloc-256")
    assert answer.objects == len(objects(prog, "kmalloc-256", "in use"))
    assert sum(kind.count for kind in answer.kinds) == answer.objects - answer.unreadable
    # A capture has no contents.
    assert (answer.unreadable, answer.kinds) == (answer.objects, [])


def test_what_is_not_kept_is_said() -> None:
    plain = open_capture(str(HERE / "debian-7-plain" / "capture.xz"))
    with pytest.raises(TargetError, match="no record of who allocated objects"):
        stacks(plain, "dentry")
    assert (stacks(plain).caches, stacks(plain).stacks) == (0, [])
    # The second's debug info names the types, and has no members of them.
    for prog in (plain, open_capture(str(HERE / "kasan" / "slub-6.12-kasan" / "capture.xz"))):
        with pytest.raises(TargetError, match="no memory allocation profiling"):
            allocation_sites(prog)


def test_moments_are_bounded_by_the_boot() -> None:
    now = Clock((1 << 32) + 1000, 100)
    assert now.ago(1 << 32) == 1000
    assert now.seconds(250) == 2.5
    assert now.ago((1 << 32) - 300 * 100) == 1000 + 30000
    assert now.ago((1 << 32) - 300 * 100 - 1) is None
    assert now.ago((1 << 32) + 2000) == -1000
    assert now.ago(1 << 60) is None
    assert Clock(1 << 32, None).seconds(1) is None


def test_runs_of_numbers_are_short() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert ranges([]) == ""


@pytest.mark.parametrize(("state", "freed"), [("in use", False), ("free", True)])
def test_last_callers_of_slab_are_who_allocated_or_freed(state: str, freed: bool) -> None:
    prog = open_capture(str(HERE / "slab-6.1-debug-plain" / "capture.xz"))
    wanted = Counter(
        track.caller
        for one in objects(prog, "inotify_inode_mark", state)
        for track in slab_object(prog, one.address).tracks
    )
    answer = stacks(prog, "inotify_inode_mark", freed=freed)
    assert {one.caller: one.count for one in answer} == wanted
    assert sum(wanted.values()) == answer.objects - answer.untracked > 90
    assert all((one.stack, one.pids, one.youngest) == ((), (), None) for one in answer)


def _slot(prog: Program, name: str) -> Slot:
    # Where the records of a cache are in its objects.
    reading = lookup(machine(prog))
    return slot(reading.machine, reading.caches, reading.number(name))


@pytest.mark.parametrize(
    ("member", "data"),
    [
        ("addr", bytes.fromhex("deadbeefdeadbeef")),
        ("cpu", bytes.fromhex("deadbeef")),
        ("pid", bytes.fromhex("deadbeef")),
        ("pid", bytes.fromhex("ffffff7f")),
        ("when", bytes.fromhex("deadbeefdeadbeef")),
        ("when", bytes(8)),
    ],
)
def test_overwritten_records_are_none(member: str, data: bytes, prog: Program) -> None:
    name = "kmalloc-256"
    held = objects(prog, name, "in use")[3].address
    offset = _slot(prog, name).tracks
    assert offset is not None
    at = held + offset + offsetof(prog.type("struct track"), member)
    damaged = open_capture(str(HERE / TRACKED / "capture.xz"))
    overlay(damaged, [Write(at, data)])
    (track,) = [t for t in slab_object(damaged, held).tracks if t.event == "allocated"]
    assert track.overwritten
    assert spell_track(track) == "the record of who allocated it is overwritten"
    before, after = stacks(prog, name), stacks(damaged, name)
    assert (before.overwritten, after.overwritten) == (0, 1)
    assert (after.objects, after.tracked) == (before.objects, before.tracked - 1)
    assert f"\n{after.tracked} objects with a record, in 1 cache, " in as_text(after)
    assert "; 1 object with one that is overwritten\n" in as_text(after)
    assert after.untracked == before.untracked
    assert sum(one.count for one in after) == sum(one.count for one in before) - 1
    assert {one.stack for one in after} <= {one.stack for one in before}
    assert {pid for one in after for pid in one.pids} <= set(range(1 << 22))


def test_clock_that_is_overwritten_is_none(prog: Program) -> None:
    damaged = open_capture(str(HERE / TRACKED / "capture.xz"))
    overlay(damaged, [Write(prog["jiffies_64"].address_, bytes(8))])
    assert clock(machine(damaged)) is None
    answer = stacks(damaged, "kmalloc-256")
    assert answer.overwritten == 0
    assert all(one.youngest is None for one in answer)


def test_overwritten_callers_of_slab_are_none() -> None:
    path = str(HERE / "slab-6.1-debug-plain" / "capture.xz")
    prog, damaged = open_capture(path), open_capture(path)
    name = "inotify_inode_mark"
    held = objects(prog, name, "in use")[0].address
    offset = _slot(prog, name).last_caller
    assert offset is not None
    overlay(damaged, [Write(held + offset, bytes.fromhex("deadbeefdeadbeef"))])
    assert [track.overwritten for track in slab_object(prog, held).tracks] == [False]
    assert [track.overwritten for track in slab_object(damaged, held).tracks] == [True]
    assert (stacks(prog, name).overwritten, stacks(damaged, name).overwritten) == (0, 1)


def test_damage_of_a_cache_is_told_beside_its_kinds() -> None:
    prog = open_capture(str(HERE / "debian-6.1-plain" / "capture.xz"))
    before = kinds(prog, "kmalloc-96")
    assert (before.contradicted, before.damaged) == (0, False)
    command = next(one for one in COMMANDS if one.name == "stacks")
    assert command.status(before) == 3  # a capture without contents
    # A free pointer that leads back: what comes behind is on no list.
    prog = open_capture(str(HERE / "debian-6.1-plain" / "capture.xz"))
    overlay(prog, [Write(0xFFFF8E8745F98CF0, bytes.fromhex("f0886d0372ad4be2"))])
    after = kinds(prog, "kmalloc-96")
    assert after.contradicted > 0
    assert after.damaged
    assert command.status(after) == 1
    assert f", {after.contradicted} unknown" in as_text(after)
    assert as_text(after).endswith("something is wrong with kmalloc-96: see check\n")


def test_damage_of_a_cache_is_told_beside_its_call_traces(prog: Program) -> None:
    name = "kmalloc-256"
    free = next(iter(objects(prog, name, "free"))).address
    before = stacks(prog, name)
    assert (before.contradicted, before.damaged) == (0, ())
    damaged = open_capture(str(HERE / TRACKED / "capture.xz"))
    link = free + int(find_slab_cache(damaged, name).offset)  # type: ignore[union-attr]
    overlay(damaged, [Write(link, b"\x41" * 8)])
    after = stacks(damaged, name)
    assert after.contradicted > 0
    assert after.damaged == (name,)
    assert as_text(after).endswith(f"something is wrong with {name}: see check\n")
