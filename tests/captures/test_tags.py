# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pointers with the tags of KASAN: nothing is told otherwise for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Tuple

import numpy as np
import pytest
from drgn import Program

from drgn_slabtype import slab_object
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.machine import machine
from tests.recipes.overlay import Write, overlay
from tests.tagged import tagged_capture, tags_of

_CAPTURE = Path(__file__).parent / "debian-6.12-arm64-plain" / "capture.xz"


@pytest.fixture(scope="module")
def tagged() -> Tuple[Program, Any]:
    """A capture with tags, and what a check says of it."""
    prog, words = tagged_capture(_CAPTURE)
    assert words > 10000
    return prog, check(prog)


def test_check_says_what_it_says_without_tags(tagged: Tuple[Program, Any]) -> None:
    prog, report = tagged
    link = int(prog["slab_caches"].next.value_())
    assert link >> 56 not in (0xFE, 0xFF)
    assert machine(prog).memory.tags.used
    plain = check(open_capture(str(_CAPTURE)))
    assert (report.findings, report.changing, report.unavailable) == ([], [], [])
    assert report.caches == plain.caches


def test_address_may_have_its_tag_or_not(tagged: Tuple[Program, Any]) -> None:
    prog, report = tagged
    address = report.caches[0].address
    tag = int(tags_of(np.array([address], np.uint64))[0])
    bare = slab_object(prog, address)
    assert bare.kind == "slab object"
    with_tag = address & ~(0xFF << 56) | tag << 56
    assert with_tag != address
    assert slab_object(prog, with_tag) == bare


def _free_pointer(prog: Program) -> Tuple[int, int]:
    # A slab (struct slab *) on a list of node 0, and where its first free pointer is.
    known = machine(prog)
    layout = known.structure("struct kmem_cache")
    offset = known.structure("struct kmem_cache_node").offset("partial")
    for result in check(prog).caches:
        rows = known.rows("struct kmem_cache", np.array([result.address], np.uint64))
        head = known.memory.read_word(result.address + layout.offset("node")) + offset
        link = known.memory.read_word(head)
        if link == head or result.name.startswith("kmem_cache"):
            continue
        page = link - known.structure("struct slab").offset("slab_list")
        slab = known.rows("struct slab", np.array([page], np.uint64))
        return page, int(slab["freelist"][0] + rows["offset"][0])
    raise AssertionError("no partial slab")


@pytest.mark.parametrize("bit", [3, 40])
def test_damage_below_the_tag_is_found(bit: int) -> None:
    prog, _ = tagged_capture(_CAPTURE)
    slab, where = _free_pointer(prog)
    prog, _ = tagged_capture(_CAPTURE)
    stored = prog.read_word(where) ^ 1 << bit
    overlay(prog, [Write(where, stored.to_bytes(8, "little"))])
    (root,) = [one for one in check(prog).findings if one.because is None]
    assert (root.code, root.slab) == ("freelist-pointer", slab)


def test_one_pointer_with_another_top_byte_is_damage_and_no_tag() -> None:
    prog = open_capture(str(_CAPTURE))
    head = prog["slab_caches"]
    link = int(head.next.value_()) ^ 0x55 << 56
    where = int(head.next.address_ or 0)
    overlay(prog, [Write(where, link.to_bytes(8, "little"))])
    report = check(prog)
    assert not machine(prog).memory.tags.used
    assert [one.code for one in report.findings if one.because is None] == ["cache-list"]
    assert report.findings[0].found == link


def test_top_byte_of_a_free_pointer_counts_where_there_are_no_tags() -> None:
    prog = open_capture(str(_CAPTURE))
    slab, where = _free_pointer(prog)
    prog = open_capture(str(_CAPTURE))
    stored = prog.read_word(where) ^ 0x55 << 56
    overlay(prog, [Write(where, stored.to_bytes(8, "little"))])
    (root,) = [one for one in check(prog).findings if one.because is None]
    assert (root.code, root.slab) == ("freelist-pointer", slab)


def test_words_that_are_no_pointers_stay_as_they_are(tagged: Tuple[Program, Any]) -> None:
    tags = machine(tagged[0]).memory.tags
    base = machine(tagged[0]).memory.linear_base
    start = base + (1 << 30)
    words = [0, 1, start & ~(0xFF << 56) & ~(1 << 55), (1 << 64) - 1, 0x6B6B6B6B6B6B6B6B]
    assert tags.removed(np.array(words, np.uint64)).tolist() == words
    assert tags.removed_from(start & ~(0xFF << 56) | 0x3C << 56) == start
    memory = np.frombuffer((start ^ 0x11 << 56).to_bytes(8, "little") * 3, np.uint8)
    pieces = memory[5:22].copy()[None, :]  # from the middle of a word into another
    tags.remove(pieces, np.array([start + 5], np.uint64))
    assert pieces[0, 3:11].tobytes() == start.to_bytes(8, "little")
    assert pieces[0, :3].tobytes() == memory[5:8].tobytes()
    assert pieces[0, 11:].tobytes() == memory[16:22].tobytes()


def test_flags_of_a_page_are_no_pointer(tagged: Tuple[Program, Any]) -> None:
    # KASAN's tag of the page and its zone are in them; what they add up to may look like one.
    prog, _ = tagged
    known = machine(prog)
    bare = np.uint64(known.memory.linear_base + 4096)
    word = bare & ~np.uint64(0xFF << 56) | np.uint64(0x12 << 56)
    page = np.array([known.page.vmemmap + 5 * known.page.size], np.uint64)
    piece = np.array([[word, word]], "<u8").view(np.uint8)
    known.memory.tags.remove(piece, page)
    assert piece.view("<u8").tolist() == [[int(word), int(bare)]]
    elsewhere = np.array([[word, word]], "<u8").view(np.uint8)
    known.memory.tags.remove(elsewhere, np.array([bare], np.uint64))
    assert elsewhere.view("<u8").tolist() == [[int(bare), int(bare)]]
