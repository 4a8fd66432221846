# SPDX-License-Identifier: LGPL-2.1-or-later
"""
JUnit XML
---------

A test case for each slab cache and one for the machine, so that a CI job shows
damage where it shows failed tests.
"""

from __future__ import annotations

from typing import Dict, Iterable, List, Optional
from xml.etree import ElementTree

from ..findings import Finding, Report
from .values import plural, printable
from .views.check import (
    SHELVES,
    cache_view,
    concerned,
    ending,
    likenesses,
    lines,
    statement,
    verdict,
)

_MACHINE = "machine"
# What fails no test and skips none.
_PASSING = [shelf for shelf in SHELVES if shelf.name in ("accepted", "changing", "notes")]


def check(report: Report) -> str:
    """Present the report of a check."""
    cases: Dict[Optional[str], List[Finding]] = {None: []}
    cases.update((cache.name, []) for cache in report.caches)
    for finding in report.findings:
        cases.setdefault(finding.cache, []).append(finding)
    unjudged: Dict[Optional[str], List[Finding]] = {}
    for finding in report.unavailable:
        unjudged.setdefault(finding.cache, []).append(finding)
        cases.setdefault(finding.cache, [])
    numbers = {
        cache.name: _text([cache_view([cache]).sentence(cache)])
        for cache in concerned(report.caches)
    }
    times: Dict[Optional[str], float] = {one.name: one.seconds for one in report.caches}
    times[None] = max(report.totals.seconds - sum(times.values()), 0.0)
    suite = ElementTree.Element("testsuite", name="drgn-slabtype")
    for name, findings in cases.items():
        case = ElementTree.SubElement(
            suite, "testcase", classname="drgn_slabtype.check", name=printable(name or _MACHINE)
        )
        case.set("time", f"{times.get(name, 0.0):.3f}")
        missing = unjudged.get(name, [])
        if findings:
            _outcome(case, "failure", plural(len(findings), "finding"), findings)
        elif missing:
            _outcome(case, "skipped", f"{plural(len(missing), 'part')} not judged", missing)
        elif name is None and report.interrupted:
            ElementTree.SubElement(case, "skipped", message=ending(report))
        if name in numbers:
            ElementTree.SubElement(case, "system-out").text = numbers[name]
    for attribute, tag in (("failures", "failure"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(cases)))
    suite.set("errors", "0")
    suite.set("time", f"{report.totals.seconds:.3f}")
    told = [f"looks like: {line}" for line in likenesses(report)]
    told += [f"{s.word}: {line}" for s in _PASSING for f in s.of(report) for line in lines(f)]
    ElementTree.SubElement(suite, "system-out").text = _text([*told, verdict(report)])
    return _document(suite)


def failure(message: str) -> str:
    """Present why there is no report: the machine is a test that could not be run."""
    suite = ElementTree.Element(
        "testsuite", name="drgn-slabtype", tests="1", failures="0", errors="1", skipped="0"
    )
    case = ElementTree.SubElement(suite, "testcase", classname="drgn_slabtype.check", name=_MACHINE)
    ElementTree.SubElement(case, "error", message=_text([message]), type="error")
    return _document(suite)


def _document(suite: ElementTree.Element) -> str:
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, "unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _text(lines: Iterable[str]) -> str:
    return "\n".join(map(printable, lines))


def _outcome(case: ElementTree.Element, tag: str, told: str, findings: List[Finding]) -> None:
    roots = [f for f in findings if f.because is None] or findings
    message = _text([f"{told}: {statement(roots[0])}"])
    element = ElementTree.SubElement(case, tag, message=message, type=roots[0].code)
    element.text = _text(line for f in findings for line in lines(f))
