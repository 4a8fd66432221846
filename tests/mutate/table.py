# SPDX-License-Identifier: LGPL-2.1-or-later
"""What became of all changes, as text, as JSON and as a page of the documentation."""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Sequence, Tuple

from .reasons import reason
from .words import MUTATIONS

_LETTERS = {
    "exception": "!",
    "silent": ".",
    "note": "n",
    "unavailable": "u",
    "changing": "c",
    "finding": "F",
    "same": "-",
}
"""What says least comes first."""

Record = Mapping[str, Any]


def unexplained(records: Iterable[Record]) -> List[str]:
    """Return the changes that ended in an exception, or in silence that no reason explains."""
    found: Dict[str, None] = {}
    for one in records:
        name = f"{one['structure']}.{one['member']}"
        for mutation, outcome in one["outcomes"].items():
            if outcome == "exception":
                found[f"{name} {mutation} ({one['cache']}): {one['told'][mutation]}"] = None
            elif outcome == "silent" and not reason(one["structure"], one["member"], mutation):
                found[f"{name} {mutation}: silent"] = None
    return list(found)


def counts(records: Iterable[Record]) -> Counter[str]:
    """Return how often each outcome came."""
    return Counter(outcome for one in records for outcome in one["outcomes"].values())


def rows(records: Iterable[Record]) -> Dict[Tuple[str, str], str]:
    """Return for each member of each structure what the changes gave, one letter each."""
    found: Dict[Tuple[str, str], List[Record]] = {}
    for one in records:
        found.setdefault((one["structure"], one["member"]), []).append(one)
    return {
        name: "".join(
            _least(one["outcomes"][mutation] for one in several) for mutation in MUTATIONS
        )
        for name, several in found.items()
    }


def _least(outcomes: Iterable[str]) -> str:
    seen = set(outcomes)
    return next(letter for outcome, letter in _LETTERS.items() if outcome in seen)


def text(records: Sequence[Record]) -> Iterator[str]:
    """Yield the lines of a table for people."""
    structure = ""
    for (name, member), letters in rows(records).items():
        if name != structure:
            structure = name
            yield f"{structure}:"
        told = sorted(
            {
                code
                for one in records
                if (one["structure"], one["member"]) == (name, member)
                for code in one["told"].values()
                if code
            }
        )
        yield f"  {letters}  {member:32} {', '.join(told)[:110]}"
    number = counts(records)
    every = sum(number[one] for one in _LETTERS if one != "same")
    summary = ", ".join(f"{number[one]} {one}" for one in reversed(_LETTERS) if one != "same")
    yield f"{len(records)} words, {every} changes: {summary}"
