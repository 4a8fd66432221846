# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m tests.mutate CORE VMLINUX``: which words can be overwritten in silence?"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from typing import Any, Dict, List, Optional

from drgn_slabtype.errors import TargetError
from drgn_slabtype.target import TargetOptions, open_target

from .run import Result, Subject
from .table import by_chance, counts, page, text, unexplained


def main(arguments: Optional[List[str]] = None) -> int:
    """Change words, print what became of them, and return 1 if one is silent without a reason."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutate", description=__doc__)
    parser.add_argument("core", metavar="CORE", nargs="?", help="a dump or capture")
    parser.add_argument("symbols", metavar="VMLINUX", nargs="*", help="debug info of a dump")
    parser.add_argument("--cache", action="append", default=[], metavar="NAME", help="of this one")
    parser.add_argument("--caches", type=int, default=3, help="how many caches (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="of what is chosen (default: 1)")
    parser.add_argument("--sample", type=int, help="only so many words")
    parser.add_argument("--only", default="", help="words whose name has this in it")
    parser.add_argument("--prove", type=int, default=0, help="compare so many with whole checks")
    parser.add_argument("-j", "--jobs", type=int, help="how many at a time (default: CPUs)")
    parser.add_argument("--json", metavar="FILE", help="write all results there")
    parser.add_argument("--page", nargs="+", metavar="FILE", help="print docs/mutations.md instead")
    options = parser.parse_args(arguments)
    if options.page:
        print("\n".join(page({_name(file): json.loads(_text(file)) for file in options.page})))
        return 0
    if options.core is None:
        parser.error("the following arguments are required: CORE")
    target = TargetOptions(core=options.core, symbols=options.symbols, default_symbols=False)
    try:
        prog = open_target(target)
    except TargetError as error:
        parser.error(str(error))
    jobs = options.jobs or len(os.sched_getaffinity(0))
    subject = Subject(prog, options.seed, options.cache, options.caches)
    some = subject.words if options.sample is None else subject.sample(options.sample)
    some = [word for word in some if options.only in word.name]
    results = list(subject.run(some, jobs))
    records = [result.record() for result in results]
    if options.json:
        with open(options.json, "w") as file:
            json.dump(_record(options, subject, records), file, indent=1)
    print("\n".join(text(records)))
    bad = unexplained(records)
    bad += _differences(subject, results, options.prove, jobs)
    for line in bad:
        print(line)
    return 1 if bad else 0


def _name(file: str) -> str:
    return os.path.splitext(os.path.basename(file))[0]


def _text(file: str) -> str:
    with open(file) as opened:
        return opened.read()


def _record(options: Any, subject: Subject, records: List[Dict[str, Any]]) -> Dict[str, Any]:
    return {
        "schema": 1,
        "core": os.path.basename(os.path.dirname(os.path.abspath(options.core))),
        "release": subject.prog["UTS_RELEASE"].string_().decode(),
        "seed": options.seed,
        "caches": subject.caches,
        "totals": dict(counts(records)),
        "unexplained": unexplained(records),
        "by_chance": by_chance(records),
        "words": records,
    }


def _differences(subject: Subject, results: List[Result], count: int, jobs: int) -> List[str]:
    # What a check of the whole machine, asked first of all, says differently.
    every = [
        (result, name)
        for result in results
        for name, outcome in result.outcomes.items()
        if outcome != "same"
    ]
    some = random.Random(subject.seed).sample(every, min(count, len(every)))
    told = subject.prove([(result.word, name) for result, name in some], jobs)
    found = [
        f"{result.word.name} {name}: {result.outcomes[name]} by its cache, {whole} by the machine"
        for (result, name), whole in zip(some, told)
        if whole != result.outcomes[name]
    ]
    if some:
        print(f"{len(some)} compared with a check of the whole machine: {len(found)} differ")
    return found


if __name__ == "__main__":
    sys.exit(main())
