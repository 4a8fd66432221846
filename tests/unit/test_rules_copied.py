# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was copied over another says what is right of the other: one root."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Dict, Iterator, List, Optional, Tuple

from drgn_slabtype.findings import Finding
from drgn_slabtype.rules.copied import Copy, of_copies
from drgn_slabtype.rules.oneroot import one_root
from tests.memmap import LINEAR, MAP, PAGE, page_of

_COPY = MAP + 16 * PAGE
_SOURCE = _COPY - PAGE


def _one_root(findings: List[Finding], *copies: Copy) -> List[Finding]:
    return one_root(findings, page_of, PAGE, copies=copies)


def _roots(findings: List[Finding], *copies: Copy) -> Dict[int, Optional[int]]:
    return {one.id: one.because for one in _one_root(findings, *copies)}


def _slab(*pages: int, told: str = "", cache: str = "") -> Copy:
    memory = LINEAR + ((pages[0] - MAP) // PAGE << 12)
    structures = [range(page, page + PAGE) for page in pages]
    return Copy(structures, range(memory, memory + 4096), [cache] if cache else [], told)


def _counts(id: int, cache: str, slabs: int, objects: int, word: int) -> List[Finding]:
    # How many more there are than the node says.
    node = Finding(
        "node-slabs", "slabs", id=id, cache=cache, node=0, expected=9 + slabs, found=9, word=word
    )
    beside = replace(node, code="node-objects", id=id + 1, because=id, word=word + 8)
    return [node, replace(beside, expected=90 + objects, found=90)]


def test_a_slab_that_names_another_cache_is_one_write() -> None:
    more, fewer = _counts(1, "filp", 1, 21, LINEAR), _counts(3, "dentry", -1, -42, LINEAR + 4096)
    assert _roots(more + fewer) == {1: None, 2: 1, 3: 1, 4: 1}


def test_counts_that_do_not_add_up_are_two_writes() -> None:
    more, fewer = _counts(1, "filp", 1, 21, LINEAR), _counts(3, "dentry", -2, -42, LINEAR + 4096)
    assert _roots(more + fewer) == {1: None, 2: 1, 3: None, 4: 3}
    # A number alone is not a slab.
    assert _roots([more[0], fewer[0]]) == {1: None, 3: None}
    elsewhere = [replace(one, node=1) for one in _counts(3, "dentry", -1, -42, LINEAR + 4096)]
    assert _roots(more + elsewhere)[3] is None


def test_what_led_to_a_slab_that_is_another_now() -> None:
    base = Finding("slab-base-wrong", "base", id=1, cache="filp", slab=_COPY)
    inside = Finding("claim-foreign", "entry", id=2, word=LINEAR, found=LINEAR + (16 << 12))
    other = replace(inside, id=3, word=LINEAR + 4096, found=LINEAR + (17 << 12))
    order = Finding("cache-wrong", "random_seq", id=4, found=LINEAR + (16 << 12) + 256)
    some = [base, inside, other, order]
    assert _roots(some, _slab(_COPY)) == {1: None, 2: 1, 3: None, 4: 1}
    assert _one_root(some, _slab(_COPY))[0].message == "base"


def test_a_slab_that_another_cache_still_leads_to() -> None:
    more = _counts(1, "filp", 1, 21, LINEAR)
    leads = Finding("list-broken", "chain", id=3, cache="dentry", word=LINEAR + 4096, found=_COPY)
    assert _roots([*more, leads], _slab(_COPY, cache="filp")) == {1: 3, 2: 3, 3: None}


def test_the_copy_of_a_struct_page_is_told() -> None:
    copy = _slab(_COPY, _SOURCE, told="it is a copy", cache="filp")
    head = Finding(
        "freelist-pointer", "head", id=3, cache="filp", slab=_COPY, word=_COPY + 32,
        found=LINEAR + (15 << 12),
    )  # fmt: skip
    links = Finding("list-links", "next", id=1, slab=MAP, word=MAP + 16, found=_COPY + 16)
    other = replace(links, id=2, word=MAP + 16 + 128, found=_COPY + 16 + PAGE)
    source = Finding("slab-vector-wrong", "vector", id=4, slab=_SOURCE, word=_SOURCE + 56)
    found = _one_root([links, other, head, source, *_counts(5, "filp", 1, 21, LINEAR)], copy)
    # What is said of the copy comes before what leads to it.
    assert {one.id: one.because for one in found} == {1: 3, 2: None, 3: None, 4: 3, 5: 3, 6: 3}
    assert [one.message for one in found if one.because is None] == ["next", "head; it is a copy"]


def test_a_chain_that_a_copy_cuts() -> None:
    copy = _slab(_COPY, _SOURCE, told="it is a copy")
    wrong = Finding("list-wrong", "full", id=1, cache="filp", slab=_COPY, place="cpu partial")
    count = Finding(
        "container-count", "5, 3 left", id=2, cache="filp", slab=MAP, place="cpu partial"
    )
    assert _roots([wrong, count], copy) == {1: None, 2: 1}
    assert _roots([wrong, replace(count, cache="dentry")], copy) == {1: None, 2: None}


def test_an_array_that_is_longer_than_the_one_below_it() -> None:
    first = Finding(
        "container-state", "limit", id=1, cache="filp", cpu=1, member="limit", word=LINEAR
    )
    first = replace(first, expected=54, found=120)
    behind = replace(first, id=2, cache="dentry", word=LINEAR + 448, found=1 << 31)
    assert _roots([first, behind]) == {1: None, 2: 1}
    assert _roots([first, replace(behind, word=LINEAR + 2048)])[2] is None
    assert _roots([first, replace(behind, cpu=2)])[2] is None


def test_an_array_that_is_longer_than_its_room_ran_over_others() -> None:
    def limit(id: int, word: int, found: int, cpu: int = 0) -> Finding:
        return Finding(
            "container-state", "limit", id=id, word=word, found=found, cpu=cpu, member="limit"
        )

    # 16 bytes of a header and 10 entries.
    longer, inside = limit(1, LINEAR, 10), limit(2, LINEAR + 96, 4)
    assert list(_run_on([inside, longer])) == [(1, 2)]
    assert list(_run_on([limit(2, LINEAR + 97, 4), longer])) == []
    assert list(_run_on([longer, limit(2, LINEAR + 96, 4, cpu=1)])) == []
    # A limit that no array has tells nothing of its length but the header.
    assert list(_run_on([limit(1, LINEAR, 1 << 40), inside])) == []


def _run_on(findings: List[Finding]) -> Iterator[Tuple[int, int]]:
    return of_copies(findings, {one.id: one.id for one in findings}, ())


def test_many_findings_and_copies_take_steps_for_each() -> None:
    pages = [MAP + row * PAGE for row in range(16, 1016)]
    some = [
        Finding("slab-order-wrong", "order", id=row + 1, cache="filp", slab=page)
        for row, page in enumerate(pages)
    ]
    copies = [_slab(page) for page in pages]
    roots = {one.id: one.id for one in some}
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        found = list(of_copies(some, roots, copies))
    finally:
        sys.setprofile(None)
    assert found == [(one.id, one.id) for one in some]
    assert calls < 100 * len(some)
