# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A code quality report as GitLab reads it
----------------------------------------

An issue for each root. Its fingerprint comes from the signature, so that GitLab knows
the same damage again in another dump and tells what is new in a merge request. A dump
has no lines of source: the place is the allocator's file in the kernel.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Dict, List
from typing import Counter as Counts

from ..findings import Finding, Report
from ..signature import digest
from .values import printable
from .views.check import lines

_NAME = "drgn-slabtype"
_FILES = {"SLAB": "mm/slab.c"}
_FILE = "mm/slub.c"


def check(report: Report) -> str:
    """Present the report of a check."""
    file = _FILES.get(report.layout.allocator, _FILE)
    seen: Counts[str] = Counter()
    issues: List[Dict[str, Any]] = []
    for severity, shelf in (("critical", report.findings), ("info", report.accepted)):
        for finding in shelf:
            if finding.because is None:
                what = _what(finding)
                told = "\n".join(map(printable, lines(finding)))
                issues.append(_issue(finding.code, told, severity, file, [what, seen[what]]))
                seen[what] += 1
    return json.dumps(issues, indent=1) + "\n"


def failure(message: str) -> str:
    """Present why there is no report."""
    return json.dumps([_issue(_NAME, message, "blocker", _FILE, [message])], indent=1) + "\n"


def _what(finding: Finding) -> str:
    # What is the same in every dump of the same mistake.
    signature = finding.signature
    return digest([finding.code, finding.cache]) if signature is None else signature.id


def _issue(name: str, told: str, severity: str, file: str, own: List[Any]) -> Dict[str, Any]:
    return {
        "description": told,
        "check_name": name,
        "fingerprint": digest(own),
        "severity": severity,
        "location": {"path": file, "lines": {"begin": 1}},
    }
