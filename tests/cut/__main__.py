# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m tests.cut``: check variants of a dump that lack something."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Optional, Sequence

from ..recipes.apart import apart
from .case import Whole
from .files import Dump, ElfDump, KdumpDump, to_kdump


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Check the variants; the exit status is 1 if one of them went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.cut", description=__doc__)
    parser.add_argument("dump", type=Path, help="ELF core of a sound kernel")
    parser.add_argument("symbols", nargs="*", help="its vmlinux")
    parser.add_argument("--seed", type=int, default=1, help="number of the first (default: 1)")
    parser.add_argument("--cases", type=int, default=100, help="of each format (default: 100)")
    parser.add_argument("--format", action="append", choices=("elf", "kdump"), help="default: both")
    parser.add_argument("-j", "--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("-v", "--verbose", action="store_true", help="tell of each what is said")
    options = parser.parse_args(arguments)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in options.format or ("elf", "kdump"):
            dump: Dump = ElfDump(options.dump)
            if name == "kdump":
                path = Path(folder) / "vmcore.kdump"
                to_kdump(options.dump, path)
                dump = KdumpDump(path)
            bad += _run(Whole(dump, options.symbols), options)
    return 1 if bad else 0


def _run(whole: Whole, options: argparse.Namespace) -> int:
    seeds = range(options.seed, options.seed + options.cases)
    works = [lambda seed=seed: whole.judge(seed) for seed in seeds]
    told: Counter[str] = Counter()
    bad, slowest = 0, 0.0
    for seed, (verdict, trouble) in zip(seeds, apart(works, options.jobs)):
        if verdict is None:
            tried, wrong, status = whole.variant(seed), [trouble.strip()], None
            line = ""
        else:
            tried, wrong, status = verdict.variant, verdict.wrong, verdict.status
            line, slowest = verdict.line, max(slowest, verdict.seconds)
        told["wrong" if wrong else f"exit status {status}"] += 1
        bad += bool(wrong)
        if wrong or options.verbose:
            print(f"{whole.dump.name} {tried}: {status} {line}", flush=True)
            for one in wrong[:6]:
                print("   ", one, flush=True)
    sums = ", ".join(f"{number} {name}" for name, number in sorted(told.items()))
    print(f"{whole.dump.name}: {len(seeds)} variants: {sums}; the slowest took {slowest:.1f} s")
    return bad


if __name__ == "__main__":
    sys.exit(main())
