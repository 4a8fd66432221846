# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose objects: what captures can say, and where records of objects lie in each era."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, Tuple

import numpy as np
import pytest
from drgn import Program
from drgn.helpers.linux.slab import find_slab_cache

from drgn_slabtype.allocators.vectors import vectors
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.objects import for_each_slab, objects
from drgn_slabtype.answers.owners import owners
from drgn_slabtype.answers.page import page_info
from drgn_slabtype.answers.slabs import slabs
from drgn_slabtype.capture import open_capture
from drgn_slabtype.ledger import U64
from drgn_slabtype.machine import machine
from drgn_slabtype.report import present
from drgn_slabtype.report.text import owners as as_text

from . import ONE_OF_EACH_SHAPE

HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=ONE_OF_EACH_SHAPE)
def prog(request: pytest.FixtureRequest) -> Program:
    return open_capture(str(HERE / request.param / "capture.xz"))


def test_objects_add_up(prog: Program) -> None:
    (usage,) = caches(prog, "kmalloc-64", per_node=True, per_cpu=True).caches
    answer = owners(prog, "kmalloc-64")
    assert answer.objects == usage.in_use
    charged = sum(owner.objects for owner in answer.owners)
    assert charged + answer.uncharged + answer.unknown == answer.objects
    assert sum(answer.nodes.values()) == answer.objects
    assert set(answer.nodes) <= {node.node for node in usage.nodes}
    assert answer.cpus == {cpu.cpu: sum(cpu.free.values()) for cpu in usage.cpus}
    assert answer.node_bytes == {node: n * usage.size for node, n in answer.nodes.items()}
    assert answer.per_cpu == usage.cpus


def test_what_a_cpu_has_is_what_its_slabs_and_places_say(prog: Program) -> None:
    for cache in sorted(caches(prog).caches, key=lambda one: -one.waiting)[:3]:
        every = objects(prog, cache.address)
        for cpu in owners(prog, cache.address).per_cpu:
            mine = slabs(prog, cache.address, cpu=cpu.cpu).slabs
            assert sum(cpu.lists.values()) == len(mine)
            assert cpu.in_use == sum(slab.in_use for slab in mine)
            own = f" of CPU {cpu.cpu}"
            waiting = [
                one for one in every if one.state == "waiting" and (one.place or "").endswith(own)
            ]
            assert cpu.waiting == len(waiting)


def test_text_tells_nodes_and_cpus() -> None:
    sheaves = open_capture(str(HERE / "debian-7-numa" / "capture.xz"))
    _, nodes, kept, waiting = as_text(owners(sheaves, "kmalloc-64")).splitlines()
    assert nodes == "in use: 2517 on node 0 (157.3 KiB), 516 on node 1 (32.2 KiB)"
    assert kept == "kept for later: 53 on CPU 0, 17 on CPU 1, 117 on CPU 2, 10 on CPU 3"
    assert waiting == "waiting among them: 1 on CPU 0, 1 on CPU 1"
    partial = open_capture(str(HERE / "debian-6.12-plain" / "capture.xz"))
    told = present("owners", owners(partial, "kmalloc-64"), "table", 80)
    assert max(map(len, "".join(told).splitlines())) <= 80
    told = as_text(owners(partial, "kmalloc-64")).splitlines()[-1]
    assert told.startswith("in use in slabs of a CPU: 117 in 3 slabs of CPU 0, 40 in 1 slab of")


def test_what_a_capture_left_out_is_unknown(prog: Program) -> None:
    # Which slabs have a vector is known, what is in it is not.
    for name in ("dentry", "inode_cache", "kmalloc-64"):
        if not any(cache.name == name for cache in caches(prog).caches):
            continue
        answer = owners(prog, name)
        assert answer.owners == []
        assert answer.uncharged + answer.unknown == answer.objects


def _vectors(prog: Program) -> Iterator[Tuple[U64, U64, U64, int]]:
    # The slabs of each cache in which one has a vector of object cgroups, the vectors, the
    # bytes from one entry to the next, and the size of an object.
    for cache in caches(prog).caches:
        found = find_slab_cache(prog, cache.name)
        if found is None:
            continue
        pages = np.array([slab.value_() for slab in for_each_slab(found)], np.uint64)
        start, step = vectors(machine(prog), pages, cache.size)
        if start.any():
            yield pages, start, step, cache.size


def test_page_says_whose_objects_are_only_where_it_is_known() -> None:
    prog = open_capture(str(HERE / "slub-6.12-tiny-plain" / "capture.xz"))
    pages, start, _, _ = next(_vectors(prog))
    told = page_info(prog, int(pages[np.flatnonzero(start)[0]])).memcg or ""
    assert told.startswith("an object cgroup for each object, at 0x")
    assert told.endswith(", which is not in the target")


def test_vectors_are_an_entry_for_each_object() -> None:
    # The guests of the others had no memory cgroups, whose layouts tests/unit/test_memcg.py has.
    prog = open_capture(str(HERE / "slub-6.12-tiny-plain" / "capture.xz"))
    slabs_with_vector = 0
    for _, start, step, size in _vectors(prog):
        with_vector = start != 0
        assert (start[with_vector] % 8 == 0).all()
        assert (step[with_vector] % 8 == 0).all()
        assert ((step[with_vector] >= 8) & (step[with_vector] <= max(size, 16))).all()
        slabs_with_vector += int(with_vector.sum())
    assert slabs_with_vector > 200
