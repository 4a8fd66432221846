# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m tests.recipes CORE VMLINUX``: which damage does a check of this kernel find?"""

from __future__ import annotations

import argparse
import json
import sys
from typing import List, Optional

from .library import TargetError, TargetOptions, open_target
from .runner import OUTCOMES, Result, run
from .suites import suite_of


def main(arguments: Optional[List[str]] = None) -> int:
    """Apply recipes, print what became of them, and return 1 if a check failed one."""
    parser = argparse.ArgumentParser(prog="python -m tests.recipes", description=__doc__)
    parser.add_argument("core", metavar="CORE", help="a dump or capture")
    parser.add_argument("symbols", metavar="VMLINUX", nargs="*", help="debug info of a dump")
    parser.add_argument("-r", "--recipe", action="append", default=[], help="apply only this one")
    parser.add_argument("-j", "--jobs", type=int, help="how many at a time (default: CPUs)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="name found ones too")
    options = parser.parse_args(arguments)
    target = TargetOptions(core=options.core, symbols=options.symbols, default_symbols=False)
    try:
        prog = open_target(target)
    except TargetError as error:
        parser.error(str(error))
    suite = suite_of(prog)
    unknown = set(options.recipe) - set(suite.recipes) - set(suite.states)
    if unknown:
        parser.error(f"no recipe for {suite.allocator}: {', '.join(sorted(unknown))}")
    results = []
    for result in run(prog, suite, options.recipe, options.jobs):
        results.append(result)
        if not options.json:
            _print(result, options.verbose)
    if options.json:
        json.dump([result.record() for result in results], sys.stdout, indent=1)
        print()
    else:
        counts = dict.fromkeys(OUTCOMES, 0)
        for result in results:
            counts[result.outcome] += 1
        told = ", ".join(f"{number} {name}" for name, number in counts.items())
        false = sum(result.false for result in results)
        print(f"{len(results)} recipes: {told}; {false} false")
    return 0 if all(result.good for result in results) else 1


def _print(result: Result, verbose: bool) -> None:
    noisy = result.outcome in ("missed", "pending") or result.strays
    if not (noisy or verbose):
        return
    print(f"{result.outcome:10} {result.name} ({result.code or 'no finding'})", flush=True)
    for reason in result.reasons:
        print(f"           - {reason}")
    for stray in result.strays:
        print(f"           + {stray}")


if __name__ == "__main__":
    sys.exit(main())
