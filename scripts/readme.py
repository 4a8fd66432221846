# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Run the examples of README.md and of the pages in docs/, and write their output into them.

usage: python scripts/readme.py [--check] [PAGE ...]

Examples are run on captures that the tests have; see examples.py. docs/commands.md
is written from the table of commands. With --check nothing is written, and the exit
status is 1 if a page would change.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import reference
from examples import ROOT, difference, pages, renewed


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description="renew the examples of README.md and docs/")
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    parser.add_argument("page", nargs="*", type=Path, help="only these (default: all)")
    args = parser.parse_args()
    chosen = [page.resolve() for page in args.page] or [reference.PAGE, *pages()]
    return max([renew(page, args.check) for page in dict.fromkeys(chosen)])


def renew(page: Path, check: bool) -> int:
    """
    Write one page as it has to be, unless it is only to be checked.

    :return: 1 if it is not what the program prints, else 0.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    wanted = reference.page() if page == reference.PAGE else renewed(text)
    changes = difference(text, wanted)
    if not changes:
        return 0
    name = page.relative_to(ROOT)
    if check:
        told = [f"{name} is out of date: run python scripts/readme.py {name}", *changes]
        print(*told, sep="\n", file=sys.stderr)
        return 1
    page.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
