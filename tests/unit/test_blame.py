# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is found of several caches, or of a cache and of pages, and is one damage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List

from drgn_slabtype.findings import Finding
from drgn_slabtype.ledger import Facts, Ledger, Slabs
from drgn_slabtype.rules.blame import join, settle, undecided

SLAB, OTHER = 0xFFFFEA0000033AC0, 0xFFFFEA0000033A80


def _finding(code: str, number: int = 1, **members: Any) -> Finding:
    return Finding(code, code, id=number, **members)


def _causes(*groups: List[Finding]) -> Dict[str, str]:
    # What each finding follows from; nothing for a root.
    found = {}
    for group in join(groups):
        codes = {finding.id: finding.code for finding in group}
        for finding in group:
            found[finding.code] = codes.get(finding.because or 0, "")
    return found


def test_what_a_page_that_was_given_back_has_written_over_follows_from_that() -> None:
    # put_page() of a slab in use: its base is gone, and its links are those of another list.
    cache = [
        _finding("slab-base-wrong", 1, slab=SLAB),
        _finding("list-links", 2, slab=OTHER, found=SLAB + 8),
        _finding("list-missing", 3, slab=SLAB, because=2),
    ]
    assert _causes(cache, [_finding("page-refcount", slab=SLAB)]) == {
        "page-refcount": "",
        "slab-base-wrong": "page-refcount",
        "list-links": "page-refcount",
        "list-missing": "page-refcount",
    }


def test_list_that_leads_to_a_page_that_was_given_back_follows_from_that() -> None:
    pages = [_finding("page-refcount", slab=SLAB)]
    head = [_finding("list-broken", found=SLAB + 8)]
    assert _causes(head, pages) == {"page-refcount": "", "list-broken": "page-refcount"}


def test_page_that_somebody_else_has_taken_meanwhile_has_references_again() -> None:
    cache = [
        _finding("slab-objects-wrong", 1, slab=SLAB),
        _finding("list-links", 2, slab=OTHER, found=SLAB + 8),
    ]
    assert _causes(cache) == {"slab-objects-wrong": "", "list-links": "slab-objects-wrong"}


def test_list_that_leads_elsewhere_is_damage_of_its_own() -> None:
    pages = [_finding("page-refcount", slab=SLAB)]
    links = [_finding("list-links", slab=OTHER, found=SLAB + 64)]
    assert _causes(links, pages) == {"page-refcount": "", "list-links": ""}


def test_what_follows_from_what_is_not_there_is_not_judged() -> None:
    found = [
        _finding("not-judged", 1, slab=SLAB),
        _finding("list-links", 2, slab=OTHER),
        _finding("claim-twice", 3, slab=SLAB, because=1),
        _finding("count-mismatch", 4, slab=OTHER, because=2),
    ]
    told = [one.code for one in undecided(found)]
    assert told == ["not-judged", "list-links", "not-judged", "count-mismatch"]


def _contents(*containers: Finding) -> List[Finding]:
    # The objects of an array, which nothing records as free any more.
    free = [
        _finding("redzone", cache="a", slab=SLAB, object=0x1000 * at, turned=True)
        for at in range(1, 5)
    ]
    slabs = Slabs.build(1, page=SLAB, objects=8, counted=0)
    made = Ledger(Facts("a", 0xFFFF888000000000, 64, 64, 8), (), slabs)
    return settle([*containers, *free], made)


def test_objects_that_nothing_records_any_more_follow_from_the_damaged_array() -> None:
    array = _finding("container-state", cache="a", place="shared array")
    found = _contents(array)
    assert [(one.code, one.because) for one in found[:2]] == [
        ("container-state", None),
        ("redzone", 1),
    ]
    assert {one.because for one in found[1:]} == {1}
    # Nothing follows from work in progress but work in progress.
    moving = _contents(replace(array, moving=True))
    assert [one.because for one in moving] == [None] * 5
    assert [one.moving for one in moving[1:]] == [False] * 4
    assert {one.because for one in _contents()} == {None}
