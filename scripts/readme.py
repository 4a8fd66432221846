# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Run the examples of README.md and docs/questions.md and write their output into them.

usage: python scripts/readme.py [--check] [--capture PATH]

Console examples on "-c vmcore -s vmlinux" run on a capture of that vmcore, the
one that ships with the package unless another is given; those on other dumps on
captures that the tests have. With --check nothing is written, and the exit status
is 1 if a file would change.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import re
import shlex
import sys
from pathlib import Path
from typing import List

from drgn_slabtype.capture import open_capture
from drgn_slabtype.cli import main as run

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/questions.md")
TARGET = "-c vmcore -s vmlinux"
OTHERS = {
    "-c debug.vmcore -s vmlinux": "debian-7-debug/capture.xz",
    "-c overrun.vmcore -s vmlinux": "broken/slub-6.1-plain-P-overflow-word.xz",
}
# What differs from machine to machine, or with every way to read less.
VARYING = re.compile(r"read [\d.]+ [KMG]iB in \d+ reads|[\d.]+ [KMG]iB of memory taken")


def embedded_capture() -> Path:
    """Return the capture with the RFC v3 layout that ships with the package."""
    (found,) = (ROOT / "drgn_slabtype" / "captures").glob("*rfc*")
    return found


def console(block: str, capture: Path) -> str:
    """Return a console example with the output that its commands have now."""
    lines: List[str] = []
    for line in block.splitlines():
        if not line.startswith("$ "):
            continue
        output = io.StringIO()
        command = line[2:].replace(TARGET, f"-c {shlex.quote(str(capture))}")
        for target, path in OTHERS.items():
            there = ROOT / "tests" / "captures" / path
            command = command.replace(target, f"-c {shlex.quote(str(there))}")
        with contextlib.redirect_stdout(output):
            run(shlex.split(command)[1:])
        lines += [line, *output.getvalue().splitlines()]
    return "".join(f"{line}\n" for line in lines)


def generate(text: str, capture: Path) -> str:
    """Return the text with the output of all console examples renewed."""
    return re.sub(
        r"(?<=^```console\n).*?(?=^```$)",
        lambda match: console(match.group(), capture),
        text,
        flags=re.MULTILINE | re.DOTALL,
    )


def python_failures(text: str, capture: Path) -> int:
    """Return how many of the Python examples give another answer than they show."""
    runner = doctest.DocTestRunner()
    for block in re.findall(r"^```pycon\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        names = {"prog": open_capture(str(capture))}
        runner.run(doctest.DocTestParser().get_doctest(block, names, "README.md", None, 0))
    return runner.summarize(verbose=False).failed


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description="run the examples of README.md")
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    parser.add_argument("--capture", type=Path, help="capture of the vmcore of the examples")
    args = parser.parse_args()
    capture = args.capture or embedded_capture()
    return max(renew(ROOT / page, capture, args.check) for page in PAGES)


def renew(page: Path, capture: Path, check: bool) -> int:
    """
    Run the examples of one page, and write it unless it is only to be checked.

    :return: 1 if it is not what the program prints, else 0.
    """
    text = page.read_text(encoding="utf-8")
    generated = generate(text, capture)
    if python_failures(text, capture):
        return 1
    same = VARYING.sub("", generated) == VARYING.sub("", text)
    if not check and not same:
        page.write_text(generated, encoding="utf-8")
    elif not same:
        print(f"{page.name} is out of date: run python scripts/readme.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
