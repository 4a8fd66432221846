# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who allocated the objects, asked of real kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import pytest
from drgn import Program

from drgn_slabtype.answers.likeness import kinds
from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.sites import allocation_sites
from drgn_slabtype.answers.stacks import stacks
from drgn_slabtype.capture import open_capture
from drgn_slabtype.errors import TargetError
from drgn_slabtype.machine import machine
from drgn_slabtype.machine.clock import Clock
from drgn_slabtype.machine.symbols import CodeNames, depot_stack, depot_traces, symbolise
from drgn_slabtype.report.views.stacks import ranges

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
    from drgn_slabtype.answers.lookup import lookup
    from drgn_slabtype.answers.slots import slot

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
