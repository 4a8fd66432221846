# SPDX-License-Identifier: LGPL-2.1-or-later
"""A structure copied over another of its kind is one root, and other damage one of its own."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest
from drgn import sizeof
from drgn.helpers.linux.percpu import per_cpu_ptr

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Finding

from ..recipes.overlay import Write, overlay
from ..recipes.pages import user_page
from ..recipes.suites import suite_of

_HERE = Path(__file__).parent
_CASES = (
    ("debian-6.12-plain", 0xFFFFF73E80176FC0, 0xFFFFF73E80177000),
    ("debian-6.12-plain", 0xFFFFF73E8004DA00, 0xFFFFF73E8004DC00),
    ("debian-7-plain", 0xFFFFF473C00ACC00, 0xFFFFF473C00ACE00),
    ("debian-6.1-plain", 0xFFFFF298C00A79C0, 0xFFFFF298C00A7A00),
    ("debian-5.10-plain", 0xFFFFEFEF00169C80, 0xFFFFEFEF00169CC0),
    ("debian-6.12-s390x-plain", 0x3720009E500, 0x3720009E600),
    ("slab-6.1-plain", 0xFFFFEA0000030E00, 0xFFFFEA0000030E40),
    ("slab-6.1-rfc3-plain", 0xFFFFEA000002B700, 0xFFFFEA000002B740),
)
_FULL = _CASES[:2]
"""Copies of a full slab's, which looks like those of all full slabs of its cache."""


def _roots(name: str, one: int, other: int, *besides: Write) -> List[Finding]:
    prog = open_capture(str(_HERE / name / "capture.xz"))
    page = prog.read(one, sizeof(prog.type("struct page")))
    overlay(prog, [Write(other, page), *besides])
    return [finding for finding in check(prog).findings if finding.because is None]


@pytest.mark.parametrize(("name", "one", "other"), _CASES)
def test_a_copy_is_one_root(name: str, one: int, other: int) -> None:
    (root,) = _roots(name, one, other)
    if (name, one, other) not in _FULL:
        assert f"struct page {other:#x} is a copy of" in root.message
        assert f"slab {one:#x}" in root.message


@pytest.mark.parametrize("name", ["debian-6.12-plain", "slab-6.1-rfc3-plain", "slab-6.1-plain"])
def test_a_node_that_is_a_copy_is_one_root(name: str) -> None:
    path = str(_HERE / name / "capture.xz")
    before, prog = open_capture(path), open_capture(path)
    caches = {cache.name: cache for cache in suite_of(before).open(before).caches}
    copy, source = (caches[name].nodes[0] for name in ("skbuff_head_cache", "kmalloc-256"))
    overlay(prog, [Write(copy, before.read(source, sizeof(prog.type("struct kmem_cache_node"))))])
    (root,) = (one for one in check(prog).findings if one.because is None)
    assert root.cache == "skbuff_head_cache"
    assert f"{copy:#x} of skbuff_head_cache is a copy of {source:#x} of kmalloc-256" in root.message


_ARRAYS = (
    ("slab-6.1-rfc3-plain", "kmalloc-rcl-96", "kmem_cache"),
    ("slab-6.1-rfc3-plain", "shmem_inode_cache", "kmalloc-cg-512"),
    ("slab-6.1-debug-plain", "eventpoll_pwq", "dentry"),
)


def _array_copied(name: str, source: str, copy: str, entries: bool) -> List[Finding]:
    path = str(_HERE / name / "capture.xz")
    before, prog = open_capture(path), open_capture(path)
    caches = {cache.name: cache for cache in suite_of(before).open(before).caches}
    array, other = (per_cpu_ptr(caches[one].object.cpu_cache, 1) for one in (source, copy))
    size = sizeof(array[0]) + (8 * array.limit.value_() if entries else 0)
    overlay(prog, [Write(other.value_(), before.read(array.value_(), size))])
    return [one for one in check(prog).findings if one.because is None]


@pytest.mark.parametrize(("name", "source", "copy"), _ARRAYS)
def test_objects_in_arrays_of_two_caches_are_on_no_way(name: str, source: str, copy: str) -> None:
    # Nor does a capture have to tell that nobody was at work.
    (root,) = _array_copied(name, source, copy, entries=True)
    assert (root.code, root.cache) == ("claim-foreign", copy)
    told = f"struct array_cache of {copy} of CPU 1 and that of {source} of CPU 1 are the same"
    assert root.message.endswith(told)


def test_an_array_that_counts_what_it_does_not_hold_is_one_root() -> None:
    (root,) = _array_copied(*_ARRAYS[1], entries=False)
    assert (root.code, root.found, root.index) == ("claim-foreign", 0, 11)


def test_other_damage_stays_apart() -> None:
    # nr_partial of a third cache, which neither of both is.
    name, one, other = _CASES[1]
    alone = _roots(name, one, other)
    count = Write(0xFFFF8F4CC11F3848, (1000).to_bytes(8, "little"))
    both = _roots(name, one, other, count)
    assert len(both) == len(alone) + 1
    assert "shmem_inode_cache" in {root.cache for root in both}


@pytest.mark.parametrize("name", ["debian-5.10-plain", "debian-7-plain", "slab-6.1-rfc3-plain"])
def test_a_page_of_the_memory_map_that_is_a_copy_is_one_root(name: str) -> None:
    path = str(_HERE / name / "capture.xz")
    before, prog = open_capture(path), open_capture(path)
    machine = suite_of(before).open(before)
    copy = next(slab for slab in machine.all_slabs() if slab.quiet).page & -4096
    source, other = copy + 8192, user_page(machine)
    flags = other.spot("flags")
    zone = flags.write(flags.number ^ 1 << 63 - machine.nodes_shift)
    overlay(prog, [Write(copy, before.read(source, 4096)), zone])
    roots = [one for one in check(prog).findings if one.because is None]
    told = f"struct pages from {copy:#x} on are a copy of those from {source:#x} on"
    assert sum(told in one.message for one in roots) == 1
    assert [one.page for one in roots if told not in one.message] == [other.page]


@pytest.mark.parametrize("name", ["debian-5.10-plain", "slab-6.1-rfc3-plain"])
def test_one_node_of_two_caches_is_no_copy(name: str) -> None:
    path = str(_HERE / name / "capture.xz")
    before, prog = open_capture(path), open_capture(path)
    caches = {cache.name: cache for cache in suite_of(before).open(before).caches}
    ours, theirs = caches["skbuff_head_cache"], caches["kmalloc-256"]
    overlay(prog, [ours.node_pointer().write(theirs.nodes[0])])
    roots = [one for one in check(prog).findings if one.because is None]
    assert roots
    assert not any("copy" in one.message for one in roots)
