# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Judging one dump
----------------

What is done for each dump, wherever it is done: a job goes in and a verdict
comes out, both plain enough to travel.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Dict, Iterator, List, Optional, Type, TypeVar

from drgn import FaultError, Program

from .. import __version__
from ..capture import is_capture
from ..check import check
from ..errors import SlabTypeError
from ..findings import Finding, Outcome, Report
from ..machine import machine
from ..report.members import document
from ..signature import Signature
from ..target import TargetOptions, describe, nothing_judged, open_target, shortfall
from .saved import is_report, read_report

_KEPT = 20  # signatures of one dump, and roots that are told in words
_CRASH_TIME = re.compile(rb"^CRASHTIME=(\d+)$", re.MULTILINE)

T = TypeVar("T", bound="Plain")


class Plain:
    """A record that travels as JSON."""

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))  # type: ignore[call-overload]

    @classmethod
    def from_json(cls: Type[T], text: str) -> T:
        """
        Return what a line holds.

        :raises ValueError: if it makes no sense.
        """
        told = json.loads(text)
        known = {one.name for one in fields(cls)}  # type: ignore[arg-type]
        try:
            return cls(**{name: here for name, here in told.items() if name in known})
        except (AttributeError, TypeError) as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True)
class Job(Plain):
    """A dump that is to be judged."""

    number: int
    path: str
    size: int = 0
    modified: int = 0
    symbols: Optional[str] = None
    """File with the paths of debug info by build ID, as JSON."""
    default_symbols: bool = True
    """Whether to look for debug info where drgn does."""
    captures: Optional[str] = None
    """Folder that a capture is written to if anything is found."""
    max_time: Optional[float] = None
    """Seconds that it may take."""
    max_memory: Optional[int] = None
    """Bytes that it may take."""


@dataclass
class Verdict(Plain):
    """What became of a job."""

    number: int
    version: str = __version__
    """Of this package, where it was done."""
    outcome: Optional[str] = None
    """Of the check; ``None`` if nothing was judged."""
    why: Optional[str] = None
    """Why nothing, or not all, was judged."""
    limit: Optional[str] = None
    """``time`` or ``memory`` if it took too much of it, ``died`` if its process died."""
    kind: Optional[str] = None
    release: Optional[str] = None
    architecture: Optional[str] = None
    allocator: Optional[str] = None
    layout: Optional[str] = None
    seen: Optional[int] = None
    """When the kernel crashed, in seconds, if the dump tells."""
    findings: int = 0
    """How many, consequences included."""
    roots: List[Dict[str, Any]] = field(default_factory=list)
    """Some of the root findings, as in a report."""
    signatures: List[Dict[str, Any]] = field(default_factory=list)
    """Of the root findings, each once."""
    capture: Optional[str] = None
    seconds: float = 0.0
    memory: int = 0
    """Bytes that its process took at its peak."""
    worker: Optional[str] = None
    """Host and process that judged it."""


def judge(job: Job) -> Verdict:
    """Judge a dump, in this process; what goes wrong is said in the verdict."""
    verdict = Verdict(job.number)
    started = time.monotonic()
    try:
        _judge(job, verdict, started)
    except FaultError as error:
        verdict.why = str(error)
    except OSError as error:
        told = " ".join((error.strerror or str(error)).split())
        verdict.why = f"{error.filename or job.path}: {told.lower()}"
    except SlabTypeError as error:
        verdict.why = " ".join(str(error).split())
    except MemoryError:
        verdict.why, verdict.limit = "ran out of memory", "memory"
    except Exception as error:
        verdict.why = f"{type(error).__name__}: {' '.join(str(error).split())}"
    verdict.seconds = round(time.monotonic() - started, 3)
    return verdict


def _judge(job: Job, verdict: Verdict, started: float) -> None:
    if is_report(job.path):
        for name, told in read_report(job.path).items():
            setattr(verdict, name, told)
        del verdict.roots[_KEPT:], verdict.signatures[_KEPT:]
        return
    prog = open_target(
        TargetOptions(
            core=job.path,
            default_symbols=job.default_symbols,
            find_symbols=None if job.symbols is None else lambda wanted: _find(job, wanted),
        )
    )
    deadline = None if job.max_time is None else started + job.max_time
    with machine(prog).memory.until(deadline):
        try:
            report = check(prog)
        except FaultError as error:
            verdict.why = nothing_judged(prog, error)
            _tell_target(prog, verdict)
            return
    report.target = describe(prog)
    missing = shortfall(prog)
    if missing is not None and missing not in report.unavailable:
        report.unavailable.insert(0, missing)
    _tell_target(prog, verdict)
    _tell(report, verdict)
    if report.findings and job.captures is not None:
        verdict.capture = _keep(prog, job, verdict)


def _find(job: Job, wanted: str) -> Optional[str]:
    assert job.symbols is not None
    with open(job.symbols, encoding="utf-8") as file:
        found: Optional[str] = json.load(file).get(wanted)
    return found


def _tell_target(prog: Program, verdict: Verdict) -> None:
    target = describe(prog)
    verdict.kind, verdict.release = target.kind, target.release
    verdict.architecture = target.architecture
    with contextlib.suppress(LookupError):
        told = _CRASH_TIME.search(prog["VMCOREINFO"].string_())
        verdict.seen = int(told[1]) if told else None


def _tell(report: Report, verdict: Verdict) -> None:
    verdict.outcome = report.outcome.value
    verdict.allocator, verdict.layout = report.layout.allocator, report.layout.page_type
    if report.outcome is Outcome.INCOMPLETE or report.interrupted:
        verdict.why = "; ".join(_reasons(report)) or None
        verdict.limit = "time" if report.stopped == "time" else None
    verdict.findings = len(report.findings)
    roots = [finding for finding in report.findings if finding.because is None]
    verdict.roots = [_root(finding) for finding in roots[:_KEPT]]
    known: Dict[str, Signature] = {}
    for finding in roots:
        if finding.signature is not None:
            known.setdefault(finding.signature.id, finding.signature)
    verdict.signatures = [document(known[id]) for id in sorted(known)[:_KEPT]]


def _reasons(report: Report) -> Iterator[str]:
    if report.interrupted:
        yield "it took longer than it may" if report.stopped == "time" else "it was stopped"
    yield from (finding.message for finding in report.unavailable[:1])
    if len(report.unavailable) > 1:
        yield f"{len(report.unavailable) - 1} more parts not judged"


def _root(finding: Finding) -> Dict[str, Any]:
    told = document(finding)
    told["signature"] = finding.signature and finding.signature.id
    return told


def _keep(prog: Program, job: Job, verdict: Verdict) -> Optional[str]:
    # A capture beside the results; of a capture, the file itself will do.
    if is_capture(job.path):
        return job.path
    from ..capture import write_capture

    assert job.captures is not None
    path = os.path.join(job.captures, f"{job.number:06}.xz")
    try:
        os.makedirs(job.captures, exist_ok=True)
        # Another process may be at the same dump, if this one was given up for dead.
        with tempfile.TemporaryDirectory(prefix=".", dir=job.captures) as folder:
            part = os.path.join(folder, "capture.xz")
            write_capture(prog, part)
            os.replace(part, path)
    except (OSError, FaultError, LookupError, SlabTypeError) as error:
        verdict.why = f"the capture was not written: {' '.join(str(error).split())}"
        return None
    return path
