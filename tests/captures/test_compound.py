# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compound pages, references and pages of slabs of real kernels, whole and damaged."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import numpy as np
import pytest

from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.page import page_info
from drgn_slabtype.capture import is_capture, open_capture
from drgn_slabtype.check import check
from drgn_slabtype.demo import captures
from drgn_slabtype.findings import Report
from drgn_slabtype.machine import machine as machine_of
from drgn_slabtype.pages.kinds import TAIL
from drgn_slabtype.pages.scan import folio_order_offset
from drgn_slabtype.pages.survey import Survey, survey
from drgn_slabtype.reading import Reading

from ..recipes.overlay import Write, overlay

HERE = Path(__file__).parent
CAPTURES: List[Path] = [
    path for path in sorted(HERE.glob("*/capture.xz")) if is_capture(str(path))
] or captures()

pytestmark = pytest.mark.skipif(not CAPTURES, reason="there are no captures to damage")

ERAS = (
    "debian-5.10-plain", "debian-6.1-plain", "debian-6.18-plain", "debian-7-numa",
    "slab-6.1-rfc3-plain", "slub-6.12-tiny-plain",
)  # fmt: skip
"""Captures that differ in how a tail leads to its head, or in what a slab's page says."""
FAR = 0xFFFF888000000000  # an address of the kernel's, in no struct page


class Kernel:
    """A capture, where things are in its memory map, and what it says when they are changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        prog = self.prog = open_capture(str(path))
        self.fields = machine_of(prog).page
        self.layout = machine_of(prog).layout
        self.reading = Reading(machine_of(prog))
        self.survey: Survey = survey(machine_of(prog))

    def page(self, pfn: int) -> int:
        """Return the ``struct page *`` of a page frame."""
        return self.fields.vmemmap + pfn * self.fields.size

    def at(self, pfn: int, member: str) -> int:
        """Return where a member of a struct page is."""
        known = {"flags", "word", "compound", "refcount"}
        if member in known:
            return self.page(pfn) + int(getattr(self.fields, member))
        return self.page(pfn) + self.prog.type("struct page").member(member).offset

    def word(self, pfn: int, member: str) -> int:
        """Return 8 bytes of a struct page."""
        return self.prog.read_u64(self.at(pfn, member))

    @property
    def head_bit(self) -> int:
        """The flag of a head."""
        return 1 << self.layout.head_flag

    @cached_property
    def report(self) -> Report:
        """What a check says of the kernel as it is."""
        return check(open_capture(str(self.path)))

    @cached_property
    def order(self) -> int:
        """2, or 1 where slabs are smaller."""
        return 2 if np.count_nonzero(self.reading.index.orders >= 2) > 100 else 1

    @property
    def last(self) -> int:
        """Number of the last tail of a slab of that order."""
        return (1 << self.order) - 1

    def slab(self, order: int) -> int:
        """Return the page frame of a slab of that order at least, that belongs to a cache."""
        return self.slabs(order, 1)[0]

    def slabs(self, order: int, count: int) -> List[int]:
        """Return those of so many slabs, far from each other."""
        index = self.reading.index
        owned = self.reading.allocator.ownership.cache >= 0
        rows = np.flatnonzero(owned & (index.orders >= order))
        if len(rows) < count:
            pytest.skip(f"too few slabs of order {order}")
        step = len(rows) // count
        return [int(pfn) for pfn in index.pfns[rows[step // 2 :: step]][:count]]

    def pages(self, kind: str, tails: bool = False) -> List[int]:
        """Return the page frames of one kind, heads or tails."""
        if kind not in self.survey.names:
            return []
        number = self.survey.names.index(kind) | (int(TAIL) if tails else 0)
        return [
            piece.pfn + row
            for piece in self.survey.pieces
            for row in np.flatnonzero(piece.kinds == number).tolist()
        ]

    def changed(self, *writes: Tuple[int, str, int, int]) -> Report:
        """Return what a check says with (page frame, member, value, width) written."""
        prog = open_capture(str(self.path))
        data = [
            Write(self.at(pfn, m), (v % (1 << 8 * w)).to_bytes(w, "little"))
            for pfn, m, v, w in writes
        ]
        overlay(prog, data)
        return check(prog)


@pytest.fixture(
    scope="module",
    params=[path for path in CAPTURES if path.parent.name in ERAS] or CAPTURES[:1],
    ids=lambda path: path.parent.name,
)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return Kernel(request.param)


def _roots(report: Report) -> List[Tuple[str, int]]:
    return [
        (finding.code, finding.page or finding.slab or 0)
        for finding in report.findings
        if finding.because is None
    ]


TAIL_WORDS: Dict[str, Callable[[Kernel, int, int], int]] = {
    "detached": lambda kernel, head, tail: 0,
    "poison": lambda kernel, head, tail: 0xDEAD000000000100,
    "bit 3 flipped": lambda kernel, head, tail: kernel.word(tail, "compound") ^ 8,
    "bit 40 flipped": lambda kernel, head, tail: kernel.word(tail, "compound") ^ 1 << 40,
    "to another": lambda kernel, head, tail: kernel.page(head - 1) + 1,
    "to itself": lambda kernel, head, tail: kernel.page(tail) + 1,
    "to no page": lambda kernel, head, tail: FAR + 1,
    "all ones": lambda kernel, head, tail: (1 << 64) - 1,
}


def test_slab_has_all_of_its_tails(kernel: Kernel) -> None:
    places: Dict[int, Tuple[int, int]] = {}
    writes = []
    for (name, value), head in zip(TAIL_WORDS.items(), kernel.slabs(kernel.order, len(TAIL_WORDS))):
        tail = head + (1 if name in ("detached", "to another", "all ones") else kernel.last)
        places[kernel.page(tail)] = head, tail
        writes.append((tail, "compound", value(kernel, head, tail), 8))
    report = kernel.changed(*writes)
    assert sorted(_roots(report)) == sorted(("page-tail-head", page) for page in places)
    for finding in report.findings:
        if finding.because is None:
            head, tail = places[finding.page or 0]
            assert (finding.slab, finding.moving) == (kernel.page(head), False)
            told = f"tail {tail - head} of slab 0x{kernel.page(head):x} of {finding.cache}"
            assert told in finding.message


def test_tail_that_is_made_a_head(kernel: Kernel) -> None:
    head, bit = kernel.slab(2), kernel.head_bit
    flags = kernel.word(head + 2, "flags")
    made = (head + 2, "flags", flags | bit, 8)
    for writes in ([made], [made, (head + 2, "compound", 0, 8)]):
        report = kernel.changed(*writes)
        assert _roots(report) == [("page-tail-head", kernel.page(head + 2))]


@pytest.mark.parametrize("kind", ["anon", "reserved", "other"])
def test_page_that_is_made_a_head_or_a_tail(kernel: Kernel, kind: str) -> None:
    single = [pfn for pfn in kernel.pages(kind) if not kernel.word(pfn, "flags") & kernel.head_bit]
    if not single:
        pytest.skip(f"no page of kind {kind}")
    pfn, flags = single[-1], kernel.word(single[-1], "flags")
    report = kernel.changed((pfn, "flags", flags | kernel.head_bit, 8))
    # What nobody uses yet can be a compound page in the making.
    told = [*report.findings, *report.changing]
    assert [(one.code, one.page) for one in told][:1] == [("page-tail-head", kernel.page(pfn))]
    assert not report.changing or kind != "anon"
    report = kernel.changed((pfn, "compound", kernel.page(kernel.slab(kernel.order)) + 1, 8))
    assert _roots(report)[0] == ("page-tail-head", kernel.page(pfn))


def test_accounted_page_is_uncharged_when_its_tails_are_free(kernel: Kernel) -> None:
    encoding = kernel.layout.encoding
    if "kmemcg" not in encoding.types:
        pytest.skip("accounted pages have no type since Linux 5.11")
    tails = set(kernel.pages("other", tails=True))
    pfn = next(pfn for pfn in kernel.pages("other") if pfn + 1 in tails)
    typed = encoding.set(0xFFFFFFFF, "kmemcg"), encoding.set(0xFFFFFFFF, "table")
    for word, changing in zip(typed, (True, False)):
        writes = (pfn, "word", word, 4), (pfn, "refcount", 0, 4), (pfn + 1, "compound", 0, 8)
        report = kernel.changed(*writes)
        told = report.changing if changing else report.findings
        assert [one.code for one in told] == ["page-tail-head"]


def test_head_of_many_is_the_root(kernel: Kernel) -> None:
    heads = kernel.pages("hugetlb")
    if not heads:
        pytest.skip("this kernel has no huge pages")
    head, flags = heads[0], kernel.word(heads[0], "flags")
    report = kernel.changed((head, "flags", flags & ~kernel.head_bit, 8))
    assert _roots(report) == [("page-tail-head", kernel.page(head))]
    assert "511 pages" in report.findings[0].message
    for order, where in ((0, head), (1, head), (8, head), (12, head), (200, head)):
        prog = open_capture(str(kernel.path))
        offset = folio_order_offset(machine_of(prog))
        overlay(prog, [Write(kernel.page(head) + offset, bytes([order]))])
        told = [one for one in check(prog).findings if one.code == "page-tail-head"]
        assert len(told) == 1, order
        assert told[0].page == kernel.page(where)


def test_tails_follow_from_the_order_of_a_slab(kernel: Kernel) -> None:
    prog = open_capture(str(kernel.path))
    offset = folio_order_offset(machine_of(prog))
    heads = [kernel.page(head) for head in kernel.slabs(kernel.order, 4)]
    for head, order in zip(heads, (0, 3 - kernel.order, 4, 200)):
        overlay(prog, [Write(head + offset, bytes([order]))])
    roots = _roots(check(prog))
    assert len(roots) == len(heads)
    others = {root for root in roots if root[0] != "page-tail-head"}
    assert others == {("slab-order-wrong", head) for head in heads}


def test_map_of_huge_pages_that_is_folded(kernel: Kernel) -> None:
    # As CONFIG_HUGETLB_PAGE_OPTIMIZE_VMEMMAP does it, with heads that are none.
    heads = kernel.pages("hugetlb")
    if not heads or machine_of(kernel.prog).structure("struct page").has("compound_info"):
        pytest.skip("no huge pages, or their map is never folded onto the head")
    prog = open_capture(str(kernel.path))
    for head in heads:
        page, step = kernel.page(head), 4096
        assert page % step == 0
        first = prog.read(page, step)
        overlay(prog, [Write(page + step * number, first) for number in range(1, 8)])
    report = check(prog)
    assert report.findings == []
    assert report.changing == kernel.report.changing


def test_references_of_a_slab(kernel: Kernel) -> None:
    usual = kernel.prog.read_u32(kernel.at(kernel.slab(0), "refcount"))
    counts = (1 - usual, -1, -1000, 2, 1000, 1 << 20)
    heads = kernel.slabs(0, len(counts))
    report = kernel.changed(*((pfn, "refcount", n, 4) for pfn, n in zip(heads, counts)))
    told = {
        kernel.page(pfn): "slab-referenced" if usual and 1 < n <= 1024 else "page-refcount"
        for pfn, n in zip(heads, counts)
    }
    found = [*report.findings, *report.notes]
    assert {one.slab: one.code for one in found if one.slab is not None} == told
    assert len([one for one in found if one.slab is not None]) == len(counts)
    assert {one.code for one in report.findings} == {"page-refcount"}


def test_a_slab_that_is_referenced_is_no_damage(kernel: Kernel) -> None:
    head = kernel.slab(0)
    usual = kernel.prog.read_u32(kernel.at(head, "refcount"))
    report = kernel.changed((head, "refcount", 2, 4))
    assert report.exit_status == (0 if usual else 1)


def test_references_of_most_slabs_tell_how_many_there_are(kernel: Kernel) -> None:
    index = kernel.reading.index
    owned = index.pfns[kernel.reading.allocator.ownership.cache >= 0]
    usual = kernel.prog.read_u32(kernel.at(int(owned[0]), "refcount"))
    some = owned[: len(owned) // 4].tolist()
    report = kernel.changed(*((pfn, "refcount", 1 - usual, 4) for pfn in some))
    assert {code for code, _ in _roots(report)} == {"page-refcount"}
    assert len(report.findings) == len(some)


def test_free_page_of_a_cpu_that_was_given_back_twice(kernel: Kernel) -> None:
    pfns = kernel.pages("pcp")
    pfn = pfns[len(pfns) // 2]
    report = kernel.changed((pfn, "refcount", -1, 4))
    assert _roots(report) == [("page-refcount", kernel.page(pfn))]
    finding = report.findings[0]
    assert (finding.place, finding.expected, finding.found) == ("pcp", 0, -1)
    assert finding.message.endswith("is free, on a list of a CPU, and has refcount -1")
    prog = open_capture(str(kernel.path))
    overlay(prog, [Write(kernel.at(pfn, "refcount"), b"\xff" * 4)])
    info = page_info(prog, pfn)
    assert (info.kind, info.refcount) == ("pcp", -1)
    assert "refcount:-1 " in info.dump[0]
    others = survey(machine_of(prog))
    assert [piece.kinds.tolist() for piece in others.pieces] == [
        piece.kinds.tolist() for piece in kernel.survey.pieces
    ]


def test_other_pages_with_fewer_references_than_none(kernel: Kernel) -> None:
    for kind in ("anon", "reserved", "table"):
        for pfn in kernel.pages(kind)[:1]:
            report = kernel.changed((pfn, "refcount", -3, 4))
            assert _roots(report) == [("page-refcount", kernel.page(pfn))]
            assert (report.findings[0].found, report.findings[0].place) == (-3, None)
    free = kernel.pages("buddy")[-1]
    told = kernel.changed((free, "refcount", -1, 4)).findings[0]
    assert (told.code, told.found) == ("page-free-flags", "-1")


def test_free_block_whose_link_out_of_the_map_makes_it_a_tail(kernel: Kernel) -> None:
    # The last block of a list leads to its head, in struct zone.
    first = kernel.fields.vmemmap
    words = {pfn: kernel.word(pfn, "compound") for pfn in kernel.pages("buddy")}
    link = next(pfn for pfn, word in words.items() if word > 1 << 63 and word - first >> 44)
    report = kernel.changed((link, "compound", words[link] + 1, 8))
    assert _roots(report)[0] == ("page-tail-type", kernel.page(link))


def test_tail_with_references(kernel: Kernel) -> None:
    head = kernel.slab(1)
    report = kernel.changed((head + 1, "refcount", 1, 4))
    assert _roots(report) == [("page-refcount", kernel.page(head + 1))]


def test_flags_that_no_slab_has(kernel: Kernel) -> None:
    names = ("PG_lru", "PG_dirty", "PG_writeback", "PG_private") * 2
    bits = machine_of(kernel.prog).enumerators("pageflags")
    heads = kernel.slabs(2, len(names))
    places = [*heads[:4], *(head + 2 for head in heads[4:])]
    report = kernel.changed(
        *(
            (pfn, "flags", kernel.word(pfn, "flags") | 1 << bits[name], 8)
            for pfn, name in zip(places, names)
        )
    )
    roots = {one.page or one.slab: one for one in report.findings if one.because is None}
    assert len(_roots(report)) == len(names)
    for head, pfn, name in zip(heads, places, names):
        finding = roots[kernel.page(pfn)]
        assert (finding.code, finding.slab) == ("slab-flags-wrong", kernel.page(head))
        assert name[3:] in finding.message


def test_the_second_page_has_no_flags_where_the_order_is_elsewhere(kernel: Kernel) -> None:
    machine = machine_of(kernel.prog)
    at = folio_order_offset(machine) - machine.page.size - machine.page.flags
    if 0 <= at < machine.memory.word_size:
        pytest.skip("its flags are the order")
    head = kernel.slab(1)
    bits = machine.enumerators("pageflags")
    for name in ("PG_locked", "PG_dirty"):
        word = kernel.word(head + 1, "flags") | 1 << bits[name]
        report = kernel.changed((head + 1, "flags", word, 8))
        assert _roots(report) == [("slab-flags-wrong", kernel.page(head + 1))]


def test_flags_that_a_slab_can_have(kernel: Kernel) -> None:
    flags = machine_of(kernel.prog).enumerators("pageflags")
    names = ("PG_locked", "PG_active", "PG_hwpoison", "PG_arch_1")
    some = [flags[name] for name in names if name in flags]
    report = kernel.changed(
        *(
            (head, "flags", kernel.word(head, "flags") | 1 << bit, 8)
            for head, bit in zip(kernel.slabs(2, len(some)), some)
        )
    )
    assert report.findings == []


def test_vectors_of_object_cgroups(kernel: Kernel) -> None:
    index = kernel.reading.index
    name = next(
        (n for n in ("obj_exts", "memcg_data", "obj_cgroups") if index.structure.has(n)), ""
    )
    if not name:
        pytest.skip("this kernel accounts no memory to cgroups")
    head, other = kernel.slab(2), kernel.slab(0)
    # Vectors come from kmalloc(): somebody else's object will do.
    caches = [name for name in kernel.reading.allocator.caches.names if name.startswith("kmalloc-")]
    large = next(name for name in ("kmalloc-4k", "kmalloc-4096", "kmalloc-2k") if name in caches)
    home = int(objects(kernel.prog, large, "in use").addresses()[0])
    small = int(objects(kernel.prog, "kmalloc-8", "in use").addresses()[0])
    at = kernel.page(head) + index.structure.offset(name)
    beyond = machine_of(kernel.prog).memory.linear_base + (kernel.pages("buddy")[-1] << 12)
    for value, wrong in (
        (home + 1, ""),
        (0x1234567890 | 1, "leads to what is no address"),
        (home + 2, "has bits set"),
        (home + 9, "leads to no object"),
        (small + 1, "too small for it"),
        (beyond + 1, "leads into no slab"),
    ):
        prog = open_capture(str(kernel.path))
        overlay(prog, [Write(at, value.to_bytes(8, "little"))])
        report = check(prog)
        if not wrong:
            assert report.findings == []
            continue
        assert _roots(report) == [("slab-vector-wrong", kernel.page(head))]
        assert wrong in report.findings[0].message
    two = [
        Write(kernel.page(pfn) + index.structure.offset(name), (home + 1).to_bytes(8, "little"))
        for pfn in (head, other)
    ]
    prog = open_capture(str(kernel.path))
    overlay(prog, two)
    assert sorted(_roots(check(prog))) == sorted(
        ("slab-vector-wrong", kernel.page(pfn)) for pfn in (head, other)
    )


@pytest.mark.parametrize("pages", [64, 256])
def test_compound_pages_that_reach_over_several_blocks(
    kernel: Kernel, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = kernel.pages("hugetlb")
    if not heads:
        pytest.skip("this kernel has no huge pages")
    monkeypatch.setattr("drgn_slabtype.pages.scan.BLOCK_PAGES", pages)
    assert check(open_capture(str(kernel.path))).findings == []
    for tail in (heads[0] + 1, heads[0] + 300, heads[0] + 511):
        report = kernel.changed((tail, "compound", kernel.page(heads[0] + 1) + 1, 8))
        assert _roots(report) == [("page-tail-head", kernel.page(tail))]
        assert f"is tail {tail - heads[0]} of" in report.findings[0].message


def test_first_tails_have_the_mapping_of_those_of_all_other_slabs(kernel: Kernel) -> None:
    for number in sorted({1, min(kernel.last, 2)}):
        pfn = kernel.slab(kernel.order) + number
        report = kernel.changed((pfn, "mapping", kernel.word(pfn, "mapping") ^ 1 << 33, 8))
        (finding,) = report.findings
        assert (finding.code, finding.page) == ("page-tail-word", kernel.page(pfn))
        # How many pages a slab has is in half of that word, until Linux 6.2.
        where = kernel.at(pfn, "mapping")
        assert (finding.word, finding.member) in ((where, "mapping"), (where + 4, "compound_nr"))
