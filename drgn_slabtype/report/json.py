# SPDX-License-Identifier: LGPL-2.1-or-later
"""
JSON, schema 1
--------------

Keys are added, never renamed. Addresses are ``"0x…"`` strings, unknown is ``null``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

from ..findings import CacheResult, Finding, Report
from .documents import Document, document, dump
from .json_answers import caches, object, objects
from .json_pages import page, pages
from .values import address, value

if TYPE_CHECKING:
    from ..answers.decode import Decoded
    from ..capture import CaptureSummary
    from ..demo import Act
    from ..pagetype.detect import PageTypeLayout

__all__ = [
    "caches",
    "capture",
    "check",
    "decode",
    "demo",
    "layout",
    "object",
    "objects",
    "page",
    "pages",
]


def check(report: Report) -> str:
    """Present the report of a check."""
    return dump(check_document(report))


def check_document(report: Report) -> Document:
    """Return the report of a check as a document of schema 1."""
    shelves = ("findings", "notes", "changing", "unavailable")
    totals = vars(report.totals)
    return document(
        target=vars(report.target),
        layout={
            "page_type": report.layout.page_type,
            "allocator": report.layout.allocator,
            "evidence": list(report.layout.evidence),
        },
        totals={**totals, **{name: len(getattr(report, name)) for name in shelves}},
        caches=[_cache(cache) for cache in report.caches],
        **{name: [_finding(f) for f in getattr(report, name)] for name in shelves},
        interrupted=report.interrupted,
        outcome=report.outcome.value,
        exit_status=report.exit_status,
    )


def _cache(cache: CacheResult) -> Document:
    return {
        **vars(cache),
        "address": address(cache.address),
        "outcome": cache.outcome.value,
    }


def _finding(finding: Finding) -> Document:
    return {
        "id": finding.id,
        "code": finding.code,
        "rule": finding.rule,
        "because": finding.because,
        "cache": finding.cache,
        "node": finding.node,
        "cpu": finding.cpu,
        "slab": address(finding.slab),
        "page": address(finding.page),
        "object": address(finding.object),
        "index": finding.index,
        "place": finding.place,
        "expected": value(finding.expected),
        "found": value(finding.found),
        "message": finding.message,
        "attempts": finding.attempts,
        "address": address(finding.address),
        "details": list(finding.details),
    }


def layout(layout: PageTypeLayout) -> str:
    """Present what was detected, and from which evidence."""
    encoding = layout.encoding
    return dump(
        document(
            page_type=encoding.name,
            types={name: f"0x{value:x}" for name, value in encoding.types.items()},
            slab_flag=layout.slab_flag,
            allocator=layout.allocator,
            evidence=list(layout.evidence),
            notes=list(layout.notes),
        )
    )


def capture(summary: CaptureSummary) -> str:
    """Present what was written to a capture; sizes in bytes."""
    return dump(document(**summary._asdict()))


def demo(acts: Sequence[Act]) -> str:
    """Present the checks of the demonstration."""
    reports = [{"title": act.title, **check_document(act.report)} for act in acts]
    return dump(document(reports=reports))


def decode(words: Sequence[Decoded]) -> str:
    """Present the readings of one page_type word."""
    readings = [
        {
            "layout": word.layout,
            "types": list(word.types),
            "active": word.active,
            "conflict": word.conflict,
            "printed": word.printed,
            "meaning": word.meaning,
        }
        for word in words
    ]
    return dump(document(word=f"0x{words[0].word:08x}", readings=readings))
