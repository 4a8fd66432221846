# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings as GitHub and GitLab read them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, Dict, List

from drgn_slabtype.findings import Finding, Report
from drgn_slabtype.report import present
from drgn_slabtype.signature import Signature

from ..synthetic.reports import damaged, healthy, incomplete

_LINE = re.compile(r"::(error|warning|notice) title=([^:,\n]*)::([^\n]*)")


def _lines(report: Report) -> List[List[str]]:
    told = "".join(present("check", report, "github")).splitlines()
    found = [_LINE.fullmatch(line) for line in told]
    return [[*match.groups()] for match in found if match is not None] if all(found) else []


def _issues(report: Report) -> List[Dict[str, Any]]:
    issues: List[Dict[str, Any]] = json.loads("".join(present("check", report, "gitlab")))
    return issues


def test_each_root_is_an_error_with_what_follows_from_it() -> None:
    first, second, verdict = _lines(damaged())
    assert first[:2] == ["error", "count-mismatch in kmalloc-64"]
    assert first[2].count("%0Afollows: ") == 2
    assert second[:2] == ["error", "freelist-pointer in kmalloc-64"]
    assert verdict[0] == "notice"
    assert verdict[2].startswith("inconsistent (2 findings, 2 consequences): ")


def test_what_was_not_judged_is_a_warning() -> None:
    assert [level for level, _, _ in _lines(incomplete())] == ["warning", "warning", "notice"]


def test_a_sound_kernel_is_a_notice_and_no_issue() -> None:
    assert [level for level, _, _ in _lines(healthy())] == ["notice"]
    assert _issues(healthy()) == []


def test_names_cannot_make_commands() -> None:
    report = healthy()
    report.findings = [Finding("redzone", "100%\n::error::x\r", cache="a:b,c\n::", id=1)]
    (title, body), _ = [line[1:] for line in _lines(report)]
    assert title == "redzone in a%3Ab%2Cc\\x0a%3A%3A"
    assert body.startswith("100%25\\x0a::error::x\\x0d")


def test_no_more_than_github_shows() -> None:
    report = healthy()
    report.findings = [Finding("redzone", f"number {at}", id=at) for at in range(1, 31)]
    errors = [body for level, _, body in _lines(report) if level == "error"]
    assert len(errors) == 10
    assert errors[-1].startswith("21 more roots")


def test_an_issue_for_each_root_which_is_known_again() -> None:
    report = damaged()
    signature = Signature("count-mismatch", "kmalloc-64", difference="+1")
    roots = [replace(one, signature=signature, because=None) for one in report.findings]
    report.findings = roots
    first = _issues(report)
    assert [issue["severity"] for issue in first] == ["critical"] * 4
    assert len({issue["fingerprint"] for issue in first}) == 4
    assert {issue["location"]["path"] for issue in first} == {"mm/slab.c"}
    # Elsewhere in another dump.
    report.findings = [replace(one, slab=0xFFFFEA0000200000, message="other") for one in roots]
    assert [i["fingerprint"] for i in _issues(report)] == [i["fingerprint"] for i in first]
    for issue in first:
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["location"]["lines"] == {"begin": 1}
