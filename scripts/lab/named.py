# SPDX-License-Identifier: LGPL-2.1-or-later

"""Tables whose rows have names."""

from __future__ import annotations

from typing import Dict, Iterable, List, NoReturn, Protocol, TypeVar

from .errors import LabError

__all__ = ("Named",)


class _Row(Protocol):
    @property
    def name(self) -> str: ...


_R = TypeVar("_R", bound=_Row)


class Named(Dict[str, _R]):
    """
    Rows by name, in their order; one that is not there is an error for people.

    :param kind: What a row is, in one word.
    :raises ValueError: if two rows have the same name.
    """

    def __init__(self, kind: str, rows: Iterable[_R]) -> None:
        super().__init__()
        self._kind = kind
        for row in rows:
            if row.name in self:
                raise ValueError(f"two rows of the table have the name {row.name!r}")
            self[row.name] = row

    def __missing__(self, name: str) -> NoReturn:
        raise LabError(f"no {self._kind} {name!r}; there are {', '.join(self)}")

    def pick(self, names: Iterable[str]) -> List[_R]:
        """
        Return the rows of these names in the table's order; all of them without a name.

        :raises LabError: if there is none of that name.
        """
        wanted = [self[name] for name in names]
        return [row for row in self.values() if not wanted or row in wanted]
