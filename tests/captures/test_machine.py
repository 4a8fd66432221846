# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words that describe the machine, one of them damaged: one root, and all the rest is judged."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Callable, List, Optional, Tuple

import pytest
from drgn import FaultError, Program
from drgn.helpers.linux.mm import phys_to_virt
from drgn.helpers.linux.slab import find_slab_cache

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report

from ..recipes.overlay import Write, order_of, overlay

_HERE = Path(__file__).parent


def _open(name: str) -> Program:
    return open_capture(str(_HERE / name / "capture.xz"))


def _damaged(name: str, victim: Callable[[Program], int], data: bytes) -> Report:
    address = victim(_open(name))
    prog = _open(name)
    overlay(prog, [Write(address, data)])
    return check(prog)


def _roots(report: Report) -> List[str]:
    return [finding.code for finding in report.findings if finding.because is None]


def _section(prog: Program) -> int:
    section = prog["mem_section"][0][0]
    return int(section.section_mem_map.address_of_().value_())


def _root(prog: Program) -> int:
    return int(prog["mem_section"][0].address_of_().value_())


def _variable(name: str) -> Callable[[Program], int]:
    return lambda prog: int(prog[name].address_of_().value_())


@pytest.mark.parametrize("name", ["slab-6.1-plain", "debian-7-plain", "debian-5.10-plain"])
@pytest.mark.parametrize(
    "data",
    [bytes(8), b"\xff" * 8, bytes.fromhex("0300000000eaff7f"), b"kkkkkkkk"],
    ids=["zero", "ones", "no address", "poison"],
)
def test_word_of_a_section(name: str, data: bytes) -> None:
    whole = check(_open(name)).totals
    report = _damaged(name, _section, data)
    assert report.totals.slabs == whole.slabs
    assert report.totals.in_use == whole.in_use
    assert _roots(report) == ["memory-map"]


@pytest.mark.parametrize("name", ["slab-6.1-plain", "debian-7-plain"])
@pytest.mark.parametrize(
    ("victim", "data"),
    [
        (_root, b"\xff" * 8),
        (_root, bytes(8)),
        (_variable("mem_section"), bytes(8)),
        (_variable("mem_section"), b"\x01" * 8),
        (_variable("__highest_present_section_nr"), b"\xff" * 8),
        (_variable("__highest_present_section_nr"), b"\x01\x00\x00\x01\x00\x00\x00\x00"),
        (_variable("saved_command_line"), b"\x01" * 8),
        (_variable("saved_command_line"), bytes(8)),
    ],
)
def test_what_leads_to_the_memory_map(
    name: str, victim: Callable[[Program], int], data: bytes
) -> None:
    whole = check(_open(name)).totals
    report = _damaged(name, victim, data)
    assert report.exit_status in (1, 3)
    assert report.totals.slabs == whole.slabs
    assert report.totals.in_use == whole.in_use
    assert len(_roots(report)) <= 1


@pytest.mark.parametrize("away", [0x95, 0x40, 0x1000, -0x40000])
def test_memory_map_where_no_section_is_left(away: int) -> None:
    name = "debian-5.10-plain"
    whole = check(_open(name)).totals
    prog = _open(name)
    places = _root(prog), _variable("vmemmap_base")(prog)
    base = int(prog["vmemmap_base"])
    prog = _open(name)
    overlay(
        prog, [Write(places[0], bytes(8)), Write(places[1], (base + away).to_bytes(8, "little"))]
    )
    report = check(prog)
    assert _roots(report) == ["memory-map"]
    (root,) = report.findings
    assert (root.word, root.expected) == (places[0], base)
    assert report.totals.slabs == whole.slabs
    assert report.totals.in_use == whole.in_use


def test_roots_that_lead_nowhere_are_not_all_looked_at() -> None:
    # With addresses of 57 bits there can be 4 194 304 of them, and drgn wants one that is present.
    name = "debian-6.12-riscv64-plain"
    place, table = _variable("mem_section")(_open(name)), int(_open(name)["mem_section"])
    prog, seen = _open(name), list[int]()
    empty = table | 0xFF00
    assert not any(prog.read(empty, 64))
    overlay(prog, [Write(place, empty.to_bytes(8, "little"))], seen.append)
    report = check(prog)
    assert _roots(report) == ["memory-map"]
    assert report.totals.slabs == check(_open(name)).totals.slabs
    assert len(seen) < 200


def test_what_may_be_struct_pages_is_not_all_searched() -> None:
    name = "debian-7-plain"
    whole = check(_open(name)).totals
    place, section = _variable("__highest_present_section_nr")(_open(name)), 1 << 15
    prog = _open(name)
    start, size = int(prog["vmemmap"]), prog.type("struct page").size or 0
    read = [0]

    def zeroes(address: int, count: int, offset: int, physical: bool) -> bytes:
        read[0] += count
        return bytes(count)

    # Struct pages of nothing, where 4092 sections that are not there would have theirs.
    prog.add_memory_segment(start + 4 * section * size, 4092 * section * size, zeroes, False)
    overlay(prog, [Write(place, (4095).to_bytes(8, "little"))])
    report = check(prog)
    assert (_roots(report), report.exit_status) == ([], 3)
    assert report.totals.slabs == whole.slabs
    assert read[0] < 300 << 20
    assert any("sections were not searched" in one.message for one in report.unavailable)


@pytest.mark.parametrize("number", [0, 2, 3, 64, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("name", ["slab-6.1-plain", "debian-7-plain", "slab-5.10-plain"])
def test_number_of_nodes(name: str, number: int) -> None:
    report = _damaged(name, _variable("nr_node_ids"), number.to_bytes(4, "little"))
    assert _roots(report) == ["machine-wrong"]


@pytest.mark.parametrize("name", ["slab-6.1-plain", "debian-7-plain", "debian-6.12-plain"])
def test_sections_that_are_not_in_the_dump(name: str) -> None:
    # As in a dump whose end is missing: their words are allocated there, early at boot.
    whole = check(_open(name)).totals
    root = int(_open(name)["mem_section"][0].value_())
    prog = _open(name)

    def fault(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("cut off", address)

    base = int(phys_to_virt(prog, 0).value_())
    prog.add_memory_segment(root, 4096, fault, False)
    prog.add_memory_segment(root - base, 4096, fault, True)
    report = check(prog)
    assert not report.findings
    assert report.exit_status == 3
    assert report.totals.slabs == whole.slabs
    assert report.totals.in_use == whole.in_use
    assert any("sections are not in the target" in one.message for one in report.unavailable)


@pytest.mark.parametrize("name", ["slab-6.1-plain", "debian-6.1-plain", "debian-7-plain"])
@pytest.mark.parametrize("away", [0x1000, 8, -0x1000])
def test_where_a_cpu_has_its_memory(name: str, away: int) -> None:
    whole = check(_open(name)).totals
    right = int(_open(name)["__per_cpu_offset"][1])
    report = _damaged(
        name,
        lambda prog: int(prog["__per_cpu_offset"][1].address_of_()),
        (right + away).to_bytes(8, "little"),
    )
    assert _roots(report) == ["machine-wrong"]
    (root,) = report.findings
    assert (root.place, root.cpu) == ("__per_cpu_offset", 1)
    assert (root.expected, root.found) == (right, right + away)
    assert report.totals.in_use == whole.in_use
    assert report.unavailable == []


@pytest.mark.parametrize("variable", ["nr_cpu_ids", "__cpu_possible_mask"])
@pytest.mark.parametrize("value", [0, 3, 5, 0x1F, 0x41414141])
@pytest.mark.parametrize(
    "name", ["slab-6.1-debug-plain", "debian-7-plain", "debian-6.12-s390x-plain"]
)
def test_which_cpus_there_are(name: str, value: int, variable: str) -> None:
    # Without them, objects that wait in places of CPUs would all be in use.
    size = 4 if variable == "nr_cpu_ids" else 8
    report = _damaged(name, _variable(variable), value.to_bytes(size, order_of(_open(name))))
    (root,) = [one for one in report.findings if one.because is None]
    assert (root.code, root.place, root.found) == ("machine-wrong", variable, value)
    assert root.expected == (4 if variable == "nr_cpu_ids" else 0xF)
    totals = report.totals
    assert (totals.slabs, totals.objects, totals.in_use) == _counts(name)
    assert report.unavailable == []


@cache
def _counts(name: str) -> Tuple[int, int, int]:
    whole = check(_open(name)).totals
    return whole.slabs, whole.objects, whole.in_use


def _online(prog: Program) -> int:
    return int(prog["node_states"][prog["N_ONLINE"]].address_of_())


def _node(prog: Program) -> int:
    return int(prog["node_data"][0].address_of_())


def _zone(member: str) -> Callable[[Program], int]:
    def victim(prog: Program) -> int:
        zones = (zone for zone in prog["node_data"][0].node_zones if zone.present_pages)
        *_, last = zones
        return int(last.member_(member).address_of_())

    return victim


@pytest.mark.parametrize("value", [0, 2, 3, 1 << 60, 0xFFFFFFFF92E0E960])
@pytest.mark.parametrize("name", ["debian-7-plain", "debian-6.12-s390x-plain"])
def test_which_nodes_are_online(name: str, value: int) -> None:
    # Without them, no free block would lie in a zone.
    report = _damaged(name, _online, value.to_bytes(8, order_of(_open(name))))
    (root,) = report.findings
    assert (root.code, root.place) == ("machine-wrong", "node_states")
    assert (root.expected, root.found) == (1, value)
    assert report.unavailable == []


@pytest.mark.parametrize("away", [None, 0, 1, 8, 0x40, 1 << 60])
@pytest.mark.parametrize("name", ["debian-7-plain", "slab-6.1-rfc3-numa"])
def test_where_a_node_has_its_structure(name: str, away: Optional[int]) -> None:
    right = int(_open(name)["node_data"][0])
    if away == 0:
        value = int(_open(name)["slab_caches"].next)
    else:
        value = 0 if away is None else right ^ away
    report = _damaged(name, _node, value.to_bytes(8, "little"))
    (root,) = report.findings
    assert (root.code, root.place, root.node) == ("machine-wrong", "node_data", 0)
    assert (root.found, root.word) == (value, _node(_open(name)))
    assert (report.totals.slabs, report.totals.objects, report.totals.in_use) == _counts(name)
    (one,) = report.unavailable
    assert one.message == "free memory was not judged: node_data is damaged"


def test_a_node_that_is_another() -> None:
    name = "slab-6.1-rfc3-numa"
    other = int(_open(name)["node_data"][1])
    report = _damaged(name, _node, other.to_bytes(8, "little"))
    assert [(one.place, one.found) for one in report.findings] == [("node_data", other)]


@pytest.mark.parametrize("member", ["zone_pgdat", "node"])
def test_a_zone_of_another_node(member: str) -> None:
    name = "debian-7-plain"
    report = _damaged(name, _zone(member), b"\x01\x00\x00\x00")
    (root,) = report.findings
    assert (root.code, root.node) == ("machine-wrong", 0)
    assert str(root.place).endswith(member)


@pytest.mark.parametrize(
    ("member", "value"),
    [("zone_start_pfn", 0), ("zone_start_pfn", 1 << 60), ("spanned_pages", 0)],
)
def test_where_a_zone_lies(member: str, value: int) -> None:
    report = _damaged("debian-7-plain", _zone(member), value.to_bytes(8, "little"))
    (root,) = report.findings
    assert (root.code, root.place) == ("machine-wrong", "zone DMA32")
    assert report.unavailable == []


@pytest.mark.parametrize("value", [0, 0x100, 1 << 60])
@pytest.mark.parametrize(
    "name", ["debian-7-plain", "debian-6.12-s390x-plain", "slab-6.1-debug-plain"]
)
def test_where_memory_ends(name: str, value: int) -> None:
    data = value.to_bytes(8, order_of(_open(name)))
    report = _damaged(name, _variable("max_pfn"), data)
    (root,) = report.findings
    assert (root.code, root.place, root.found) == ("machine-wrong", "max_pfn", value)
    assert (report.totals.slabs, report.totals.objects, report.totals.in_use) == _counts(name)
    assert report.unavailable == []


@pytest.mark.parametrize("name", ["debian-7-plain", "slab-6.1-rfc3-numa", "debian-6.19-kfence"])
def test_where_kfence_has_no_pool(name: str) -> None:
    # Its marks would be those of slabs: of some that are none, or of none that are some.
    pool, cache = int(_open(name)["__kfence_pool"]), int(_open(name)["slab_caches"].next)
    value = 0 if pool else cache
    report = _damaged(name, _variable("__kfence_pool"), value.to_bytes(8, "little"))
    (root,) = report.findings
    assert (root.code, root.place, root.found) == ("machine-wrong", "__kfence_pool", value)
    assert (report.totals.slabs, report.totals.objects, report.totals.in_use) == _counts(name)


def test_memory_for_a_pool_that_is_not_made() -> None:
    prog = _open("debian-6.12-riscv64-plain")
    assert prog["__kfence_pool"]
    assert not prog["kfence_metadata"]
    assert check(prog).findings == []


@pytest.mark.parametrize("bit", [20, 21, 30, 60])
def test_the_word_of_the_only_section(bit: int) -> None:
    name = "debian-6.12-s390x-plain"
    word = int(_open(name)["mem_section"][0][0].section_mem_map) ^ 1 << bit
    report = _damaged(name, _section, word.to_bytes(8, "big"))
    assert _roots(report) == ["memory-map"]
    assert (report.totals.slabs, report.totals.objects, report.totals.in_use) == _counts(name)


@pytest.mark.parametrize("value", [0, 1 << 60, 0x4141414141414141])
@pytest.mark.parametrize("victim", [_variable("mem_section"), _root], ids=["table", "root"])
def test_sections_where_no_memory_is(victim: Callable[[Program], int], value: int) -> None:
    report = _damaged("debian-6.12-s390x-plain", victim, value.to_bytes(8, "big"))
    (root,) = report.findings
    assert (root.code, root.found) == ("memory-map", value)
    assert root.word == victim(_open("debian-6.12-s390x-plain"))


@pytest.mark.parametrize(
    ("member", "away"),
    [
        *(("per_cpu_pageset", away) for away in (None, 1, 1 << 20, 1 << 60)),
        *(("per_cpu_zonestats", away) for away in (None, 1 << 20, 1 << 60)),
    ],
)
def test_where_cpus_have_what_is_of_a_zone(member: str, away: Optional[int]) -> None:
    prog = _open("debian-7-plain")
    value = 0 if away is None else prog.read_word(_zone(member)(prog)) ^ away
    report = _damaged("debian-7-plain", _zone(member), value.to_bytes(8, "little"))
    (root,) = report.findings
    assert (root.code, root.found) == ("machine-wrong", value)
    assert str(root.place).endswith(member)


@pytest.mark.parametrize("value", [0, 1 << 60])
def test_a_cpu_without_memory_on_a_machine_of_two_nodes(value: int) -> None:
    # No other CPU has lost anything.
    name = "slab-6.1-rfc3-numa"
    report = _damaged(
        name,
        lambda prog: int(prog["__per_cpu_offset"][1].address_of_()),
        value.to_bytes(8, "little"),
    )
    assert [(one.place, one.cpu) for one in report.findings] == [("__per_cpu_offset", 1)]
    assert {one.cpu for one in report.unavailable} == {1}


@pytest.mark.parametrize("value", [1, 0x10000000, 0x41414141])
def test_the_node_of_a_cpu(value: int) -> None:
    name = "slab-6.1-rfc3-numa"
    prog = _open(name)
    place = int(prog["numa_node"].address_of_()) + int(prog["__per_cpu_offset"][1])
    report = _damaged(name, lambda prog: place, value.to_bytes(4, "little"))
    (root,) = report.findings
    assert (root.code, root.place, root.cpu) == ("machine-wrong", "numa_node", 1)
    assert (root.expected, root.found, root.word) == (0, value, place & (1 << 64) - 1)
    assert (report.totals.slabs, report.totals.objects, report.totals.in_use) == _counts(name)


@pytest.mark.parametrize("value", [0, 1 << 60])
def test_the_cache_that_index_arrays_are_from(value: int) -> None:
    name = "slab-6.1-rfc3-numa"

    def entry(prog: Program) -> int:
        return int(prog["kmalloc_caches"][0][5].address_of_())

    report = _damaged(name, entry, value.to_bytes(8, "little"))
    (root,) = report.findings
    assert (root.code, root.place, root.found) == ("machine-wrong", "kmalloc_caches", value)
    assert (report.totals.slabs, report.totals.objects, report.totals.in_use) == _counts(name)


@pytest.mark.parametrize(
    ("name", "member"),
    [
        ("slab-6.1-plain", "cpu_cache"),
        ("slab-5.10-plain", "cpu_cache"),
        ("debian-6.12-s390x-plain", "cpu_slab"),
        ("debian-7-plain", "cpu_sheaves"),
    ],
)
def test_memory_of_another_cpu(name: str, member: str) -> None:
    # As far away as the units of other CPUs are.
    def victim(prog: Program) -> int:
        cache = find_slab_cache(prog, "kmalloc-64")
        assert cache is not None
        return int(cache.member_(member).address_of_())

    prog = _open(name)
    data = (prog.read_word(victim(prog)) ^ 1 << 20).to_bytes(8, order_of(prog))
    report = _damaged(name, victim, data)
    (root,) = [one for one in report.findings if one.because is None]
    assert (root.code, root.cache, root.member) == ("container-state", "kmalloc-64", member)


def test_a_mask_that_nobody_contradicts() -> None:
    # A CPU can be possible that is not present.
    prog = _open("debian-7-plain")
    masks = [_variable(f"__cpu_{one}_mask")(prog) for one in ("present", "online")]
    overlay(prog, [Write(mask, (7).to_bytes(8, "little")) for mask in masks])
    assert check(prog).findings == []


def test_cpus_of_two_nodes_are_not_side_by_side() -> None:
    report = check(_open("slab-6.1-rfc3-numa"))
    assert _roots(report) == []


@pytest.mark.parametrize(("name", "told"), [("dentry", "has slabs"), ("PING", "is in sysfs")])
def test_a_cache_that_its_neighbours_on_the_list_leave_out(name: str, told: str) -> None:
    prog = _open("debian-7.1-plain")
    cache = find_slab_cache(prog, name)
    assert cache is not None
    links = cache.list
    after, before = int(links.next), int(links.prev)
    at = int(links.address_of_())
    skip = [
        Write(after + 8, before.to_bytes(8, "little")),
        Write(before, after.to_bytes(8, "little")),
    ]
    overlay(prog := _open("debian-7.1-plain"), skip)
    (finding,) = check(prog).findings
    assert (finding.code, finding.cache) == ("cache-list", name)
    assert finding.message == f"{name}: {told}, but is not on slab_caches"
    if name == "PING":
        # It is being destroyed.
        words = (0xDEAD000000000100, 0xDEAD000000000122)
        poison = b"".join(word.to_bytes(8, "little") for word in words)
        overlay(prog := _open("debian-7.1-plain"), [*skip, Write(at, poison)])
        report = check(prog)
        assert (report.exit_status, report.findings, report.changing) == (0, [], [])
