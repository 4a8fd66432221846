# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The command that checks
-----------------------

One check, or rounds of them, as the options ask for; a report in every case,
also of a run that was stopped before anything was judged.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Iterator, List, Optional, Sequence, Union

from .arguments import one_of, require
from .command import jobs_code
from .errors import TargetError
from .findings import Finding, Report
from .fleet.baseline import accept, as_baseline
from .fleet.known import Cause, likenesses, read_causes
from .report.output import Progress, check_writable, progress, write_text
from .signals import interruptible, reason_of
from .typed import REPORTS, ReportFile, resolved, spelled
from .unjudged import is_watch, nothing
from .watch import PAUSE, Round, save, watch

if TYPE_CHECKING:
    from drgn import Program

_PICTURE_CELLS = 4096


class Watching:
    """
    Rounds of checks, run as they are asked for.

    :ivar last: The last of them; ``None`` before the first.
    :ivar exit_status: Of all so far: 1 wins over 3, and 3 over 0.
    """

    def __init__(self, prog: Optional[Program], args: argparse.Namespace) -> None:
        self._prog = prog
        self._args = args
        self._reason = ""
        self._causes = None if prog is None else _causes(args)
        self._progress: Optional[Progress] = None
        self.last: Optional[Round] = None
        self.exit_status = 0

    def stop(self, reason: str) -> None:
        """Let it end with the next round."""
        self._reason = reason

    def __iter__(self) -> Iterator[Round]:
        if self._prog is None or self._reason:
            yield self._count(self._stopped(None, self._reason))
            return
        rounds = self._rounds(self._prog)
        ended = False
        while not ended:
            found: Optional[Round] = None
            try:
                # Between two rounds one is written, which is not to be cut off.
                with progress() as self._progress, interruptible():
                    found = next(rounds, None)
            except KeyboardInterrupt as stop:
                found, ended = self._stopped(found, reason_of(stop)), True
            if found is None:
                return
            _complete(self._prog, found.report, self._causes)
            yield self._count(found)

    def _count(self, found: Round) -> Round:
        self.last = found
        statuses = {self.exit_status, found.report.exit_status}
        self.exit_status = next(one for one in (1, 3, 0) if one in statuses)
        return found

    def _show(self, label: str, done: int, total: int) -> None:
        # To the bar of this round: each has one of its own.
        if self._progress is not None:
            self._progress(label, done, total)

    def _rounds(self, prog: Program) -> Iterator[Round]:
        args = self._args
        return watch(
            prog,
            caches=args.cache,
            addresses=[resolved(prog, given) for given in args.address],
            pause=PAUSE if args.watch is None else args.watch,
            rounds=args.rounds,
            until_finding=args.until_finding,
            capture=args.capture,
            progress=self._show,
        )

    def _stopped(self, found: Optional[Round], reason: str) -> Round:
        if found is not None:
            found.report.stop(reason)
            return found
        if self.last is not None:
            return self.last.ended(reason)
        return Round(0, "", nothing(self._args, reason))


def run(prog: Program, args: argparse.Namespace) -> Union[Report, Watching]:
    """Check a kernel, once or in rounds."""
    from .check import check

    files = [*args.report, *([ReportFile("html", args.html)] if args.html else [])]
    causes = _causes(args)
    baseline = [] if args.baseline is None else read_causes(args.baseline)
    if is_watch(args):
        check_writable(args.capture)  # the moment that it is of does not come back
        return Watching(prog, args)
    addresses = [resolved(prog, given) for given in args.address]
    with progress() as show:
        report = check(
            prog,
            caches=args.cache,
            addresses=addresses,
            progress=show,
            jobs=args.jobs,
        )
    try:
        _complete(prog, report, causes)
        if args.baseline is not None:
            accept(report, baseline, whole=not args.cache and not args.address)
        if args.write_baseline is not None:
            _keep(report, baseline, args.write_baseline)
        if args.capture and report.findings and not report.interrupted:
            save(prog, args.capture, report)
        for one in files:
            _save(prog, report, one)
    except KeyboardInterrupt as stop:
        report.stop(reason_of(stop))
    return report


def refuse_rounds(args: argparse.Namespace) -> None:
    """
    Complain about options that rounds of checks do not have.

    :raises TargetError: if one is given.
    """
    names = ("jobs", "html", "report", "baseline", "write_baseline")
    told = [f"--{name.replace('_', '-')}" for name in names if vars(args)[name]]
    if args.format not in ("table", "json"):
        told.append(f"--format {args.format}")
    if told:
        is_or_are = "is" if len(told) == 1 else "are"
        raise TargetError(f"{' and '.join(told)} {is_or_are} for one check, not for rounds of them")


def _keep(report: Report, baseline: Sequence[Cause], path: str) -> None:
    # A baseline of half a check would accept half of what there is.
    try:
        if report.interrupted:
            raise TargetError(f"{path}: the check ended early")
        write_text(as_baseline(report, baseline), path)
    except TargetError as error:
        message = f"{error}: the baseline was not written"
        report.notes.append(Finding("not-saved", message, place=path))


def _causes(args: argparse.Namespace) -> Optional[List[Cause]]:
    return None if args.known is None else read_causes(args.known)


def _complete(prog: Program, report: Report, causes: Optional[List[Cause]]) -> None:
    # What is known of the file, and of others like it, which a check does not know of.
    from .target import describe, shortfall

    if causes is not None:
        report.looks_like = likenesses(causes, report.findings)
    report.target = describe(prog)
    missing = shortfall(prog)
    if missing is not None and missing not in report.unavailable:
        report.unavailable.insert(0, missing)


def _save(prog: Program, report: Report, file: ReportFile) -> None:
    # What was found counts, whatever becomes of the file.
    if file.format == "html" and report.interrupted:
        return
    try:
        write_report(prog, report, *file)
    except TargetError as error:
        message = f"{error}: the report is not in this file"
        report.notes.append(Finding("not-saved", message, place=file.path))


def write_report(prog: Program, report: Report, format: str, path: str) -> None:
    """
    Write the report of a check to a file, whole or not at all.

    >>> write_report(prog, check(prog), "json", "report.json")

    :param report: Of a check of *prog*.
    :param format: ``json``, ``junit``, ``html``, ``text``, ``github`` or ``gitlab``.
    :param path: The file; ``-`` for standard output.
    :raises ArgumentError: if there is no such format.
    :raises TargetError: if the file cannot be written.
    """
    from .report import present

    one_of("format", format, REPORTS)
    require("report", report, Report)
    if format == "html":
        write_html(prog, report, path)
        return
    write_text(present("check", report, "table" if format == "text" else format), path)


def write_html(prog: Program, report: Report, path: str) -> None:
    """
    Write a page with a report, a map of memory and charts of the caches.

    >>> write_html(prog, check(prog), "report.html")

    :param report: Of a check of *prog*.
    :param path: The file; ``-`` for standard output.
    :raises TargetError: if the file cannot be written.
    """
    from .pages.census import census
    from .report import html

    require("report", report, Report)

    with progress() as show:
        found = census(prog, show, cells=_PICTURE_CELLS)
    write_text("".join(html.check(report, found)), path)


def stopped(args: argparse.Namespace, records: Any, reason: str) -> Union[Report, Watching]:
    """Return what a check comes to that was stopped before it was presented."""
    if records is None:
        records = Watching(None, args)
    records.stop(reason)
    stopped: Union[Report, Watching] = records
    return stopped


def code(args: argparse.Namespace) -> str:
    """Return the Python code that does the same."""
    given: List[str] = []
    if args.cache:
        given.append(f"caches={args.cache!r}")
    if args.address:
        given.append(f"addresses=[{', '.join(map(spelled, args.address))}]")
    checked = f"report = check({', '.join(['prog', *given])}{jobs_code(args)})\n"
    names = {"check"}
    if is_watch(args) or args.capture or args.max_time is not None:
        rounds = args.rounds if is_watch(args) else 1
        options = {
            "pause": args.watch,
            "rounds": rounds,
            "until_finding": args.until_finding or None,
            "max_time": args.max_time,
            "capture": args.capture,
        }
        given += [f"{name}={value!r}" for name, value in options.items() if value is not None]
        checked = f"for round in watch({', '.join(['prog', *given])}):\n    report = round.report\n"
        names = {"watch"}
    names |= {*_KNOWN} if args.known else set()
    if is_watch(args):
        known = _known_code(args, "    ")
        shown = f"{_OF_ROUND}{known}"
        if args.format == "json":
            names.add("as_json")
            shown = f'{known}    print(as_json(round), end="")\n'
        return f"from drgn_slabtype import {', '.join(sorted(names))}\n\n{checked}{shown}"
    files = [*args.report, *([ReportFile("html", args.html)] if args.html else [])]
    files += [] if args.format == "table" else [ReportFile(args.format, "-")]
    accepting = _baseline_code(args)
    accepted = _accepted_code(args)
    used = "accept", "as_baseline", "read_causes", "write_text"
    names |= {name for name in used if f"{name}(" in accepting + accepted}
    names |= {"write_report"} if files else set()
    written = "".join(f"write_report(prog, report, {f.format!r}, {f.path!r})\n" for f in files)
    told = _OF_REPORT if args.format == "table" else ""
    return f"""\
from drgn_slabtype import {", ".join(sorted(names))}

{checked}{accepting}{told}{_known_code(args, "")}{accepted}{written}"""


def _baseline_code(args: argparse.Namespace) -> str:
    if args.baseline is None and args.write_baseline is None:
        return ""
    whole = not args.cache and not args.address
    read = "[]" if args.baseline is None else f"read_causes({args.baseline!r})"
    lines = [f"baseline = {read}"]
    if args.baseline is not None:
        lines.append(f"accept(report, baseline{'' if whole else ', whole=False'})")
    return "".join(f"{line}\n" for line in lines)


def _accepted_code(args: argparse.Namespace) -> str:
    # Behind the verdict, which counts also if the file cannot be written.
    if args.write_baseline is None:
        return ""
    return f"write_text(as_baseline(report, baseline), {args.write_baseline!r})\n"


_KNOWN = ("likenesses", "read_causes")

_OF_REPORT = """\
for one in [*report.findings, *report.accepted, *report.unavailable, *report.changing]:
    print(one.message)
for note in report.notes:
    print(note.message)
print(report.outcome.value, report.totals.objects)
"""

_OF_ROUND = """\
    for change in ("new", "still", "gone"):
        for finding in getattr(round, change):
            print(change, finding.message)
    print(round.number, round.time, report.outcome.value, round.capture)
"""


def _known_code(args: argparse.Namespace, indent: str) -> str:
    if not args.known:
        return ""
    every = "report.findings"
    if args.baseline is not None:
        every = f"[*{every}, *report.accepted]"
    lines = [f"report.looks_like = likenesses(read_causes({args.known!r}), {every})"]
    if args.format == "table":
        lines += ["for one in report.looks_like:", "    print(one.name, one.text)"]
    return "".join(f"{indent}{line}\n" for line in lines)
