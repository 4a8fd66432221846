# SPDX-License-Identifier: LGPL-2.1-or-later
"""How far damage reaches: over words, objects, slabs, pages and struct pages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import pytest
from drgn import Program
from drgn.helpers.linux.slab import for_each_slab_cache

from drgn_slabtype.answers.address import AddressInfo
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.slabs import SlabUsage, slabs
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report, Stretch
from drgn_slabtype.report import json as as_json
from drgn_slabtype.report import text as as_text

from ..recipes.overlay import Write, overlay

HERE = Path(__file__).parent


def _open(kernel: str) -> Program:
    return open_capture(str(HERE / kernel / "capture.xz"))


def _damaged(kernel: str, at: int, data: bytes) -> Tuple[Program, Report]:
    prog = _open(kernel)
    overlay(prog, [Write(at, data)])
    return prog, check(prog)


def _stretches(report: Report) -> List[Stretch]:
    found = dict.fromkeys(one for finding in report.findings for one in finding.stretches)
    return list(found)


def _told(report: Report) -> List[str]:
    return [line for finding in report.findings for line in finding.details]


def _slabs(prog: Program, cache: str) -> Sequence[SlabUsage]:
    return slabs(prog, cache).slabs


def test_text_over_the_border_of_two_slabs_is_one_damage() -> None:
    # Both slabs are of kernfs_node_cache.
    border = 0xFFFF88A1C284A000
    text = (b"eth0: link becomes ready; " * 79)[:2048]
    _, report = _damaged("debian-7-debug", border - 1024, text)
    assert len({finding.slab for finding in report.findings}) == 2
    (root,) = {finding.because or finding.id for finding in report.findings}
    assert root == 1
    assert len(report.findings) > 8


def test_objects_that_hold_one_pattern_are_one_stretch() -> None:
    kernel = "debian-7-debug"
    free = next(iter(objects(_open(kernel), "kmalloc-64", "free")))
    start, size = free.address - 100, 700
    prog, report = _damaged(kernel, start, b"\x41" * size)
    (stretch,) = _stretches(report)
    assert (stretch.start, stretch.end, stretch.what) == (start, start + size, "0x41")
    # The first tells it, the others lead there.
    assert stretch.findings == tuple(finding.id for finding in report.findings)
    assert len(stretch.findings) > 3
    line = f"damage from 0x{start:x} to 0x{start + size:x}, {size} bytes of 0x41"
    assert [told for told in _told(report) if told.startswith(line + ";")] == [
        f"{line}; findings {', '.join(map(str, stretch.findings[1:]))} too"
    ]
    assert _told(report).count(f"{line}: see finding 1") == len(stretch.findings) - 1
    # The object before is the likely writer, and who allocated it is known.
    assert f"0x{free.address - 256:x}: " in stretch.before
    assert "in its padding" in stretch.before
    assert ", allocated by udp_init_sock+0x83, " in stretch.before
    # What was written over a record is none.
    assert "the record of who allocated it is overwritten" in stretch.after
    assert not any("0x4141414141414141, CPU" in told for told in _told(report))
    info = slab_object(prog, free.address, contents=64)
    assert info.stretches == (stretch._replace(findings=()),)
    assert f"0x{start:x} to 0x{start + size:x}, {size} bytes: 0x41" in as_text.object(info)
    document: Dict[str, Any] = json.loads(as_json.object(info))
    assert document["stretches"][0]["start"] == f"0x{start:x}"


def test_damage_over_a_page_border_begins_in_the_slab_before() -> None:
    kernel = "debian-7-debug"
    prog = _open(kernel)
    slab = _slabs(prog, "kmalloc-64")[3]
    before = slab_object(prog, slab.address - 1)
    _, report = _damaged(kernel, slab.address - 50, bytes(range(0x80, 0x90)) * 10)
    (stretch,) = _stretches(report)
    assert (stretch.start, stretch.end) == (slab.address - 50, slab.address + 110)
    assert stretch.what == "80 81 82 83 84 85 86 87 88 89 8a 8b 8c 8d 8e 8f over and over"
    assert {finding.cache for finding in report.findings} == {before.cache, "kmalloc-64"}
    assert stretch.before == before.meaning
    assert "object 0 of kmalloc-64" in stretch.after


def test_damage_begins_in_the_page_before_a_slab() -> None:
    kernel = "debian-7-debug"
    prog = _open(kernel)
    slab = next(
        slab
        for slab in _slabs(prog, "kmalloc-64")
        if slab_object(prog, slab.address - 1).kind == "page"
    )
    # A capture has nothing of that page.
    _, report = _damaged(kernel, slab.address - 4096, bytes(4056) + b"\x37" * 100)
    (stretch,) = _stretches(report)
    assert (stretch.start, stretch.end) == (slab.address - 40, slab.address + 60)
    assert stretch.before.startswith("in no slab: ")


def test_text_over_struct_pages_is_one_stretch() -> None:
    kernel = "debian-6.1-plain"
    first = min(slab.slab for slab in _slabs(_open(kernel), "dentry"))
    text = b"overwritten by text, all of it " * 6
    _, report = _damaged(kernel, first - 40, text)
    (stretch,) = _stretches(report)
    assert (stretch.start, stretch.end) == (first - 40, first - 40 + len(text))
    assert stretch.what.startswith('text "overwritten by text, all')
    assert "struct page of PFN" in stretch.before
    assert len(stretch.findings) > 3
    # A page is no more pages than it can have.
    assert report.totals.slab_pages <= report.totals.pages


def test_words_that_repeat_in_objects_are_one_stretch() -> None:
    kernel = "debian-6.1-plain"
    free = next(one for one in objects(_open(kernel), "kmalloc-256", "free") if one.index)
    word = bytes.fromhex("0807060504030201")
    _, report = _damaged(kernel, free.address, word * 64)
    (stretch,) = _stretches(report)
    assert (stretch.start, stretch.end) == (free.address, free.address + 512)


def test_damage_that_touches_is_one_stretch_whatever_it_holds() -> None:
    kernel = "debian-7-debug"
    free = next(iter(objects(_open(kernel), "kmalloc-64", "free")))
    data = b"\x41" * 64 + b"\x42" * 8
    _, report = _damaged(kernel, free.address, data)
    (stretch,) = _stretches(report)
    assert (stretch.start, stretch.end) == (free.address, free.address + len(data))
    assert stretch.what == "0x41, then 0x42"
    assert len(stretch.findings) > 1
    assert stretch.findings == tuple(finding.id for finding in report.findings)


def test_poison_beside_damage_is_none() -> None:
    # A red zone of poison says nothing about the poison beside it.
    kernel = "debian-7-debug"
    used = next(one for one in objects(_open(kernel), "kmalloc-64", "in use") if not one.place)
    _, report = _damaged(kernel, used.address - 8, b"\x6b" * 8)
    for stretch in _stretches(report):
        assert (stretch.start, stretch.end) == (used.address - 8, used.address)
    assert report.findings
    assert not any("past its end" in told or "damage from" in told for told in _told(report))


def test_an_empty_list_is_no_pattern() -> None:
    kernel = "debian-7-debug"
    at = 0xFFFF88A1C60D8A28
    _, report = _damaged(kernel, at, bytes.fromhex("685e40c1a188ffff" * 2))
    (stretch,) = _stretches(report)
    assert (stretch.start, stretch.end) == (at, at + 16)
    assert not any("damage from" in told for told in _told(report))


def test_one_bit_is_as_far_as_it_is() -> None:
    kernel = "debian-7-debug"
    prog = _open(kernel)
    free = next(iter(objects(prog, "kmalloc-64", "free")))
    at = free.address + 20
    _, report = _damaged(kernel, at, bytes([prog.read(at, 1)[0] ^ 1]))
    (stretch,) = _stretches(report)
    assert (stretch.start, stretch.end) == (at, at + 1)
    assert not any("damage from" in told for told in _told(report))


def test_an_address_behind_text_is_none_of_it() -> None:
    # The low bytes of a last caller can be printed, and nobody has written over it.
    kernel = "slab-6.1-debug-plain"
    used = next(iter(objects(_open(kernel), "shmem_inode_cache", "in use")))
    size = next(one.object_size for one in caches(_open(kernel), "shmem_inode_cache"))
    _, report = _damaged(kernel, used.address + size, b"overflow")
    (stretch,) = _stretches(report)
    assert (stretch.end - stretch.start, stretch.what) == (8, 'text "overflow"')


def _order(prog: Program) -> Tuple[str, AddressInfo]:
    # A cache whose order is in an object of kmalloc(), with another before it.
    for cache in for_each_slab_cache(prog):
        info = slab_object(prog, cache.random_seq.value_())
        if info.cache == "kmalloc-128" and info.index:
            return cache.name.string_().decode(), info
    raise AssertionError("there is none")


@pytest.mark.parametrize("first", [-160, -8, 8])
def test_order_that_was_overwritten_with_objects_follows_from_that(first: int) -> None:
    kernel = "debian-7-debug"
    cache, order = _order(_open(kernel))
    assert order.object is not None
    data = (b"\xde\xad\xbe\xef" * 100)[: 128 + 16 - first]
    _, report = _damaged(kernel, order.object + first, data)
    (root,) = (one for one in report.findings if one.because is None)
    assert (root.rule, root.cache) == ("content", "kmalloc-128")
    (led,) = (one for one in report.findings if one.code == "cache-wrong")
    assert (led.cache, led.because, led.found) == (cache, root.id, order.object)


def test_every_byte_of_a_piece_of_damage_is_marked() -> None:
    kernel = "debian-7-debug"
    _, order = _order(_open(kernel))
    assert order.object is not None
    start, data = order.object - 40, b"\xde\xad\xbe\xef" * 60
    prog, _ = _damaged(kernel, start, data)
    info = slab_object(prog, order.object, contents=32)
    assert {"free pointer", "size asked for"} < {line.part for line in info.lines}
    for line in info.lines:
        there = range(line.address, line.address + len(line.bytes.split()))
        wanted = tuple(at - line.address for at in there if start <= at < start + len(data))
        assert line.damaged == wanted


def test_what_the_likely_writer_holds_is_not_marked() -> None:
    kernel = "debian-7-debug"
    _, order = _order(_open(kernel))
    assert order.object is not None
    text = (b"eth0: link becomes ready; " * 20)[:300]
    prog, report = _damaged(kernel, order.object + 32, text)
    assert {one.starts is not None for one in _stretches(report)} == {True}
    info = slab_object(prog, order.object, contents=128)
    marked = {line.part for line in info.lines if line.damaged}
    assert "object" not in marked
    assert {"right red zone", "free pointer"} < marked
