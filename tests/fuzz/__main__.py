# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m tests.fuzz``: damage captures at random and tell what cannot be judged."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from typing import List, Optional, Sequence

from .case import Subject, Verdict
from .run import by_kind, captures, minimise, run

_SECONDS = 5
_MIB = 150


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run the cases; the exit status is 1 if one of them went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="number of the first case (default: 1)")
    parser.add_argument("--cases", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="begin no case after so many minutes"
    )
    parser.add_argument(
        "--capture", action="append", default=[], metavar="NAME", help="of these captures only"
    )
    parser.add_argument(
        "--roots", action="store_true", help="damage words on which much hangs, with hostile values"
    )
    parser.add_argument("--minimise", action="store_true", help="end with the smallest damage")
    parser.add_argument(
        "--heavy",
        action="store_true",
        help=f"tell of each that takes over {_SECONDS} s of the processor or {_MIB} MiB",
    )
    parser.add_argument("-j", "--jobs", type=int, help="processes at a time (default: all CPUs)")
    options = parser.parse_args(arguments)
    try:
        paths = captures(options.capture)
    except LookupError as error:
        parser.error(f"no capture {error}")
    bad: List[Verdict] = []
    statuses: Counter[str] = Counter()
    slowest = largest = Verdict("", 0, "", None, 0, 0, [])
    seconds = None if options.minutes is None else options.minutes * 60
    given = (paths, options.seed, options.cases, options.jobs, options.roots, seconds)
    for verdict in run(*given):
        slowest = max(slowest, verdict, key=lambda one: one.seconds)
        largest = max(largest, verdict, key=lambda one: one.memory)
        statuses["wrong" if verdict.wrong else f"exit status {verdict.status}"] += 1
        if verdict.wrong:
            bad.append(verdict)
            print(f"{_named(verdict)}: {verdict.wrong}", flush=True)
            print("   ", " ".join(verdict.damage))
        elif options.heavy and (verdict.seconds > _SECONDS or verdict.memory >> 20 > _MIB):
            print(f"{_named(verdict)}: {verdict.seconds:.1f} s, {verdict.memory >> 20} MiB")
            print("   ", " ".join(verdict.damage), flush=True)
    if options.minimise:
        _minimise(bad, options.jobs or len(os.sched_getaffinity(0)), options.roots)
    told = ", ".join(f"{number} {name}" for name, number in sorted(statuses.items()))
    most = (
        f"the slowest, {_named(slowest)}, took {slowest.seconds:.1f} s, "
        f"the largest, {_named(largest)}, {largest.memory >> 20} MiB"
    )
    done = sum(statuses.values())
    count = f"{done} cases" if done == options.cases else f"{done} of {options.cases} cases"
    print(f"{count}: {told}; {most}")
    return 1 if bad else 0


def _named(verdict: Verdict) -> str:
    return f"{verdict.capture} {verdict.seed}"


def _minimise(bad: Sequence[Verdict], jobs: int, roots: bool) -> None:
    # One of each kind: the others have the same cause.
    for verdicts in by_kind(bad).values():
        first = min(verdicts, key=lambda verdict: len(verdict.damage))
        subject = Subject(captures([first.capture])[0], roots)
        _, least = minimise(subject, first.seed, jobs)
        print(f"smallest: {_named(least)}: {least.wrong}")
        print("   ", " ".join(least.damage), flush=True)


if __name__ == "__main__":
    sys.exit(main())
