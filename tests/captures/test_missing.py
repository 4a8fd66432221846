# SPDX-License-Identifier: LGPL-2.1-or-later
"""Variables of the machine that are not in the target: named, and others stand in for them."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import numpy as np
import pytest
from drgn import FaultError, Program, sizeof
from drgn.helpers.linux.mm import phys_to_virt
from drgn.helpers.linux.mmzone import NODE_DATA
from drgn.helpers.linux.percpu import per_cpu_ptr

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report
from drgn_slabtype.machine import machine
from drgn_slabtype.reading import Reading

from ..recipes.overlay import Write, overlay
from ..recipes.slub.machine import Machine
from ..recipes.slub.suite import SUITE

_HERE = Path(__file__).parent
_KFENCE = "debian-6.19-kfence"
_NUMA = "slab-6.1-rfc3-numa"


def _open(name: str) -> Program:
    return open_capture(str(_HERE / name / "capture.xz"))


def _without(name: str, *variables: str) -> Program:
    whole, prog = _open(name), _open(name)
    base = machine(whole).memory.linear_base

    def fault(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("not there", address)

    for one in variables:
        variable = whole.variable(one)
        start, size = int(variable.address_ or 0), sizeof(variable)
        prog.add_memory_segment(start, size, fault, False)
        if 0 <= start - base < 1 << 40:
            prog.add_memory_segment(start - base, size, fault, True)
    return prog


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        *((name, one) for name in (_KFENCE, _NUMA) for one in ("nr_node_ids", "nr_cpu_ids")),
        *((name, "__cpu_possible_mask") for name in (_KFENCE, _NUMA)),
        *((name, "mem_section") for name in (_KFENCE, _NUMA)),
        *((name, "node_states") for name in (_KFENCE, _NUMA)),
        (_KFENCE, "node_data"),
        (_KFENCE, "__highest_present_section_nr"),
        (_KFENCE, "__kfence_pool"),
        (_KFENCE, "kfence_metadata"),
    ],
)
def test_a_variable(name: str, variable: str) -> None:
    whole = check(_open(name)).totals
    report = check(_without(name, variable))
    assert (report.findings, report.exit_status) == ([], 3)
    assert f"{variable} is not in the target" in {one.message for one in report.unavailable}
    assert (report.totals.slabs, report.totals.objects) == (whole.slabs, whole.objects)
    assert report.totals.in_use == whole.in_use
    # It is not one of the places in which a cache keeps objects.
    assert report.decided.enough
    assert report.decided.places.share == 1


@pytest.mark.parametrize("name", [_KFENCE, _NUMA, "debian-5.10-plain"])
def test_where_all_cpus_have_their_memory(name: str) -> None:
    report = check(_without(name, "__per_cpu_offset"))
    assert (report.findings, report.exit_status) == ([], 3)
    told = [one.message for one in report.unavailable]
    assert "__per_cpu_offset is not in the target" in told
    assert not [one for one in told if "not understood" in one]
    # Of each cache, what every CPU has is not decided.
    decided = report.decided.places
    cpus = 4 * len(report.caches)
    assert cpus <= (decided.of or 0) - decided.decided <= cpus + 20


@pytest.mark.parametrize("name", ["debian-7-plain", "debian-7-numa"])
def test_where_the_direct_map_is(name: str) -> None:
    # It was moved, and no other variable says where.
    report = check(_without(name, "page_offset_base"))
    whole = check(_open(name)).totals
    assert report.findings == []
    assert (report.totals.slabs, report.totals.in_use) == (whole.slabs, whole.in_use)


@pytest.mark.parametrize("name", ["debian-6.1-plain", "slab-6.1-plain", "debian-7-plain"])
def test_page_tables_of_the_direct_map(name: str) -> None:
    # Nothing can be read by its virtual address there.
    whole, prog = _open(name), _open(name)
    base, size = int(phys_to_virt(prog, 0).value_()), int(prog["max_pfn"]) << 12

    def fault(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("address is not mapped", address)

    prog.add_memory_segment(base, size, fault, False)
    report = check(prog)
    assert _sums(report) == _sums(check(whole))
    assert report.exit_status == 0


def _sums(report: Report) -> Tuple[int, int]:
    return report.totals.slabs, report.totals.in_use


def test_caches_that_kmalloc_gives_memory_from() -> None:
    report = check(_without(_NUMA, "kmalloc_caches"))
    assert report.findings == []


def test_index_array_in_a_slab_whose_struct_page_is_not_there() -> None:
    of = machine(_open(_NUMA))
    reading = Reading(of)
    number = reading.allocator.caches.names.index("bio-224")
    row = np.flatnonzero(reading.allocator.ownership.cache == number)[0]
    pfn = (int(reading.index["freelist"][row]) - of.memory.linear_base) >> of.memory.page_shift
    page = (of.page.vmemmap + pfn * of.page.size) & ~4095

    def fault(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("not there", address)

    prog = _open(_NUMA)
    prog.add_memory_segment(page, 4096, fault, False)
    report = check(prog)
    assert (report.findings, report.exit_status) == ([], 3)
    assert any("freelist array" in one.message for one in report.unavailable)


def test_a_pool_of_which_no_variable_is_there() -> None:
    # Both lie in what is read-only after boot, which a dump may lack.
    whole = check(_open(_KFENCE))
    report = check(_without(_KFENCE, "__kfence_pool", "kfence_metadata"))
    assert (report.findings, report.exit_status) == ([], 3)
    assert report.totals.slabs == whole.totals.slabs
    assert report.totals.kfence_pages == whole.totals.kfence_pages


@pytest.mark.parametrize("lost", ["__kfence_pool", "kfence_metadata"])
@pytest.mark.parametrize("value", ["text", "pages", "neighbour"])
def test_a_pool_that_lies(lost: str, value: str) -> None:
    # Its pages are no slabs of any cache, wherever the variable leads.
    whole, prog = check(_open(_KFENCE)), _open(_KFENCE)
    pool, place = int(prog["__kfence_pool"]), int(prog.variable(lost).address_ or 0)
    number = {
        "text": int(prog.symbol("_stext").address),
        "pages": pool + (4 << 12),
        "neighbour": int(prog["slab_caches"].next),
    }[value]
    prog = _open(_KFENCE)
    overlay(prog, [Write(place, number.to_bytes(8, "little"))])
    report = check(prog)
    assert report.totals.slabs == whole.totals.slabs
    assert report.totals.kfence_pages == whole.totals.kfence_pages
    told = [(one.code, one.place, one.found) for one in report.findings]
    assert told == [("machine-wrong", lost, number)]


def test_heads_of_lists_of_free_pages_that_are_zeroes() -> None:
    # Where address 0 can be read, as by the physical addresses of some dumps.
    prog = _open("debian-7-plain")
    zone = next(one for one in NODE_DATA(prog, 0).node_zones if one.spanned_pages)
    pages = per_cpu_ptr(zone.per_cpu_pageset, 1)
    at = int(pages.lists.address_ or 0)
    prog = _open("debian-7-plain")
    prog.add_memory_segment(0, 1 << 16, lambda address, count, *_: bytes(count), False)
    overlay(prog, [Write(at, bytes(16))])
    report = check(prog)
    (finding,) = report.findings
    assert (finding.code, finding.place, finding.word) == ("page-free-list", "pcp", at)
    assert report.totals.slabs == check(_open("debian-7-plain")).totals.slabs


@pytest.mark.parametrize("name", ["debian-7-plain", "slub-6.12-tiny-plain"])
def test_struct_pages_hide_no_frozen_slab(name: str) -> None:
    # It is a CPU's, and nothing that leads to slabs of CPUs is missing.
    injury = SUITE.recipes["frozen-and-full"](Machine(_open(name)))
    whole, prog = _open(name), _open(name)
    index = Reading(machine(whole)).index
    page = int(index.pages[-1]) & -4096
    assert injury.slab is not None
    assert injury.slab & -4096 != page

    def fault(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("not there", address)

    overlay(prog, injury.writes)
    prog.add_memory_segment(page, 4096, fault, False)
    report = check(prog)
    assert report.totals.unreadable_pages > 0
    assert [(one.code, one.slab) for one in report.findings] == [("slab-frozen", injury.slab)]
