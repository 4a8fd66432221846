# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a check costs: bytes, reads, memory, and its place among other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import pytest
from drgn import Program

import drgn_slabtype.plugin
from drgn_slabtype import cli, footprint
from drgn_slabtype.allocators.lists import SlabLists
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.index import SlabIndex
from drgn_slabtype.machine import machine
from drgn_slabtype.pages.scan import (
    BLOCK_PAGES,
    PageBlock,
    PageScan,
    SlabHeads,
    _Collector,
    page_ranges,
    scan,
)

from ..counting import counted_capture

(CAPTURE,) = (Path(drgn_slabtype.plugin.__file__).parent / "captures").glob("*rfc3*")
MIB = 1 << 20


def test_what_is_read_is_in_the_report() -> None:
    prog, count = counted_capture(CAPTURE)
    check(prog)  # and what is found once
    before = count.bytes
    first = check(prog).totals
    # What is asked for and not there is counted whole; page tables, which drgn
    # reads by itself, are not.
    assert first.bytes_read == pytest.approx(count.bytes - before, rel=0.15)
    assert 100 < first.reads < 5000
    second = check(prog).totals
    assert (second.reads, second.bytes_read) == (first.reads, first.bytes_read)
    # Of one cache: what the machine has, and not what is in other caches. The memory map is
    # gone through twice, for its slabs and for what is wrong with their pages.
    of = machine(prog)
    memory_map = sum(end - start for start, end in page_ranges(of)) * of.page.size
    part = check(prog, caches=["kmalloc-64"]).totals
    assert 0 < part.bytes_read - 2 * memory_map < (first.bytes_read - 2 * memory_map) / 2


def test_memory_above_opening() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drgn_slabtype", "check", "-c", str(CAPTURE), "--format", "json"],
        capture_output=True,
        check=True,
    )
    totals = json.loads(done.stdout)["totals"]
    assert 1 * MIB < totals["peak_memory"] < 150 * MIB


def test_memory_is_what_the_kernel_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [(100, 120)]
    monkeypatch.setattr(footprint, "_sizes", lambda: sizes[0])
    monkeypatch.setattr(footprint, "_opened", [])
    peak = footprint.Peak()
    # The process was larger before it began.
    assert peak.bytes is None
    sizes[0] = (110, 150)
    assert peak.bytes == 50
    monkeypatch.setattr(footprint, "_opened", [90, 100])
    assert footprint.Peak().bytes == 60


def test_memory_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "_sizes", lambda: (0, 0))
    monkeypatch.setattr(footprint, "_opened", [])
    assert footprint.Peak().bytes is None


def test_peak_begins_anew() -> None:
    script = """
from drgn_slabtype.footprint import Peak, opened
large = bytearray(64 << 20)
del large
opened()
peak = Peak()
some = bytearray(16 << 20)
print(peak.bytes)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert 15 * MIB < int(done.stdout) < 32 * MIB


@pytest.fixture
def priorities(monkeypatch: pytest.MonkeyPatch) -> Dict[str, Any]:
    """The priority of this process, made up, and what it is set to."""
    state: Dict[str, Any] = {"now": 0, "set": []}

    def set_priority(which: int, who: int, value: int) -> None:
        state["set"].append(value)

    monkeypatch.setattr(os, "getpriority", lambda which, who: state["now"])
    monkeypatch.setattr(os, "setpriority", set_priority)
    target = import_module("drgn_slabtype.target")
    monkeypatch.setattr(target, "open_target", lambda options: Program())
    monkeypatch.setattr(import_module("drgn_slabtype.footprint"), "opened", lambda: None)
    return state


@pytest.mark.parametrize(
    ("arguments", "set_to"),
    [
        ([], [10]),
        (["-k"], [10]),
        (["-c", "/proc/kcore"], [10]),
        (["-k", "--no-nice"], []),
        (["-c", "vmcore"], []),
        (["--qemu", "qmp.sock"], []),
    ],
)
def test_running_kernel_is_read_nicely(
    arguments: List[str], set_to: List[int], priorities: Dict[str, Any]
) -> None:
    cli.main(["layout", *arguments])
    assert priorities["set"] == set_to


def test_nobody_is_made_less_nice(priorities: Dict[str, Any]) -> None:
    priorities["now"] = 15
    cli.main(["layout", "-k"])
    assert priorities["set"] == []


# What grows with the machine.


def peak_of(act: Callable[[], Any]) -> Tuple[int, int, Any]:
    """Return the bytes that an act holds in the end, and at its peak, and its result."""
    tracemalloc.start()
    try:
        result = act()
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return held, peak, result


def blocks(machine: Any, number: int, word: int) -> Iterator[PageBlock]:
    """Yield blocks of pages that all have the same page_type word."""
    fields = machine.page
    raw = np.zeros((BLOCK_PAGES, fields.size), np.uint8)
    raw[:, fields.word : fields.word + 4] = list(word.to_bytes(4, "little"))
    for at in range(number):
        yield PageBlock(at * BLOCK_PAGES, 0, raw, fields, "<")


def scanned(machine: Any, number: int, word: int) -> PageScan:
    """Return what the pass over so many blocks comes to."""
    collector = _Collector(machine)
    for block in blocks(machine, number, word):
        collector.take(block)
    return collector.result(number * BLOCK_PAGES)


def test_pages_with_a_type_cost_no_memory() -> None:
    # A guest whose balloon has taken nearly everything: 4 GiB, and 32 GiB.
    kernel = machine(open_capture(str(CAPTURE)))
    offline = 0xFFFFFFFF ^ kernel.layout.encoding.types["offline"]
    peaks = []
    for number in (32, 256):
        _, peak, found = peak_of(partial(scanned, kernel, number, offline))
        assert found.typed["offline"] == number * BLOCK_PAGES
        peaks.append(peak)
    assert peaks[1] < peaks[0] + MIB
    assert peaks[0] < 16 * MIB


def test_a_slab_costs_its_struct_page_and_little_more() -> None:
    kernel = machine(open_capture(str(CAPTURE)))
    slab = 0xFFFFFFFF ^ kernel.layout.encoding.types["slab"]
    number = 8
    held, _, found = peak_of(partial(scanned, kernel, number, slab))
    slabs = number * BLOCK_PAGES
    assert len(found.heads.pfns) == slabs
    assert held < slabs * (kernel.page.size + 10) + MIB


def test_all_slabs_together_cost_few_bytes_each() -> None:
    kernel = machine(open_capture(str(CAPTURE)))
    check(kernel.prog)
    found = scan(kernel)
    copies, slabs = 40, len(found.heads.pfns)

    def many() -> SlabIndex:
        # As many slabs as a machine of 10 GiB has, all of them alike.
        pfns = np.concatenate([found.heads.pfns + np.uint64(at << 16) for at in range(copies)])
        raw, orders = (
            np.concatenate([part] * copies) for part in (found.heads.raw, found.heads.orders)
        )
        index = SlabIndex(kernel, SlabHeads(pfns, raw, orders), mapped=True)
        SlabLists(index)
        for column in ("pages", "addresses", "spans", "words", "flags", "marked", "nids"):
            getattr(index, column)
        index.rows_of_addresses(index.addresses[:1])
        return index

    held, peak, index = peak_of(many)
    assert len(index) == copies * slabs
    assert held < 250 * len(index)
    assert peak < 330 * len(index)
