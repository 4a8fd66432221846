# SPDX-License-Identifier: LGPL-2.1-or-later
"""Many cases, each in a process of its own; and the smallest damage of one that goes wrong."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from ..recipes.apart import apart
from ..recipes.overlay import Write
from .case import Damage, Subject, Verdict
from .damage import Patch, shorter, smaller

CAPTURES = Path(__file__).parents[1] / "captures"

_AT_A_TIME = 64
_BY_THE_CLOCK = 8  # at a time, where time may be up


def captures(names: Sequence[str] = ()) -> List[Path]:
    """
    Return the captures of some names, all if there are none.

    :raises LookupError: if there is no capture of a name.
    """
    every = {path.parent.name: path for path in sorted(CAPTURES.glob("*/capture.xz"))}
    # Those that take long are asked for by name.
    others = {path.parent.name: path for path in CAPTURES.glob("*/*/capture.xz")}
    return [{**others, **every}[name] for name in names or every]


def run(
    paths: Sequence[Path],
    seed: int,
    cases: int,
    jobs: Optional[int] = None,
    roots: bool = False,
    seconds: Optional[float] = None,
) -> Iterator[Verdict]:
    """
    Try damage on captures, the same number of cases on each, and yield what became of them.

    :param seed: Number of the first case.
    :param cases: How many in all; the last captures get one fewer where it does not divide.
    :param roots: Damage words on which much hangs.
    :param seconds: By the clock, for all of it: each capture has its share, and of cases that
        are not begun by then nothing is yielded.
    """
    end = None if seconds is None else time.monotonic() + seconds
    jobs = jobs or len(os.sched_getaffinity(0))
    for at, path in enumerate(paths):
        count = cases // len(paths) + (at < cases % len(paths))
        if not count:
            continue
        subject = Subject(path, roots)
        step, until = _AT_A_TIME, None
        if end is not None:
            now = time.monotonic()
            step, until = _BY_THE_CLOCK, now + (end - now) / (len(paths) - at)
        for first in range(seed, seed + count, step):
            if until is not None and time.monotonic() >= until:
                break
            yield from _some(subject, range(first, min(first + step, seed + count)), jobs)


def _some(subject: Subject, seeds: Sequence[int], jobs: int) -> Iterator[Verdict]:
    works = [lambda seed=seed: subject.judge(seed) for seed in seeds]
    for seed, (verdict, trouble) in zip(seeds, apart(works, jobs)):
        yield verdict or _dead(subject, seed, trouble)


def _dead(subject: Subject, seed: int, trouble: str) -> Verdict:
    told = [f"{one}" for one in subject.damage(seed)]
    return Verdict(subject.name, seed, trouble.strip().splitlines()[-1], None, 0, 0, told)


def minimise(subject: Subject, seed: int, jobs: int) -> Tuple[Damage, Verdict]:
    """
    Return the smallest damage of a case that still goes wrong in the same way.

    First as few writes, then as few bytes, as can be: without any of them it goes
    wrong in another way or not at all.
    """
    kept: Damage = subject.damage(seed)
    (verdict, trouble), *_ = apart([lambda: subject.judge(seed)], 1)
    verdict = verdict or _dead(subject, seed, trouble)
    kind = _kind(verdict)
    while kind:
        lesser = [[*kept[:at], *kept[at + 1 :]] for at in range(len(kept))] if len(kept) > 1 else []
        if kept and isinstance(kept[0], Write):
            lesser += smaller([one for one in kept if isinstance(one, Write)], subject.places)
        elif kept:
            lesser += shorter([one for one in kept if isinstance(one, Patch)])
        found = _first(subject, seed, lesser, kind, jobs)
        if found is None:
            break
        kept, verdict = found
    return kept, verdict


def _first(
    subject: Subject, seed: int, lesser: Sequence[Damage], kind: str, jobs: int
) -> Optional[Tuple[Damage, Verdict]]:
    for start in range(0, len(lesser), jobs):
        batch = lesser[start : start + jobs]
        works = [lambda damage=damage: subject.judge(seed, damage) for damage in batch]
        for damage, (verdict, trouble) in zip(batch, apart(works, jobs)):
            verdict = verdict or _dead(subject, seed, trouble)
            if _kind(verdict) == kind:
                return damage, verdict
    return None


def _kind(verdict: Verdict) -> str:
    # What went wrong and where, without the numbers in it.
    return "".join(part for part in verdict.wrong if not part.isdigit())


def by_kind(verdicts: Sequence[Verdict]) -> Dict[str, List[Verdict]]:
    """Return what went wrong, those of one kind together."""
    found: Dict[str, List[Verdict]] = {}
    for verdict in verdicts:
        where = verdict.wrong.rpartition("(")[2] or verdict.wrong
        found.setdefault(where, []).append(verdict)
    return found
