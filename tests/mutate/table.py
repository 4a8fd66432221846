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


def by_chance(records: Iterable[Record]) -> List[str]:
    """
    Return those of :func:`unexplained` that hang on which value a word happened to get.

    A bit that was turned over, or another pointer, can make a value that is as good, on
    this boot and not on the next. Only of a word that has a rule: other changes of the
    same word are found.
    """
    found: Dict[str, None] = {}
    for one in records:
        if "finding" not in one["outcomes"].values():
            continue
        ends = tuple(f" {mutation}: silent" for mutation in ("flip", "pointer"))
        silent = unexplained([one])
        found.update(dict.fromkeys(text for text in silent if text.endswith(ends)))
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


def page(kernels: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """
    Yield the lines of docs/mutations.md.

    :param kernels: What ``--json`` wrote of each kernel, by its name.
    """
    yield _INTRODUCTION
    yield "| kernel | words | changes | " + " | ".join(_SHOWN) + " |"
    yield "|---|--:|--:|" + "--:|" * len(_SHOWN)
    for kernel, record in kernels.items():
        sums = counts(record["words"])
        every = sum(sums[one] for one in _SHOWN)
        told = " | ".join(f"{sums[one]:,}" for one in _SHOWN)
        yield f"| {kernel} | {len(record['words'])} | {every:,} | {told} |"
    found = {kernel: rows(record["words"]) for kernel, record in kernels.items()}
    names = sorted({name for one in found.values() for name in one}, key=lambda name: name[0])
    whys: Dict[str, int] = {}
    structure = ""
    for name in names:
        if name[0] != structure:
            structure = name[0]
            theirs = [one for one in kernels if any(at[0] == structure for at in found[one])]
            yield f"\n## {structure}\n"
            yield "| member | " + " | ".join(theirs) + " | why |"
            yield "|---|" + "---|" * (len(theirs) + 1)
        cells = [f"`{found[one][name]}`" if name in found[one] else "" for one in theirs]
        told = _why(name, [found[one][name] for one in theirs if name in found[one]], whys)
        yield f"| {name[1]} | " + " | ".join(cells) + f" | {told} |"
    yield "\n## Why\n"
    for why, number in whys.items():
        yield f"{number}. {why[0].upper()}{why[1:]}."


def _why(name: Tuple[str, str], letters: Iterable[str], whys: Dict[str, int]) -> str:
    silent = {
        mutation
        for some in letters
        for mutation, letter in zip(MUTATIONS, some)
        if letter == _LETTERS["silent"]
    }
    given = [reason(*name, mutation) for mutation in MUTATIONS if mutation in silent]
    found = {whys.setdefault(one.why, len(whys) + 1) for one in given if one is not None}
    missing = ["no rule yet"] if None in given else []
    return ", ".join([*(str(number) for number in sorted(found)), *missing])


_SHOWN = [one for one in reversed(_LETTERS) if one != "same"]
_INTRODUCTION = """\
# What a check says of each word

Every number in the structures that the allocators and the rules about pages read is
overwritten, one at a time, in real kernels: one bit of it is flipped, it is made greater
by one, zero, text (`/usr/bin`), and a pointer that is right elsewhere. Five letters tell
what a check says then, in this order:

| letter | what the check gives |
|---|---|
| `F` | a finding |
| `c` | only something that is changing: it could be work in progress |
| `u` | something that could not be read |
| `n` | a note |
| `.` | nothing; the last column says why |
| `!` | an exception |
| `-` | that is what was there already |

Where a kernel has far fewer words than the first one here, a sample of them was changed, of
each structure as many as of any other. Where caches of one kernel differ, the letter of the
one of which least is said stands here.
`python -m tests.mutate CORE VMLINUX --json FILE` makes the numbers of a kernel, and
`python -m tests.mutate --page FILE ...` this page; `scripts/vmlab matrix` changes some words
of each kernel. The reasons are in `tests/mutate/reasons.py`: what is silent without one fails
each of these. Of a word that has a rule, a bit turned over or another pointer may happen to be
as good: the matrix, which has other values on each boot, tells it, and fails where that is more
than one change in a hundred.
"""
