# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m tests.fuzz.files``: look for inputs that a reader of files cannot take."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Optional, Sequence

from .corpus import CORPUS, fewest, load, save
from .loop import grow
from .readers import READERS


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Try inputs; the exit status is 1 if something goes wrong of one."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.files", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for each reader (default: 60)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="where inputs are kept")
    parser.add_argument(
        "--reader", action="append", default=[], choices=READERS, help="only this one"
    )
    options = parser.parse_args(arguments)
    status = 0
    for name in options.reader or READERS:
        found = grow(name, load(name, options.corpus), options.seconds, options.seed)
        for wrong in found.wrong.values():
            status = 1
            print(f"{name}: {wrong.what}\n    {wrong.data[:512].hex()}", flush=True)
        # What went wrong stays, so that it is tried for as long as there are tests.
        inputs = [wrong.data for wrong in found.wrong.values()] + fewest(found.inputs.items())
        kept = save(name, inputs, options.corpus)
        ways = len(found.seen)
        print(f"{name}: {found.tried} inputs, {ways} ways, {kept} inputs kept", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
