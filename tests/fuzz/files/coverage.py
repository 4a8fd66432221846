# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which ways through the library's code some input takes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Callable, Dict, FrozenSet, Optional, Tuple

_LIBRARY = str(Path(__file__).parents[3] / "drgn_slabtype")

Edge = Tuple[str, int, int, int, int]
"""A function, by file and first line; a line of it, the next one; how often, as a power of 2."""

Edges = FrozenSet[Edge]


def edges(call: Callable[[], object]) -> Edges:
    """
    Return the ways from line to line that a call takes through the library.

    What the call raises goes through; see :func:`traced` for that.
    """
    with Trace() as trace:
        call()
    return trace.edges


class Trace:
    """What the library runs while this is entered."""

    def __init__(self) -> None:
        self._counts: Dict[Tuple[CodeType, int, int], int] = {}
        self._last: Dict[FrameType, int] = {}

    def __enter__(self) -> Trace:
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        self._last.clear()

    def _call(self, frame: FrameType, event: str, argument: Any) -> Optional[Callable[..., Any]]:
        if not frame.f_code.co_filename.startswith(_LIBRARY):
            return None
        self._last[frame] = 0
        return self._line

    def _line(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        if event == "line":
            key = (frame.f_code, self._last.get(frame, 0), frame.f_lineno)
            self._counts[key] = self._counts.get(key, 0) + 1
            self._last[frame] = frame.f_lineno
        elif event == "return":
            self._last.pop(frame, None)
        return self._line

    @property
    def edges(self) -> Edges:
        """What was run."""
        return frozenset(
            (code.co_filename, code.co_firstlineno, before, after, count.bit_length())
            for (code, before, after), count in self._counts.items()
        )
