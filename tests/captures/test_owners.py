# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whose objects: what captures can say, and where records of objects lie in each era."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drgn import Program
from drgn.helpers.linux.slab import find_slab_cache

from drgn_slabtype.allocators.vectors import vectors
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.objects import for_each_slab
from drgn_slabtype.answers.owners import owners
from drgn_slabtype.capture import open_capture
from drgn_slabtype.machine import machine

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


def test_what_a_capture_left_out_is_unknown(prog: Program) -> None:
    # Which slabs have a vector is known, what is in it is not.
    for name in ("dentry", "inode_cache", "kmalloc-64"):
        if not any(cache.name == name for cache in caches(prog).caches):
            continue
        answer = owners(prog, name)
        assert answer.owners == []
        assert answer.uncharged + answer.unknown == answer.objects


def test_vectors_are_an_entry_for_each_object() -> None:
    # The guests of the others had no memory cgroups, whose layouts tests/unit/test_memcg.py has.
    prog = open_capture(str(HERE / "slub-6.12-tiny-plain" / "capture.xz"))
    kernel = machine(prog)
    slabs_with_vector = 0
    for cache in caches(prog).caches:
        found = find_slab_cache(prog, cache.name)
        if found is None:
            continue
        pages = np.array([slab.value_() for slab in for_each_slab(found)], np.uint64)
        start, step = vectors(kernel, pages, cache.size)
        with_vector = start != 0
        assert (start[with_vector] % 8 == 0).all()
        assert (step[with_vector] % 8 == 0).all()
        assert ((step[with_vector] >= 8) & (step[with_vector] <= max(cache.size, 16))).all()
        slabs_with_vector += int(with_vector.sum())
    assert slabs_with_vector > 200
