# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was copied over another says what is right of the other: one root."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Optional

from drgn_slabtype.findings import Finding
from drgn_slabtype.rules.oneroot import one_root

_MAP, _PAGE = 0xFFFFEA0000000000, 64
_LINEAR = 0xFFFF888000000000
_COPY = _MAP + 16 * _PAGE


def _page_of(address: int) -> Optional[int]:
    if address >= _MAP:
        return address - (address - _MAP) % _PAGE
    return _MAP + (address - _LINEAR >> 12) * _PAGE if address >= _LINEAR else None


def _roots(findings: List[Finding]) -> Dict[int, Optional[int]]:
    return {one.id: one.because for one in one_root(findings, _page_of, _PAGE)}


def _counts(id: int, cache: str, slabs: int, objects: int, word: int) -> List[Finding]:
    # How many more there are than the node says.
    node = Finding(
        "node-slabs", "slabs", id=id, cache=cache, node=0, expected=9 + slabs, found=9, word=word
    )
    beside = replace(node, code="node-objects", id=id + 1, because=id, word=word + 8)
    return [node, replace(beside, expected=90 + objects, found=90)]


def test_a_slab_that_names_another_cache_is_one_write() -> None:
    more, fewer = _counts(1, "filp", 1, 21, _LINEAR), _counts(3, "dentry", -1, -42, _LINEAR + 4096)
    assert _roots(more + fewer) == {1: None, 2: 1, 3: 1, 4: 1}


def test_counts_that_do_not_add_up_are_two_writes() -> None:
    more, fewer = _counts(1, "filp", 1, 21, _LINEAR), _counts(3, "dentry", -2, -42, _LINEAR + 4096)
    assert _roots(more + fewer) == {1: None, 2: 1, 3: None, 4: 3}
    # A number alone is not a slab.
    assert _roots([more[0], fewer[0]]) == {1: None, 3: None}
    elsewhere = [replace(one, node=1) for one in _counts(3, "dentry", -1, -42, _LINEAR + 4096)]
    assert _roots(more + elsewhere)[3] is None


def test_what_led_to_a_slab_that_is_another_now() -> None:
    base = Finding("slab-base-wrong", "base", id=1, cache="filp", slab=_COPY)
    inside = Finding("claim-foreign", "entry", id=2, word=_LINEAR, found=_LINEAR + (16 << 12))
    other = replace(inside, id=3, word=_LINEAR + 4096, found=_LINEAR + (17 << 12))
    order = Finding("cache-wrong", "random_seq", id=4, found=_LINEAR + (16 << 12) + 256)
    assert _roots([base, inside, other, order]) == {1: None, 2: 1, 3: None, 4: 1}


def test_a_list_that_leads_to_a_copy() -> None:
    head = Finding(
        "freelist-pointer",
        "head",
        id=1,
        slab=_COPY,
        word=_COPY + 32,
        found=_LINEAR + (15 << 12),
    )
    links = Finding("list-links", "next", id=2, slab=_MAP, word=_MAP + 16, found=_COPY + 16)
    other = replace(links, id=3, word=_MAP + 16 + 128, found=_COPY + 16 + _PAGE)
    assert _roots([head, links, other]) == {1: None, 2: 1, 3: None}
    # A damaged head that stays in its slab is no copy.
    assert _roots([replace(head, found=_LINEAR + (16 << 12) + 3), links])[2] is None


def test_an_array_that_is_longer_than_the_one_below_it() -> None:
    first = Finding(
        "container-state", "limit", id=1, cache="filp", cpu=1, member="limit", word=_LINEAR
    )
    first = replace(first, expected=54, found=120)
    behind = replace(first, id=2, cache="dentry", word=_LINEAR + 448, found=1 << 31)
    assert _roots([first, behind]) == {1: None, 2: 1}
    assert _roots([first, replace(behind, word=_LINEAR + 2048)])[2] is None
    assert _roots([first, replace(behind, cpu=2)])[2] is None
