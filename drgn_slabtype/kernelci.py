# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``kernel-ci``
-------------

What a job of a kernel's CI does with one dump: check it, keep the reports in every
form that somebody reads, and say in a few lines what to do. Made of nothing that the
command line does not have.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

_REPORTS = (
    ("json", "slab.json"),
    ("junit", "slab.xml"),
    ("gitlab", "slab-quality.json"),
    ("text", "slab.txt"),
)
_FINDINGS, _FAULT, _INCOMPLETE = 1, 2, 3


def main(argv: Optional[Sequence[str]] = None) -> int:
    """
    Check a dump for a job, and write the reports to a folder.

    :param argv: Arguments without the program's name; those of the process if ``None``.
    :return: Exit status: 0 go on, 1 the kernel's slab structures are inconsistent, 2 the
        job itself is at fault.
    """
    args = _parser().parse_args(argv)
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        for _, name in _REPORTS:
            # Of a run before this one: nobody is to take it for what was found now.
            (args.folder / name).unlink(missing_ok=True)
    except OSError as error:
        print(f"kernel-ci: {args.folder}: {error.strerror}", file=sys.stderr)
        return _FAULT
    status = _check(args)
    if status not in (_FINDINGS, _INCOMPLETE):
        return status
    try:
        report = json.loads((args.folder / "slab.json").read_text(encoding="utf-8"))
    except OSError:
        # It could not be written, which the check has said.
        return status if status == _FINDINGS else _FAULT
    return _finish(args, report, status)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kernel-ci",
        description="Check one dump for a kernel's CI: writes "
        + ", ".join(name for _, name in _REPORTS)
        + " to FOLDER. Exit status 0: go on; 1: the kernel's slab structures are inconsistent; "
        "2: the job itself is at fault.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="folder for the reports")
    parser.add_argument("core", metavar="VMCORE", help="the dump, or a capture of it")
    parser.add_argument("symbols", metavar="VMLINUX", nargs="*", help="with debug info")
    parser.add_argument("--baseline", metavar="FILE", help="accept the findings that this file has")
    return parser


def _check(args: argparse.Namespace) -> int:
    from .cli import main as run

    options = [word for path in args.symbols for word in ("-s", path)]
    options += ["--baseline", args.baseline] if args.baseline else []
    for format, name in _REPORTS:
        options += ["--report", f"{format}={args.folder / name}"]
    shown = os.environ.get("GITHUB_ACTIONS") == "true"
    output = sys.stdout if shown else io.StringIO()
    with contextlib.redirect_stdout(output):
        return run(["check", "-c", args.core, *options, "--format", "github" if shown else "table"])


def _finish(args: argparse.Namespace, report: Dict[str, Any], status: int) -> int:
    if status == _FINDINGS:
        # What follows from them is in the reports.
        roots = [found for found in report["findings"] if found["because"] is None]
        for found in roots:
            print(f"{found['code']}: {found['message']}")
        return status
    if report["interrupted"]:
        print(f"the check was ended before it was done: {report['stopped']}")
        return _FAULT
    # A filtered or cut dump: not a verdict on the kernel, but worth a line.
    print(f"the dump is incomplete; see unavailable in {args.folder / 'slab.json'}")
    return 0
