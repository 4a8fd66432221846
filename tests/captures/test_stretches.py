# SPDX-License-Identifier: LGPL-2.1-or-later
"""One write over whole structures of the allocator, and over many side by side: one root."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, List, Sequence

import pytest
from drgn import Program
from drgn.helpers.linux.percpu import per_cpu_ptr

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Finding

from ..recipes.overlay import Write, overlay
from ..recipes.suites import suite_of
from . import two_caches

_HERE = Path(__file__).parent
_PAGE = 4096
_KERNELS = ("debian-6.12-plain", "debian-7-plain", "slab-6.1-rfc3-plain")
_SEED = b"Linux version 6.1 (gcc) "

Damage = Callable[[Program, Any, Any], List[Write]]
"""What is written, given two caches."""


def _roots(name: str, damage: Damage) -> Sequence[Finding]:
    path = str(_HERE / name / "capture.xz")
    before = open_capture(path)
    prog = open_capture(path)
    overlay(prog, damage(before, *two_caches(suite_of(before).open(before))))
    return [finding for finding in check(prog).findings if finding.because is None]


def _size(cache: Any) -> int:
    return int(cache.machine.cache("kmem_cache").object.object_size.value_())


def _copied(prog: Program, one: Any, other: Any) -> List[Write]:
    return [Write(one.address, prog.read(other.address, _size(other)))]


def _swapped(prog: Program, one: Any, other: Any) -> List[Write]:
    return [*_copied(prog, one, other), *_copied(prog, other, one)]


def _page_of_caches(prog: Program, one: Any, other: Any) -> List[Write]:
    return [Write(one.address // _PAGE * _PAGE, b"k" * _PAGE)]


def _page_of_kmalloc_caches(prog: Program, one: Any, other: Any) -> List[Write]:
    # Objects of theirs are vectors of slabs, and orders of other caches.
    start = one.machine.cache("kmalloc-128").address // _PAGE * _PAGE
    return [Write(start, (_SEED * _PAGE)[:_PAGE])]


def _text_over_caches(prog: Program, one: Any, other: Any) -> List[Write]:
    return [Write(one.address // _PAGE * _PAGE + 0x100, (_SEED * 100)[:0x700])]


def _page_of_nodes(prog: Program, one: Any, other: Any) -> List[Write]:
    return [Write(one.node().address // _PAGE * _PAGE, bytes(_PAGE))]


def _garbage_over_nodes(prog: Program, one: Any, other: Any) -> List[Write]:
    return [Write(one.node().address // _PAGE * _PAGE, b"k" * _PAGE)]


def _text_over_nodes(prog: Program, one: Any, other: Any) -> List[Write]:
    return [Write(one.node().address // _PAGE * _PAGE, (_SEED * _PAGE)[:_PAGE])]


def _cpu(one: Any) -> int:
    names = ("cpu_cache", "cpu_slab", "cpu_sheaves")
    name = next(name for name in names if hasattr(one.object, name))
    return int(per_cpu_ptr(getattr(one.object, name), 1).value_()) // _PAGE * _PAGE


def _page_of_a_cpu(prog: Program, one: Any, other: Any) -> List[Write]:
    return [Write(_cpu(one), b"k" * _PAGE)]


def _text_over_a_cpu(prog: Program, one: Any, other: Any) -> List[Write]:
    return [Write(_cpu(one), (_SEED * _PAGE)[:_PAGE])]


_SIDE_BY_SIDE = (
    _page_of_nodes,
    _garbage_over_nodes,
    _text_over_nodes,
    _page_of_a_cpu,
    _text_over_a_cpu,
)


@pytest.mark.parametrize("name", _KERNELS)
@pytest.mark.parametrize("damage", _SIDE_BY_SIDE)
def test_structures_of_one_page_are_one_root(name: str, damage: Damage) -> None:
    assert len(_roots(name, damage)) == 1


@pytest.mark.parametrize("name", _KERNELS)
@pytest.mark.parametrize(
    ("damage", "count"),
    [
        (_copied, 1),
        (_swapped, 2),
        (_page_of_caches, 1),
        (_page_of_kmalloc_caches, 1),
        (_text_over_caches, 1),
    ],
)
def test_caches_that_are_gone_are_one_root(name: str, damage: Damage, count: int) -> None:
    roots = _roots(name, damage)
    # The two that are exchanged lie in slabs next to each other there, and are gone together.
    together = damage is _swapped and name == "debian-6.12-plain"
    assert len(roots) == (1 if together else count)
    assert "cache-list" in {root.code for root in roots}


def _text_over_what_a_cpu_has_of_two_caches(prog: Program, one: Any, other: Any) -> List[Write]:
    found = sorted(slab.address for slab in one.machine.cpu_slabs)
    near = next(at for at, after in zip(found, found[1:]) if after - at == 0x20)
    return [Write(near, (_SEED * 3)[:64])]


def _text_over_an_array(prog: Program, one: Any, other: Any) -> List[Write]:
    shared = (one for one in one.machine.containers if one.place == "shared array")
    return [Write(max(shared, key=lambda array: len(array.entries)).address, _SEED[:16])]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("debian-5.10-plain", _text_over_what_a_cpu_has_of_two_caches),
        ("slab-6.1-debug-plain", _text_over_an_array),
    ],
)
def test_text_over_several_of_a_kind_is_one_root(name: str, damage: Damage) -> None:
    assert len(_roots(name, damage)) == 1
