# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is beside an object in KFENCE's pool is a pattern for as long as it is given out."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional

import numpy as np
import pytest
from drgn import Program

from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report
from drgn_slabtype.machine import machine, witness
from drgn_slabtype.machine.kfence import given_out, kfence_pool, regions
from drgn_slabtype.machine.stacks import Call

from ..recipes.overlay import Write, overlay

_HERE = Path(__file__).parent
_PATTERN = bytes(0xAA ^ n for n in range(8)) * 512


class _Object(NamedTuple):
    address: int
    size: int

    @property
    def page(self) -> int:
        return self.address & ~0xFFF


def _open() -> Program:
    return open_capture(str(_HERE / "debian-7-kfence" / "capture.xz"))


def _objects() -> List[_Object]:
    of = machine(_open())
    return [
        _Object(int(rows["addr"][row]), int(rows["size"][row]))
        for rows in kfence_pool(of).metadata
        for row in np.flatnonzero(given_out(of, rows))
    ]


def _filled() -> Iterator[Write]:
    # This capture was made before what is beside objects was read.
    for one in _objects():
        first = one.address - one.page
        yield Write(one.page, _PATTERN[:first])
        yield Write(one.address + one.size, _PATTERN[first + one.size :])


def _everywhere() -> Iterator[Write]:
    for one in _objects():
        if one.size < 4096:
            yield Write(one.page if one.address > one.page else one.address + one.size, b"\x01")


def _damaged(*damage: Write) -> Program:
    prog = _open()
    overlay(prog, [*_filled(), *damage])
    return prog


def _seen(monkeypatch: pytest.MonkeyPatch, gap: Optional[str], *functions: str) -> None:
    calls = [Call("CPU 1, pid 7 (init)", name, "0x1b3", True) for name in functions]
    found = witness.Witnesses(calls, gap)
    monkeypatch.setattr(witness, "find_witnesses", lambda machine: found)


def _told(report: Report) -> List[str]:
    return [one.code for one in report.findings]


def test_without_it_and_with_it_whole_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    _seen(monkeypatch, None)
    for prog in (_open(), _damaged()):
        report = check(prog)
        assert _told(report) == []
        assert not report.changing
        assert not report.unavailable


def test_one_byte_behind_an_object_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    _seen(monkeypatch, None)
    one = next(one for one in _objects() if one.address + one.size < one.page + 4096)
    prog = _damaged(Write(one.address + one.size, b"\x01"))
    (finding,) = check(prog).findings
    assert (finding.code, finding.object, finding.found) == ("redzone", one.address, "01")
    assert finding.address == finding.word == one.address + one.size
    assert finding.message.endswith("no CPU and no task is taking an object from KFENCE's pool")
    info = slab_object(prog, one.address, contents=16)
    assert info.contradictions == (finding.message,)
    marked = [(line.part, line.damaged) for line in info.lines if line.damaged]
    assert marked == [("right red zone", (0,))]


def test_who_may_be_filling_it_excuses_as_many_as_there_are_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = [one for one in _objects() if one.address > one.page]
    writes = [Write(one.page, b"\x00\x01") for one in some]
    of = machine(_open())
    for gap, functions in ((None, ("kfence_guarded_alloc",)), ("no stacks", ())):
        _seen(monkeypatch, gap, *functions)
        few = check(_damaged(*writes[: len(of.cpus)]))
        assert _told(few) == []
        assert [one.code for one in few.changing] == ["redzone"] * len(of.cpus)
        many = check(_damaged(*writes[: len(of.cpus) + 1]))
        assert _told(many) == ["redzone"] * (len(of.cpus) + 1)
    most = check(_damaged(*_everywhere()))
    assert _told(most) == []
    assert [(one.code, one.place) for one in most.unavailable] == [
        ("not-understood", "red zone of KFENCE")
    ]
    _seen(monkeypatch, None, "kfence_guarded_free")
    assert _told(check(_damaged(writes[0]))) == ["redzone"]


def test_captures_keep_what_is_beside_and_nothing_of_the_objects() -> None:
    of = machine(_open())
    kept = [
        (start, start + size)
        for one in regions(of)
        if not one.masked
        for start, size in zip(one.addresses.tolist(), one.sizes.tolist())
    ]
    for one in _objects():
        own = [
            (max(first, one.page), min(last, one.page + 4096))
            for first, last in kept
            if first < one.page + 4096 and last > one.page and first < last
        ]
        assert sum(last - first for first, last in own) == 4096 - one.size
        assert not any(first < one.address + one.size and last > one.address for first, last in own)
