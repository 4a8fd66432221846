# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people see of what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

from ...signature import from_caller
from ..values import size
from . import Column, View

if TYPE_CHECKING:
    from ...diff import CacheGrowth, StackGrowth

_FRAMES = 4  # that stand in one line


def signed(number: int) -> str:
    """Return a number with its sign."""
    return f"{number:+d}"


def _bytes(cache: CacheGrowth) -> str:
    return ("-" if cache.bytes < 0 else "+") + size(abs(cache.bytes))


def _trace(stack: StackGrowth) -> str:
    frames = [frame for frame in stack.stack or (stack.caller,) if frame]
    return " < ".join(from_caller(frames)[:_FRAMES])


def caches(grown: Sequence[CacheGrowth]) -> View:
    """Return what is told of the caches that changed."""
    return View(
        Column("cache"),
        Column("before", cell=lambda one: "new" if one.before is None else one.before, right=True),
        Column("after", cell=lambda one: "gone" if one.after is None else one.after, right=True),
        Column("objects", "growth", lambda one: signed(one.growth), right=True),
        Column(
            "unknown",
            cell=lambda one: signed(one.unknown),
            right=True,
            when=any(one.unknown for one in grown),
        ),
        Column("bytes", cell=_bytes, right=True),
        Column("slabs", cell=lambda one: signed(one.slabs), right=True),
    )


STACK = View(
    Column("before"),
    Column("after"),
    Column("objects", "growth", lambda one: signed(one.growth), right=True),
    Column("cache"),
    Column("by", "caller stack", _trace),
)

PAGE = View(
    Column("pages", "type", lambda one: one.type),
    Column("before"),
    Column("after"),
    Column("growth", cell=lambda one: signed(one.growth), right=True),
)

FINDING = View(
    Column("finding", "change"),
    Column("code"),
    Column("message"),
    quiet="cache",
)
