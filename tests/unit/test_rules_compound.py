# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules on compound pages and on references, on pages made of numbers."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.codes import CATALOGUE
from drgn_slabtype.findings import Finding
from drgn_slabtype.machine.activities import ACTIVITIES, COMPOUND
from drgn_slabtype.pages.compound import NO_HEAD, NO_PAGE, Compounds, Head, Loose
from drgn_slabtype.rules.compound import judge_compounds
from drgn_slabtype.rules.pagefindings import PageNames
from drgn_slabtype.rules.slabpages import SlabWords, judge_slab_words, usual_references

_NAMES = PageNames(0xFFFFEA0000000000, 64)
_FREED = Head(3, 8, marked=True, slab=False, typed=False, used=False, refcount=0)
_SLAB = _FREED._replace(slab=True, typed=True)


def _compounds(
    rows: Sequence[Tuple[int, int, int]], heads: Dict[int, Head], wrong: Sequence[int] = ()
) -> Compounds:
    # Rows of (page, the head it is behind, the head it leads to).
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    loose = Loose(columns[0], columns[1], columns[2], np.zeros(len(rows), np.uint64))
    return Compounds(loose, list(wrong), heads)


def _judge(found: Compounds, cache: Optional[str] = None, cpus: int = 4) -> List[Finding]:
    return judge_compounds(found, _NAMES, lambda page: cache, cpus)


def _torn(head: int, done: int) -> List[Tuple[int, int, int]]:
    return [(head + tail, head, NO_HEAD) for tail in range(1, done + 1)]


@pytest.mark.parametrize("done", range(1, 8))
def test_compound_page_that_is_being_given_back(done: int) -> None:
    found = _judge(_compounds(_torn(8, done), {8: _FREED}))
    assert found
    assert all(one.moving and one.activity == COMPOUND for one in found)
    assert COMPOUND in ACTIVITIES


@pytest.mark.parametrize(("order", "moving"), [(1, True), (0, False)])
def test_order_of_before_reaches_over_other_compound_pages(order: int, moving: bool) -> None:
    # Of two pages, which are not linked yet; behind them are two of somebody else's.
    rows = [(9, 8, NO_HEAD), (10, 8, NO_HEAD), (11, 8, 10)]
    heads = {
        8: _FREED._replace(order=2, pages=4, refcount=1),
        10: _FREED._replace(order=order, pages=1 << order, refcount=5),
    }
    (found,) = _judge(_compounds(rows, heads))
    assert (found.page, found.moving) == (_NAMES.page(8), moving)


def test_one_for_each_cpu_and_no_more() -> None:
    rows = [row for head in (8, 16, 24) for row in _torn(head, 2)]
    heads = dict.fromkeys((8, 16, 24), _FREED)
    assert all(one.moving for one in _judge(_compounds(rows, heads), cpus=3))
    assert not any(one.moving for one in _judge(_compounds(rows, heads), cpus=2))


@pytest.mark.parametrize(
    "head",
    [
        _SLAB,
        _FREED._replace(typed=True),
        _FREED._replace(used=True),
        _FREED._replace(refcount=2),
        _FREED._replace(refcount=-1),
    ],
)
def test_what_is_in_use_is_complete(head: Head) -> None:
    found = _judge(_compounds(_torn(8, 2), {8: head}))
    assert [one.page for one in found] == [_NAMES.page(9), _NAMES.page(10)]
    assert not any(one.moving for one in found)


@pytest.mark.parametrize(
    "rows",
    [
        [(10, 8, NO_HEAD)],  # in the middle
        [(9, 8, NO_HEAD), (11, 8, NO_HEAD)],
        [(9, 8, NO_PAGE)],
        [(9, 8, 16)],
        [(9, 8, 8)],  # leads there, and is a head besides
    ],
)
def test_what_nobody_leaves_half_done(rows: List[Tuple[int, int, int]]) -> None:
    found = _judge(_compounds(rows, {8: _FREED, 16: _FREED}))
    assert [one.page for one in found] == [_NAMES.page(pfn) for pfn, _, _ in rows]
    assert not any(one.moving for one in found)


def test_head_that_most_tails_disown_is_the_root() -> None:
    (found,) = _judge(_compounds(_torn(8, 5), {8: _FREED._replace(refcount=7)}))
    assert (found.page, found.expected, found.found) == (_NAMES.page(8), 7, 2)
    (found,) = _judge(_compounds(_torn(8, 5), {8: _SLAB}), cache="dentry")
    assert (found.page, found.slab, found.cache) == (None, _NAMES.page(8), "dentry")


def test_head_without_a_flag_and_head_without_pages() -> None:
    rows = [(8 + tail, NO_HEAD, 8) for tail in range(1, 8)]
    plain = _FREED._replace(marked=False, pages=1)
    (found,) = _judge(_compounds(rows, {8: plain}))
    assert found.page == _NAMES.page(8)
    assert not found.moving
    # Larger ones than the page allocator makes get their head last.
    rows = [(tail, NO_HEAD, 0) for tail in range(1, 3000)]
    (found,) = _judge(_compounds(rows, {0: plain}))
    assert found.moving
    (found,) = _judge(_compounds([], {8: _FREED._replace(pages=1, order=0, used=True)}, [8]))
    assert found.page == _NAMES.page(8)
    assert "none leads to it" in found.message


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(-2, 40), st.integers(-2, 40))),
    st.lists(st.integers(0, 40)),
    st.dictionaries(
        st.integers(0, 40),
        st.builds(
            Head,
            st.integers(0, 255), st.integers(1, 64),
            st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.integers(-9, 9),
        ),
    ),
)  # fmt: skip
def test_whatever_is_loose_is_told(
    rows: List[Tuple[int, int, int]], wrong: List[int], heads: Dict[int, Head]
) -> None:
    rows = [(pfn, max(behind, NO_HEAD), leads) for pfn, behind, leads in rows]
    found = _judge(_compounds(rows, heads, wrong))
    assert bool(found) == bool(rows or set(wrong) & set(heads))
    assert {one.code for one in found} <= {"page-tail-head"}


@pytest.mark.parametrize(
    ("counts", "usual"),
    [([1, 1, 1], 1), ([0, 0, 0, 1], 0), ([1, 1, 0, 0], None), ([7, 7, 7], None), ([], None)],
)
def test_slabs_tell_how_many_references_they_have(counts: List[int], usual: Optional[int]) -> None:
    assert usual_references(np.array(counts, np.int64)) == usual


@pytest.mark.parametrize(
    ("usual", "count", "code"),
    [(1, 0, "page-refcount"), (1, -1, "page-refcount"), (1, 2, "slab-referenced"),
     (1, 1 << 20, "page-refcount"), (0, 1, "page-refcount"), (0, -1, "page-refcount")],
)  # fmt: skip
def test_references_of_one_slab(usual: int, count: int, code: str) -> None:
    pages = np.arange(4, dtype=np.uint64) * np.uint64(64)
    none = np.zeros(4, np.int64)
    counts = np.array([usual, usual, count, usual], np.int64)
    zeroes = none.astype(np.uint64)
    words = SlabWords(pages, counts, zeroes, zeroes, zeroes, none)
    (found,) = judge_slab_words(words, lambda page: "dentry", lambda flags: ())
    assert (found.code, found.slab, found.expected, found.found) == (code, 128, usual, count)
    assert (CATALOGUE[code].rule == "note") == (code == "slab-referenced")
