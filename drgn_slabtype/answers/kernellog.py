# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the kernel has said itself
-------------------------------

Reports of damage in the kernel's log, by the allocators and their debugging,
list debugging, the page allocator, KASAN and KFENCE, and what tainted it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from typing import Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from drgn import FaultError, ObjectAbsentError, Program
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.printk import get_printk_records

from ..findings import Finding, KernelReport, KernelState
from ..machine import Machine

_LINES = 40  # after the first that belong to a report
_MOST_REPORTS = 1000
_MOST_TOLD = 20  # in a note

# include/linux/panic.h, kernel/panic.c: bits of tainted_mask with what they stand for.
_TAINTS = {
    0: "P: a proprietary module was loaded",
    1: "F: a module was loaded by force",
    2: "S: a CPU out of its specification",
    3: "R: a module was unloaded by force",
    4: "M: a machine check exception",
    5: "B: the page allocator or a slab allocator has met damage",
    6: "U: users asked for it",
    7: "D: the kernel has died before (an oops or BUG)",
    8: "A: an ACPI table was overridden",
    9: "W: a warning was given",
    10: "C: a staging driver was loaded",
    11: "I: a workaround for firmware",
    12: "O: a module from outside the kernel's tree was loaded",
    13: "E: an unsigned module was loaded",
    14: "L: a soft lockup",
    15: "K: the kernel was live patched",
    16: "X: for distributions",
    17: "T: built with randomised structures",
    18: "N: a test was run",
    19: "J: user space used a mutating debug operation of fwctl",
}


class Pattern(NamedTuple):
    """The first line of a report."""

    kind: str
    """Who reports: ``slub``, ``slab``, ``list``, ``page``, ``KASAN``, ``KFENCE``, ``usercopy``."""
    line: re.Pattern[str]
    """With the group ``what``, and ``cache`` where the line names it."""


_PATTERNS = tuple(
    Pattern(kind, re.compile(line))
    for kind, line in (
        ("KASAN", r"BUG: KASAN: (?P<what>.+)"),
        ("KFENCE", r"BUG: KFENCE: (?P<what>.+)"),
        ("page", r"BUG: Bad (?P<what>(?:page state|rss-counter|page cache|page map).*)"),
        ("slub", r"BUG (?P<cache>\S+) \((?:Not tainted|Tainted)[^)]*\): (?P<what>.+)"),
        ("slub", r"FIX (?P<cache>[^:]+): (?P<what>.+)"),
        ("slub", r"SLUB: (?P<what>.*(?:orrupt|nconsisten|verwritten).*)"),
        ("slab", r"slab error in (?P<what>\S+\(\): cache `(?P<cache>[^']+)'.*)"),
        ("slab", r"Slab corruption \((?P<what>[^)]*)\): (?P<cache>\S+)"),
        (
            "destroy",
            r"kmem_cache_destroy (?P<cache>[^:]+): (?P<what>Slab cache still has objects.*)",
        ),
        ("list", r"(?P<what>list_(?:add|del)\S* corruption.*)"),
        ("usercopy", r"usercopy: Kernel memory (?P<what>.*SLUB object '(?P<cache>[^']+)'.*)"),
        ("slub", r"kernel BUG at (?P<what>mm/(?:slub|slab|slab_common)\.c:\d+)"),
        ("page", r"kernel BUG at (?P<what>mm/page_alloc\.c:\d+)"),
    )
)
_ADDRESS = re.compile(r"\b(?:0x)?([0-9a-f]{16})\b")
_PFN = re.compile(r"\bpfn:(?:0x)?([0-9a-f]+)\b")
_CACHE = re.compile(r"belongs to the cache (\S+) of size")


def kernel_state(machine: Machine, findings: Sequence[Finding]) -> KernelState:
    """
    Return what the kernel has said itself.

    :param findings: Of the check, each tied to the report about the same thing.
    """
    lines = _log(machine.prog)
    reports = read_reports(lines or ())
    tied = tuple(_tied(machine, report, findings) for report in reports)
    return KernelState(_taints(machine.prog), tied, lines is not None)


def _taints(prog: Program) -> Optional[Tuple[str, ...]]:
    try:
        mask = int(prog["tainted_mask"])
    except (FaultError, LookupError, ObjectAbsentError):
        return None
    return tuple(meaning for bit, meaning in _TAINTS.items() if mask >> bit & 1)


def _log(prog: Program) -> Optional[List[Tuple[float, str]]]:
    # Seconds after the boot, and text, of each line; None if the log is not there.
    try:
        records = get_printk_records(prog)
    except Exception:  # whatever a ring buffer that is damaged or missing makes of it
        return None
    return [
        (record.timestamp / 1e9, line.decode("ascii", "replace"))
        for record in records
        for line in record.text.split(b"\n")
    ]


def read_reports(lines: Iterable[Tuple[Optional[float], str]]) -> List[KernelReport]:
    """
    Return the reports of damage among lines of a kernel's log.

    :param lines: (seconds after the boot, text) of each.
    """
    every = list(lines)
    starts = [
        (at, pattern.kind, match)
        for at, (_, text) in enumerate(every)
        for pattern in _PATTERNS
        if (match := pattern.line.search(text)) is not None
    ]
    found = []
    for number, (at, kind, match) in enumerate(starts[:_MOST_REPORTS]):
        last = starts[number + 1][0] if number + 1 < len(starts) else len(every)
        own = [text for _, text in every[at : min(last, at + _LINES)]]
        found.append(_report(every[at][0], kind, match, own))
    return found


def _report(
    seconds: Optional[float], kind: str, match: re.Match[str], lines: List[str]
) -> KernelReport:
    groups: Mapping[str, Optional[str]] = match.groupdict()
    cache = groups.get("cache")
    addresses: Dict[int, None] = {}
    pfn = None
    for line in lines:
        # What follows are registers and raw bytes, full of other addresses.
        if line.startswith(("Call Trace", "CPU:", "RIP:", "Modules linked in", "Code:")):
            if len(addresses):
                break
            continue
        addresses.update(dict.fromkeys(int(text, 16) for text in _ADDRESS.findall(line)))
        named, number = _CACHE.search(line), _PFN.search(line)
        cache = cache or (named[1] if named else None)
        pfn = pfn if pfn is not None or number is None else int(number[1], 16)
    text = escape_ascii_string(match[0].encode(), escape_backslash=True)
    return KernelReport(seconds, kind, text, cache, tuple(addresses), pfn)


def _tied(machine: Machine, report: KernelReport, findings: Sequence[Finding]) -> KernelReport:
    # Pointers are hashed in most messages of most kernels: none is an address then.
    named = np.array(report.addresses, np.uint64)
    real = set(named[machine.memory.is_kernel_address(named)].tolist())
    report = replace(report, addresses=tuple(one for one in report.addresses if one in real))
    if report.pfn is not None:
        real.add(machine.page.vmemmap + report.pfn * machine.page.size)
    for at, finding in enumerate(findings):
        about = {finding.object, finding.slab, finding.page, finding.address}
        if real & about or (not real and finding.cache and finding.cache == report.cache):
            return replace(report, finding=at)
    return report


def as_note(state: KernelState, findings: Sequence[Finding]) -> Iterator[Finding]:
    """
    Yield the note that counts the reports of a kernel and ties each to what was found.

    :param findings: That :func:`kernel_state` was given.
    """
    if not state.reports:
        return
    kinds = Counter(report.kind for report in state.reports)
    counts = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
    many = "reports" if len(state.reports) > 1 else "report"
    yield Finding(
        "kernel-reported",
        f"the kernel itself has given {len(state.reports)} {many} of damage ({counts})",
        details=tuple(_line(report, findings) for report in state.reports[:_MOST_TOLD]),
    )


def _line(report: KernelReport, findings: Sequence[Finding]) -> str:
    when = "" if report.seconds is None else f"[{report.seconds:.6f}] "
    if report.finding is None:
        return f"{when}{report.text}: no trace of it: repaired, refused, or overwritten since"
    return f"{when}{report.text}: finding {findings[report.finding].id}"
