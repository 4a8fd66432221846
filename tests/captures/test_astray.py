# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pointers of the allocator to what the memory map calls no slab: nothing was left out there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable

import pytest
from drgn import Program, offsetof
from drgn.helpers.linux.percpu import per_cpu_ptr

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.machine import machine
from drgn_slabtype.pages.single import free_block_at

from ..recipes.overlay import Write, direct_map, order_of, overlay
from ..recipes.suites import suite_of

_HERE = Path(__file__).parent
_INTO_THE_PAGE = 0x340


def _open(name: str) -> Program:
    return open_capture(str(_HERE / name / "capture.xz"))


def _free_page(prog: Program) -> int:
    pfn = next(n for n in range(20000, 60000, 7) if free_block_at(machine(prog), n))
    return direct_map(prog) + pfn * int(prog["PAGE_SIZE"]) + _INTO_THE_PAGE


def _victim(prog: Program) -> object:
    found = suite_of(prog).open(prog)
    return next(c for c in found.caches if not c.lived_in and len(found.slabs_of(c)) > 3)


def _member(name: str) -> Callable[[Program], int]:
    return lambda prog: int(_victim(prog).spot(name).address)  # type: ignore[attr-defined]


def _of_node(name: str) -> Callable[[Program], int]:
    return lambda prog: int(_victim(prog).node().spot(name).address)  # type: ignore[attr-defined]


def _node(prog: Program) -> int:
    return int(_victim(prog).node_pointer().address)  # type: ignore[attr-defined]


def _barn(prog: Program) -> int:
    return int(_victim(prog).node_pointer("barn").address)  # type: ignore[attr-defined]


def _head_of_barn(prog: Program) -> int:
    barn = prog.type("struct node_barn")
    where = int(prog.read_u64(_barn(prog)))
    return where + offsetof(barn, "sheaves_full")


def _main_sheaf(prog: Program) -> int:
    sheaves = _victim(prog).object.cpu_sheaves  # type: ignore[attr-defined]
    return int(per_cpu_ptr(sheaves, 0).main.address_of_())


def _caches(prog: Program) -> int:
    return int(prog["slab_caches"].address_)


@pytest.mark.parametrize(
    ("name", "place", "code"),
    [
        ("debian-7-plain", _node, "container-state"),
        ("debian-7-plain", _barn, "container-state"),
        ("debian-7-plain", _head_of_barn, "list-broken"),
        ("debian-7-plain", _main_sheaf, "container-state"),
        ("debian-7-plain", _member("cpu_sheaves"), "container-state"),
        ("debian-7-plain", _member("name"), "cache-wrong"),
        ("debian-7-plain", _member("kobj.sd"), "cache-wrong"),
        ("debian-7-plain", _caches, "cache-list"),
        ("debian-6.12-s390x-plain", _member("cpu_slab"), "container-state"),
        ("slab-6.1-rfc3-plain", _node, "container-state"),
        ("slab-6.1-rfc3-plain", _of_node("shared"), "container-state"),
        ("slab-6.1-rfc3-plain", _of_node("alien"), "container-state"),
        ("slab-6.1-rfc3-plain", _member("cpu_cache"), "container-state"),
    ],
)
def test_pointer_to_a_free_page_is_damage(
    name: str, place: Callable[[Program], int], code: str
) -> None:
    before = _open(name)
    to, at = _free_page(before), place(before)
    prog = _open(name)
    overlay(prog, [Write(at, to.to_bytes(8, order_of(prog)))])
    report = check(prog)
    roots = [finding for finding in report.findings if finding.because is None]
    assert [root.code for root in roots] == [code]
    assert roots[0].word in (at, None)
    assert [one.code for one in report.unavailable] == []


def test_so_it_is_in_a_dump_where_the_page_reads_as_zeroes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.modules[check.__module__], "is_dump", lambda kernel: True)
    before = _open("debian-7-plain")
    to, at = _free_page(before), _barn(before)
    prog = _open("debian-7-plain")
    zeroes = Write(to - _INTO_THE_PAGE, bytes(4096))
    overlay(prog, [Write(at, to.to_bytes(8, order_of(prog))), zeroes])
    roots = [finding for finding in check(prog).findings if finding.because is None]
    assert [root.code for root in roots] == ["container-state"]
    assert roots[0].word == at
