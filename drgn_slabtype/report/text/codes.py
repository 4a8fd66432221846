# SPDX-License-Identifier: LGPL-2.1-or-later
"""What codes mean: a list of many, all that there is to say of a few."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Iterable, Iterator, List

from ..views.codes import CODE, told
from .lines import left, table, text

if TYPE_CHECKING:
    from ...answers.explanations import Explanation, Explanations

_WIDTH = 80  # of running text
_FEW = 9  # that are told in full, as those of a family are


def explain(codes: Explanations) -> str:
    """Present what codes mean."""
    more = left(codes.found, len(codes), "code")
    if len(codes) > _FEW:
        return text([*table(CODE.grid(codes.codes)), *more])
    return "\n".join([*(text(_lines(code)) for code in codes), *([text(more)] if more else [])])


def _lines(code: Explanation) -> Iterator[str]:
    yield code.code
    for heading, parts in told(code):
        if heading:
            yield f"  {heading}"
        yield from _paragraphs(parts, "    " if heading else "  ")


def _paragraphs(parts: Iterable[str], indent: str) -> Iterator[str]:
    several: List[str] = list(parts)
    bullet = "- " if len(several) > 1 else ""
    for part in several:
        yield from wrap(
            part,
            _WIDTH,
            initial_indent=indent + bullet,
            subsequent_indent=indent + " " * len(bullet),
            break_long_words=False,
            break_on_hyphens=False,
        )
