# SPDX-License-Identifier: LGPL-2.1-or-later
"""One variant, checked as the command line does it, and what is wrong with the answer."""

from __future__ import annotations

import os
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

from drgn import FaultError

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.errors import SlabTypeError
from drgn_slabtype.findings import CacheResult, Report
from drgn_slabtype.report import present
from drgn_slabtype.target import (
    TargetOptions,
    describe,
    nothing_judged,
    open_target,
    shortfall,
)

from ..recipes.apart import apart
from .files import Dump
from .memory import Areas
from .variants import WAYS, Variant, variant


class Verdict(NamedTuple):
    """What became of one variant."""

    variant: Variant
    status: Optional[int]
    line: str
    """What is said of it, first."""
    wrong: List[str]
    seconds: float


class Whole:
    """
    A dump, and what is said of it when nothing is amiss.

    :param symbols: Files with debug info.
    :param capture: Whether it is a capture, whose pages are told apart by virtual address.
    :param ways: Of :data:`.variants.WAYS`.
    """

    def __init__(
        self,
        dump: Dump,
        symbols: Sequence[str] = (),
        capture: bool = False,
        ways: Sequence[str] = WAYS,
    ) -> None:
        self.dump, self._ways = dump, ways
        self._symbols = symbols
        # What a library does with threads is not done before a process is forked.
        ((answer, trouble),) = apart([lambda: self._look(capture)], 1)
        assert answer is not None, trouble
        self.areas, self._moving, self._caches = answer

    def _look(self, capture: bool) -> Tuple[Areas, Set[Any], Dict[int, CacheResult]]:
        path = self.dump.path
        prog = open_capture(str(path)) if capture else open_target(self._options(path))
        areas = Areas(prog, self.dump.pages(), capture)
        report = check(prog)
        assert not report.findings, "this dump is damaged"
        moving = {finding.key() for finding in report.changing}
        return areas, moving, {result.address: result for result in report.caches}

    def _options(self, path: Path) -> TargetOptions:
        return TargetOptions(core=str(path), symbols=self._symbols, default_symbols=False)

    def variant(self, seed: int) -> Variant:
        """Return the variant of a number."""
        return variant(self.dump, self.areas, seed, self._ways)

    def judge(self, seed: int) -> Verdict:
        """Check one variant."""
        tried = self.variant(seed)
        begun = time.monotonic()
        status: Optional[int] = None
        with tempfile.NamedTemporaryFile(dir=os.environ.get("TMPDIR", "/dev/shm")) as file:
            tried.write(self.dump, Path(file.name))
            try:
                prog = open_target(self._options(Path(file.name)))
                report = check(prog)
                report.target = describe(prog)
                missing = shortfall(prog)
                if missing is not None:
                    report.unavailable.insert(0, missing)
                "".join(present("check", report, "json"))
                status, wrong = report.exit_status, self._wrong(report, tried)
                line = next((one.message for one in report.unavailable), "")
            except FaultError as error:
                # As for the command line.
                status, line = 2, nothing_judged(prog, error)
                wrong = [] if _refused(tried, line) else [line]
            except SlabTypeError as error:
                status, line = 2, str(error)
                wrong = [] if _refused(tried, line) else [line]
            except Exception as error:
                line, wrong = "", [f"{type(error).__name__}: {error}; {_where(error)}"]
        return Verdict(tried, status, line, wrong, time.monotonic() - begun)

    def _wrong(self, report: Report, tried: Variant) -> List[str]:
        wrong = [f"finding {one.code}: {one.message}" for one in report.findings]
        wrong += [
            f"changing {one.code}: {one.message}"
            for one in report.changing
            if one.key() not in self._moving
        ]
        if tried.way == "cut" and not any("truncated" in one.message for one in report.unavailable):
            wrong.append("does not say that it is truncated")
        excused = {one.cache for one in report.unavailable}
        wide = None in excused
        found: Dict[int, CacheResult] = {result.address: result for result in report.caches}
        silent: Set[str] = set()
        for address, whole in self._caches.items():
            result = found.get(address)
            # Its name may be what is missing.
            names = {whole.name, whole.name if result is None else result.name}
            if names & excused or (wide and result is None):
                continue
            if result is None or (_numbers(result) != _numbers(whole) and not wide):
                silent.add(whole.name)
        if silent:
            wrong.append(f"{len(silent)} caches differ and nothing is missing: {min(silent)}")
        if not wrong and report.exit_status not in (0, 3):
            wrong.append(f"exit status {report.exit_status}")
        return wrong


def _numbers(result: CacheResult) -> object:
    return result.slabs, result.objects, result.counted, result.in_use, result.free, result.waiting


def _refused(tried: Variant, line: str) -> bool:
    # Whether a file may be refused, and that was told in one line.
    if "\n" in line:
        return False
    return tried.way != "cut" or any(word in line for word in ("truncated", "empty", "cut off"))


def _where(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "drgn_slabtype" in frame.filename] or frames
    return " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in ours[::-1][:4])
