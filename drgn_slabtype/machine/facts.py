# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is found out about a machine, and when it has to be found again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Optional, TypeVar

_Found = TypeVar("_Found")


class Found(ABC):
    """What functions have found out about a machine that inherits this."""

    @property
    @abstractmethod
    def is_live(self) -> bool:
        """Whether its memory changes while it is looked at."""

    def __init__(self) -> None:
        self._facts: Dict[Any, Any] = {}
        self._moment: Optional[Dict[Any, Any]] = None

    def forget_facts(self) -> None:
        """Forget all of it."""
        self._facts.clear()

    def fact(self, find: Callable[..., _Found], *arguments: Any) -> _Found:
        """
        Return what a function finds out about the machine, found once.

        For what follows from its types and symbols.

        :param find: Called with the machine and the arguments.
        """
        return self._once(self._facts, find, arguments)

    def settled(self, find: Callable[..., _Found], *arguments: Any) -> _Found:
        """Return what a function finds in the machine's memory, once if that does not move."""
        if not self.is_live:
            return self.fact(find, *arguments)
        if self._moment is None:
            return find(self, *arguments)
        return self._once(self._moment, find, arguments)

    @contextmanager
    def moment(self) -> Iterator[None]:
        """
        Let one question be answered as of one moment, though memory moves.

        What :meth:`settled` would find again each time is found once, until the
        outermost of these contexts is left.
        """
        before, self._moment = self._moment, {} if self._moment is None else self._moment
        try:
            yield
        finally:
            self._moment = before

    def _once(self, known: Dict[Any, Any], find: Callable[..., _Found], arguments: Any) -> _Found:
        key = (find, *arguments)
        if key not in known:
            known[key] = find(self, *arguments)
        found: _Found = known[key]
        return found
