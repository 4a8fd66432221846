# SPDX-License-Identifier: LGPL-2.1-or-later
"""
JUnit XML
---------

A test case for each slab cache and one for the machine, so that a CI job shows
damage where it shows failed tests.
"""

from __future__ import annotations

from typing import Dict, List, Optional
from xml.etree import ElementTree

from ..findings import Finding, Report
from .values import plural, printable

_MACHINE = "machine"


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
    suite = ElementTree.Element("testsuite", name="drgn-slabtype")
    for name, findings in cases.items():
        case = ElementTree.SubElement(
            suite, "testcase", classname="drgn_slabtype.check", name=printable(name or _MACHINE)
        )
        missing = unjudged.get(name, [])
        if findings:
            _outcome(case, "failure", "finding", findings)
        elif missing:
            _outcome(case, "skipped", "part not judged", missing)
        elif name is None and report.interrupted:
            ElementTree.SubElement(case, "skipped", message="interrupted")
    for attribute, tag in (("failures", "failure"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(cases)))
    suite.set("errors", "0")
    shelves = {"changing": report.changing, "note": report.notes}
    lines = [f"{title}: {_line(f)}" for title, shelf in shelves.items() for f in shelf]
    ElementTree.SubElement(suite, "system-out").text = "\n".join(lines)
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    body = ElementTree.tostring(suites, "unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'


def _line(finding: Finding) -> str:
    return f"{printable(finding.message)} [{finding.code}]"


def _outcome(case: ElementTree.Element, tag: str, noun: str, findings: List[Finding]) -> None:
    roots = [f for f in findings if f.because is None] or findings
    message = f"{plural(len(findings), noun)}: {_line(roots[0])}"
    element = ElementTree.SubElement(case, tag, message=message, type=roots[0].code)
    lines = [line for f in findings for line in (_line(f), *map(printable, f.details))]
    element.text = "\n".join(lines)
