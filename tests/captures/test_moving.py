# SPDX-License-Identifier: LGPL-2.1-or-later
"""Checks of machines that move: lasting damage is found, and nothing else is."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Callable, List, Optional, Sequence, Tuple

import pytest

from drgn_slabtype.check import check
from drgn_slabtype.confirm import ENOUGH, Evidence
from drgn_slabtype.findings import Finding, Outcome, Report
from drgn_slabtype.ledger import Ledger
from drgn_slabtype.machine import machine
from drgn_slabtype.reading import Reading

from ..moving import Moving, Slab, Toggle, activated, filled, partial_slabs, taken
from ..recipes.overlay import Write

HERE = Path(__file__).parent
SLUB, SLAB = "debian-7-plain", "slab-6.1-rfc3-plain"
_BUSY = 6  # slabs that things happen to, each of another cache
_MOST_READINGS = 1 + 12 * 4 * 2 * _BUSY
_SEEDS = range(2)
_WRONG = 19  # counts: a prime, so that hardly a rhythm of readings meets the same few


def _path(kernel: str) -> Path:
    return HERE / kernel / "capture.xz"


@cache
def _slabs(kernel: str) -> List[Slab]:
    found: List[Slab] = []
    for slab in partial_slabs(_path(kernel)):
        found.append(slab)
        if len(found) == _BUSY:
            break
    return found


def _happens(kernel: str, number: int, slab: Slab, off: int = 0) -> Toggle:
    kinds = (activated,) if kernel == SLAB else (taken, filled)
    return kinds[number % len(kinds)](slab, off)


def _busy(kernel: str, seed: int, damaged: Sequence[int] = (), off: int = 2) -> Moving:
    moving = Moving(_path(kernel), seed)
    for number, slab in enumerate(_slabs(kernel)):
        moving.add(_happens(kernel, number, slab, off if number in damaged else 0))
    return moving


class _Clock:
    # Pauses that take no time.
    def __init__(self, then: Optional[Callable[[int], None]] = None) -> None:
        self.now, self.pauses, self._then = 0.0, 0, then

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1
        if self._then is not None:
            self._then(self.pauses)

    def evidence(self) -> Evidence:
        return Evidence(self.pause, lambda: self.now)


def _check(moving: Moving, kernel: str, evidence: Optional[Evidence] = None) -> Report:
    caches = [slab.cache for slab in _slabs(kernel)]
    return check(moving.prog, caches=caches, evidence=evidence or _Clock().evidence())


def _roots(report: Report) -> List[Tuple[str, Optional[str]]]:
    return [(one.code, one.cache) for one in report.findings if one.because is None]


@pytest.mark.parametrize("kernel", [SLUB, SLAB])
def test_a_sound_machine_that_moves_is_sound(kernel: str) -> None:
    refuted = 0
    for seed in _SEEDS:
        report = _check(_busy(kernel, seed), kernel)
        assert report.findings == []
        assert report.outcome is Outcome.CONSISTENT
        assert report.decided.enough
        assert report.readings <= _MOST_READINGS
        refuted += report.refuted
    # Or nothing would have been asked.
    assert refuted > len(_SEEDS)


@pytest.mark.parametrize(
    ("kernel", "number", "code"),
    [
        (SLUB, 0, "count-mismatch"),
        (SLUB, 1, "node-list-length"),
        (SLAB, 0, "node-free-objects"),
    ],
)
def test_lasting_damage_in_what_moves_is_found(kernel: str, number: int, code: str) -> None:
    for seed in _SEEDS:
        report = _check(_busy(kernel, seed, [number]), kernel)
        assert _roots(report) == [(code, _slabs(kernel)[number].cache)]
        (found,) = report.findings
        assert isinstance(found.found, int)
        assert isinstance(found.expected, int)
        assert found.found - found.expected == 2
        assert found.confirmed >= ENOUGH
        assert found.attempts >= found.seen >= 2 * found.confirmed
        assert report.readings <= _MOST_READINGS
        assert (report.outcome, report.exit_status) == (Outcome.INCONSISTENT, 1)


@pytest.mark.parametrize("kernel", [SLUB, SLAB])
def test_damage_in_several_caches_is_found_at_once(kernel: str) -> None:
    report = _check(_busy(kernel, 5, range(_BUSY)), kernel)
    assert sorted({cache or "" for _, cache in _roots(report)}) == sorted(
        slab.cache for slab in _slabs(kernel)
    )


def _what_never_stands_still() -> Moving:
    # A count that is wrong, and another one each time.
    moving, slab = Moving(_path(SLUB), 0), _slabs(SLUB)[0]
    wrong = [count for count in range(1, slab.objects) if count != slab.counted][:_WRONG]
    assert len(wrong) == _WRONG
    writes = [slab.put("inuse", count) for count in wrong]
    moving.before_read = lambda number: moving.write([writes[number // 10 % _WRONG]])
    return moving


def test_what_is_never_twice_the_same_is_changing_and_undecided() -> None:
    report = _check(_what_never_stands_still(), SLUB)
    assert report.findings == []
    (one,) = report.changing
    assert (one.code, one.slab) == ("count-mismatch", _slabs(SLUB)[0].page)
    assert one.seen > 1
    assert one.confirmed < ENOUGH
    decided = report.decided
    assert (decided.caches.of or 0) - decided.caches.decided == 1
    assert (decided.slabs.of or 0) - decided.slabs.decided == 1
    assert not decided.enough
    assert (report.outcome, report.exit_status) == (Outcome.INCOMPLETE, 3)
    assert report.readings <= 1 + 12 * 4 * 2


def test_evidence_adds_up_over_checks() -> None:
    slab = _slabs(SLUB)[0]
    moving = Moving(_path(SLUB), 0)
    moving.write([slab.put("inuse", slab.counted + 1)])

    def stop(pauses: int) -> None:
        if pauses == 3:
            raise KeyboardInterrupt

    evidence = _Clock(stop).evidence()
    first = _check(moving, SLUB, evidence)
    assert first.interrupted
    assert first.findings == []
    assert (first.outcome, first.exit_status) == (Outcome.INCOMPLETE, 3)
    (so_far,) = first.changing
    assert (so_far.confirmed, so_far.attempts) == (2, 5)
    second = _check(moving, SLUB, evidence)
    (found,) = second.findings
    assert (found.code, found.confirmed, found.attempts) == ("count-mismatch", ENOUGH, 10)
    # The first look and the two that were missing; then none.
    assert second.readings == 1 + 2 * 2
    third = _check(moving, SLUB, evidence)
    assert [one.code for one in third.findings] == ["count-mismatch"]
    assert third.readings == 1


def test_what_was_mended_is_no_finding_of_the_next_check() -> None:
    slab = _slabs(SLUB)[0]
    moving = Moving(_path(SLUB), 0)
    moving.write([slab.put("inuse", slab.counted + 1)])
    evidence = _Clock().evidence()
    assert [one.code for one in _check(moving, SLUB, evidence).findings] == ["count-mismatch"]
    moving.write([slab.put("inuse", slab.counted)])
    again = check(moving.prog, evidence=evidence)
    assert again.findings == again.changing == []
    assert again.refuted == 1
    assert again.readings > 1


@pytest.mark.parametrize("moment", [1, 200, 3000, 9000, 20000, 40000])
def test_interrupted_at_any_moment_it_says_no_more_than_is_known(moment: int) -> None:
    moving = _busy(SLUB, 1, [0])

    def interrupt(number: int) -> None:
        if number == moment:
            raise KeyboardInterrupt

    # What it takes to begin at all.
    assert machine(moving.prog).layout.allocator == "SLUB"
    moving.reads = 0
    moving.before_read = interrupt
    report = _check(moving, SLUB)
    assert report.interrupted or moving.reads < moment
    assert all(one.confirmed >= ENOUGH for one in report.findings)
    assert report.exit_status in (1, 3)


def _lost_from_its_list() -> Tuple[Moving, Slab]:
    # A slab that no list has, in the state of one that is on its way between two.
    slab = _slabs(SLUB)[0]
    moving = Moving(_path(SLUB), 0)
    away = filled(slab).there
    kept = {slab.put("freelist", 0).address, slab.put("inuse", 0).address}
    kept |= {free + slab.offset for free in slab.free}
    moving.write([one for one in away if one.address not in kept])
    return moving, slab


def test_work_in_progress_explains_nothing_that_stands_for_seconds() -> None:
    moving, slab = _lost_from_its_list()
    clock = _Clock()
    evidence = clock.evidence()
    first = _check(moving, SLUB, evidence)
    assert first.findings == []
    assert {one.slab for one in first.changing} == {slab.page}
    clock.now += 60
    second = _check(moving, SLUB, evidence)
    assert [one.slab for one in second.findings if one.because is None] == [slab.page]


# What a target that moves has in common with one that stands still.


def _zap_cpu_offset(moving: Moving) -> None:
    # Of the last CPU: a number of the machine itself, which is told by its damage.
    prog = moving.prog
    address = prog["nr_node_ids"].address_
    assert address is not None
    moving.write([Write(address, (1 << 20).to_bytes(4, "little"))])


def test_damage_of_the_machine_itself_is_told_on_a_target_that_moves() -> None:
    moving = Moving(_path(SLUB), 0)
    _zap_cpu_offset(moving)
    report = check(moving.prog, evidence=_Clock().evidence())
    damage = [one.code for one in machine(moving.prog).damage]
    assert damage
    assert [one.code for one in report.findings][: len(damage)] == damage


def _told(report: Report) -> List[Finding]:
    return [*report.findings, *report.changing, *report.unavailable]


def test_damage_of_the_machine_itself_is_told_of_a_small_scope() -> None:
    moving = Moving(_path(SLUB), 0)
    machine(moving.prog).memory.is_live = False
    _zap_cpu_offset(moving)
    report = check(moving.prog, caches=[_slabs(SLUB)[0].cache])
    damage = [one.code for one in machine(moving.prog).damage]
    assert damage
    assert [one.code for one in _told(report)][: len(damage)] == damage


def test_notes_of_a_small_scope_that_gives_up_are_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted, damaged = _slabs(SLUB)[:2]
    judge = Reading.judge

    def with_note(reading: Reading, number: int) -> Tuple[Ledger, List[Finding]]:
        ledger, found = judge(reading, number)
        if ledger.facts.name == noted.cache:
            found = [*found, Finding("slab-detached", "one waits", noted.cache, id=99)]
        return ledger, found

    monkeypatch.setattr(Reading, "judge", with_note)
    moving = Moving(_path(SLUB), 0)
    machine(moving.prog).memory.is_live = False
    moving.write([damaged.put("inuse", damaged.counted + 1)])
    report = check(moving.prog, caches=[noted.cache, damaged.cache])
    assert [one.code for one in report.findings] == ["count-mismatch"]
    assert [one.code for one in report.notes].count("slab-detached") == 1
