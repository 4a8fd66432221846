# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Write docs/findings.md from the catalogue of codes.

usage: python scripts/explanations.py [--check]

With --check nothing is written, and the exit status is 1 if the file would change.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Iterator

from drgn_slabtype.answers.explanations import Explanation, explain
from drgn_slabtype.codes import FAMILIES
from drgn_slabtype.report.views.codes import told

PAGE = Path(__file__).parents[1] / "docs" / "findings.md"

INTRODUCTION = """\
# Findings

What each code says, what the kernel promises, what usually breaks that, and where to look next.
`drgn-slabtype explain CODE` prints the same, `drgn-slabtype explain` the list. A finding whose
`because` is null is a root; the others follow from the root they name. `drgn-slabtype object
ADDRESS` tells what an address is and who says so; `drgn-slabtype check --cache NAME` reads one
cache again. What a finding has for scripts stands in [json.md](json.md#finding).

In `changing` stands what the kernel was doing when it was stopped or read: a held lock, a slab
between two lists, an array being emptied; with [who was at it](invariants.md#who-is-at-work), or
why that is not known. In `unavailable` stands what could not be judged because memory is missing
from the dump, was left out of a capture, or hangs on damage told elsewhere.

What was written past the end of something runs on, and shows in many findings. Where damage
of words, objects, slabs or struct pages touches, each of these findings has the whole stretch
(`stretches`), and the first tells it: from where to where, what it holds, and what lies directly
before and after it. `it begins in` names the object in use in whose own memory it begins, which is
the likely writer; else that is what lies before it.

This page is written by `scripts/explanations.py`, from the texts in `drgn_slabtype/codes/`.
"""

ABOUT = {
    "content": "A finding tells every range of an object's bytes that is not what it must be, "
    "with what is there: text, a pointer and what it leads to, an empty list head. Ranges are "
    "apart if at least 8 sound bytes lie between them.",
    "page": "These are about all of memory, and are judged when a whole machine that does not "
    "move is checked.",
}


def page() -> str:
    """Return what docs/findings.md has to be."""
    return "\n".join([INTRODUCTION, *_families()])


def _families() -> Iterator[str]:
    for family, title in FAMILIES.items():
        yield f"## {title}\n"
        if family in ABOUT:
            yield f"{ABOUT[family]}\n"
        for code in explain(family):
            yield from _section(code)


def _section(code: Explanation) -> Iterator[str]:
    yield f"### {code.code}\n"
    for heading, parts in told(code):
        if not heading:
            yield f"{parts[0]}\n"
        elif len(parts) == 1:
            yield f"**{heading}**: {parts[0]}\n"
        else:
            yield f"**{heading}**:\n"
            yield from (f"- {part}" for part in parts)
            yield ""


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description="write docs/findings.md")
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    args = parser.parse_args()
    text = page()
    if args.check and PAGE.read_text(encoding="utf-8") != text:
        print("docs/findings.md is out of date: run scripts/explanations.py", file=sys.stderr)
        return 1
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
