# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Real kernels, replayed and compared with their own numbers.

Each folder beside this file is one guest of the lab (``scripts/captures.py``):
the capture, and what the kernel said in the moment it was taken.
"""

from __future__ import annotations

import json
import lzma
import random
import struct
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import numpy as np
import numpy.typing as npt
import pytest
from drgn import FaultError, Program
from drgn.helpers.linux.mm import PageSlab as drgn_PageSlab
from drgn.helpers.linux.mm import pfn_to_page

from drgn_slabtype.answers.caches import SlabInfo, caches
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Outcome
from drgn_slabtype.machine import machine
from drgn_slabtype.pages.kpageflags import kpagecount, kpageflags
from drgn_slabtype.pages.predicates import PageSlab
from drgn_slabtype.pages.scan import scan
from drgn_slabtype.pages.survey import survey

from ..recipes.overlay import Write, overlay

_FOLDERS = sorted(path.parent for path in Path(__file__).parent.glob("*/manifest.json"))
_KPF_SLAB = np.uint64(1 << 7)
_KPF_MMAP = np.uint64(1 << 11)
_KPF_IDLE = np.uint64(1 << 25)
_MOVED = 4  # pages of user memory that may differ from when they were read
_MOVED_SLOWLY = 32  # the same in a slow guest: a large folio, a batch on its way between lists


class Guest(NamedTuple):
    """One replayed guest."""

    folder: Path
    prog: Program
    manifest: Dict[str, object]

    def words(self, name: str) -> npt.NDArray[np.uint64]:
        """Return one of the kernel's per-page files."""
        packed = (self.folder / f"{name}.xz").read_bytes()
        return np.frombuffer(lzma.decompress(packed), "<u8").astype(np.uint64)


def _open(folder: Path) -> Program:
    return open_capture(str(folder / "capture.xz"))


@pytest.fixture(scope="module", params=_FOLDERS, ids=[path.name for path in _FOLDERS])
def guest(request: pytest.FixtureRequest) -> Guest:
    folder: Path = request.param
    manifest = json.loads((folder / "manifest.json").read_text())
    return Guest(folder, _open(folder), manifest)


def _kernel_slabinfo(folder: Path) -> Dict[str, List[int]]:
    found = {}
    for line in (folder / "slabinfo").read_text().splitlines()[2:]:
        counts, _, rest = line.partition(":")
        name, *numbers = counts.split()
        slabdata = rest.split("slabdata")[1].split()
        found[name] = [int(number) for number in [*numbers, *slabdata[:2]]]
    return found


def _fields(info: Optional[SlabInfo]) -> List[int]:
    assert info is not None
    return [int(value) for value in info]


@pytest.mark.each_kernel
def test_clean_kernel_gives_no_finding(guest: Guest) -> None:
    report = check(guest.prog)
    assert report.findings == []
    assert report.changing == []
    assert report.unavailable == []
    assert report.outcome is Outcome.CONSISTENT
    assert report.layout.allocator == guest.manifest["allocator"]
    assert report.layout.page_type == guest.manifest["page_type"]


@pytest.mark.each_kernel
def test_every_cache_equals_slabinfo(guest: Guest) -> None:
    if not (guest.folder / "slabinfo").exists():
        pytest.skip("without CONFIG_SLUB_DEBUG there is no slabinfo")
    ours = {cache.name: _fields(cache.slabinfo) for cache in caches(guest.prog).caches}
    theirs = _kernel_slabinfo(guest.folder)
    assert theirs
    assert {name: ours.get(name) for name in theirs} == theirs


@pytest.mark.each_kernel
def test_every_slab_page_has_kpf_slab(guest: Guest) -> None:
    theirs = (guest.words("kpageflags") & _KPF_SLAB) != 0
    ours = np.zeros(len(theirs), np.bool_)
    heads = scan(machine(guest.prog)).heads
    for pfn, order in zip(heads.pfns.tolist(), heads.orders.tolist()):
        ours[pfn : pfn + (1 << order)] = True
    assert theirs.any()
    assert np.flatnonzero(ours != theirs).tolist() == []


@pytest.mark.each_kernel
def test_every_page_equals_kpageflags(guest: Guest) -> None:
    ours, theirs = kpageflags(guest.prog), guest.words("kpageflags")
    # DAMON, which 7.x kernels run by default, marks a few pages idle at any time.
    differ = np.flatnonzero((ours ^ theirs) & ~_KPF_IDLE)
    assert _not_user_memory(differ, ours, theirs) == []
    assert len(differ) <= _moved(guest)


@pytest.mark.each_kernel
def test_every_page_equals_kpagecount(guest: Guest) -> None:
    ours, theirs = kpagecount(guest.prog), guest.words("kpagecount")
    differ = np.flatnonzero(ours != theirs)
    flags = kpageflags(guest.prog), guest.words("kpageflags")
    assert _not_user_memory(differ, *flags) == []
    assert len(differ) <= _moved(guest)


def _moved(guest: Guest) -> int:
    slow = "slub_debug" in str(guest.manifest["parameters"])
    slow |= guest.manifest.get("architecture", "amd64") != "amd64"
    return _MOVED_SLOWLY if slow else _MOVED


def _not_user_memory(
    pfns: npt.NDArray[np.intp], ours: npt.NDArray[np.uint64], theirs: npt.NDArray[np.uint64]
) -> List[int]:
    # The process that reads these files page by page is itself a user of
    # memory: between its reading and the dump it touches a folio or two.
    mapped = (ours[pfns] | theirs[pfns]) & _KPF_MMAP
    return [int(pfn) for pfn in pfns[mapped == 0]]


def test_stock_drgn_sees_no_active_slab_of_rfc_v3() -> None:
    folder = next(path for path in _FOLDERS if path.name == "slab-6.1-rfc3-plain")
    prog = _open(folder)
    heads = scan(machine(prog)).heads.pfns.tolist()
    pages = [pfn_to_page(prog, pfn) for pfn in heads]
    ours = sum(PageSlab(page) for page in pages)
    theirs = sum(drgn_PageSlab(page) for page in pages)
    in_use = sum((page._mapcount.counter.value_() & 0xFFFF) != 0xFFFF for page in pages)
    assert ours == len(heads)
    # What compares the whole word with the exported one sees the idle slabs only.
    assert theirs == len(heads) - in_use
    assert in_use > 0.9 * len(heads)


@pytest.mark.parametrize("pointer", [0, 0xDEAD000000000100])
@pytest.mark.parametrize("inuse", [0, 3])
def test_page_that_becomes_a_slab_is_work_in_progress(pointer: int, inuse: int) -> None:
    # What the page allocator leaves where the cache pointer will be.
    folder = next(path for path in _FOLDERS if path.name == "debian-6.12-plain")
    prog = _open(folder)
    found = survey(machine(prog))
    other = found.names.index("other")
    piece = next(piece for piece in found.pieces if (piece.kinds == other).any())
    pfn = piece.pfn + int(np.flatnonzero(piece.kinds == other)[0])
    page = pfn_to_page(prog, pfn).value_()
    slab = prog.type("struct slab")
    start, end = (slab.member(name).offset for name in ("slab_cache", "__page_type"))
    counters = (16 << 16 | inuse).to_bytes(8, "little")
    members = pointer.to_bytes(8, "little").ljust(end - start - 8, b"\0") + counters
    word_and_users = struct.pack("<II", 0xF5 << 24, 1)
    overlaid = _open(folder)
    overlay(overlaid, [Write(page + start, members + word_and_users)])
    report = check(overlaid)
    shelf, empty = report.changing, report.findings
    if inuse:
        shelf, empty = empty, shelf
    assert [finding.code for finding in shelf] == ["slab-mark-stray"]
    assert empty == []


@pytest.mark.parametrize("seed", range(6))
def test_holes_in_a_dump_are_no_findings(guest: Guest, seed: int) -> None:
    prog = _open(guest.folder)
    page = int(prog["PAGE_SIZE"])
    top = int(prog["max_pfn"]) * page
    # Other pages in each kernel.
    random_pages = random.Random(f"{guest.folder.name} {seed}")

    def missing(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("not in the dump", address)

    for _ in range(top // page // 200):
        prog.add_memory_segment(random_pages.randrange(0, top, page), page, missing, True)
    try:
        report = check(prog)
    except FaultError:
        return  # the kernel's own variables are gone: nothing can be judged
    assert report.findings == []
