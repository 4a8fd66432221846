# SPDX-License-Identifier: LGPL-2.1-or-later
"""Some words of a few captures; ``python -m tests.mutate`` changes all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from drgn_slabtype.capture import open_capture

from .layout import leaves
from .reasons import REASONS
from .run import Subject
from .table import by_chance, page, unexplained
from .words import MUTATIONS, Word

_CAPTURES = Path(__file__).parents[1] / "captures"
_WORDS = 14  # of each capture
_PROVEN = 3  # changes that are put to a check of the whole machine as well


def _subject(name: str, count: int = 1) -> Subject:
    return Subject(open_capture(str(_CAPTURES / name / "capture.xz")), seed=1, count=count)


@pytest.mark.parametrize("name", ["slab-6.1-rfc3-plain", "debian-6.1-plain", "debian-7-plain"])
def test_what_is_silent_has_a_reason(name: str) -> None:
    subject = _subject(name)
    results = list(subject.run(subject.sample(_WORDS), jobs=1))
    assert len(results) == _WORDS
    assert unexplained([result.record() for result in results]) == []
    told = [
        (result.word, mutation, outcome)
        for result in results
        for mutation, outcome in result.outcomes.items()
        if outcome != "same"
    ]
    assert sum(outcome == "finding" for *_, outcome in told) >= _WORDS
    some = told[:: len(told) // _PROVEN][:_PROVEN]
    whole = list(subject.prove([(word, mutation) for word, mutation, _ in some], jobs=1))
    assert whole == [outcome for *_, outcome in some]


def test_the_same_seed_changes_the_same_words() -> None:
    first, second = _subject("slub-6.12-tiny-plain"), _subject("slub-6.12-tiny-plain")
    assert first.sample(20) == second.sample(20)
    numbers = [word.mutations(first.prog, 1) for word in first.sample(20)]
    assert numbers == [word.mutations(second.prog, 1) for word in second.sample(20)]


def test_no_two_members_share_a_bit() -> None:
    prog = open_capture(str(_CAPTURES / "debian-5.10-plain" / "capture.xz"))
    for name in ("struct page", "struct kmem_cache", "struct zone"):
        found = leaves(prog.type(name))
        assert len(found) > 5
        assert all(one.end <= after.bit for one, after in zip(found, found[1:]))


def test_a_bit_field_is_changed_alone() -> None:
    word = Word("slab", "objects", address=0, shift=3, bits=5, other=0)
    assert word.number(b"\xf8") == 31
    assert word.stored(b"\x07", 1) == b"\x0f"


def test_silence_without_a_reason_is_told() -> None:
    outcomes = dict.fromkeys(MUTATIONS, "silent")
    told = dict.fromkeys(MUTATIONS, "")
    known, unknown = (
        {
            "structure": "kmem_cache",
            "member": member,
            "cache": "a",
            "outcomes": outcomes,
            "told": told,
        }
        for member in ("name", "size")
    )
    assert unexplained([known]) == []
    assert len(unexplained([known, unknown])) == len(MUTATIONS)
    assert by_chance([known, unknown]) == []
    text = "\n".join(page({"made-up": {"words": [known, unknown]}}))
    assert "no rule yet" in text
    assert REASONS[0].why[1:] in text


def test_chance_is_for_words_that_have_a_rule() -> None:
    outcomes = {"flip": "silent", "+1": "silent", "0": "finding", "text": "silent"}
    record = {"structure": "kmem_cache", "member": "size", "cache": "a", "outcomes": outcomes}
    told = [f"kmem_cache.size {name}: silent" for name in ("flip", "+1", "text")]
    assert unexplained([record]) == told
    assert by_chance([record]) == told[:1]
    assert by_chance([{**record, "outcomes": {"flip": "silent", "0": "silent"}}]) == []
