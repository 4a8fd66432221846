# SPDX-License-Identifier: LGPL-2.1-or-later

"""What long runs write down, a line at a time, so that one that was ended can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Mapping

from . import cache

__all__ = ("Journal", "kept")


class Journal:
    """
    Records in a file, one a line.

    :param path: The file; what is in it already counts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        # A line that was not finished must not spoil the next one.
        self._whole = not path.exists() or not path.stat().st_size or _ends_a_line(path)
        self.records: List[Dict[str, Any]] = []
        """All records, the oldest first."""
        if path.exists():
            for line in path.read_text().splitlines():
                # The last line may be half of one.
                try:
                    self.records.append(json.loads(line))
                except ValueError:
                    continue

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record, and write it down."""
        self.records.append(dict(record))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as stream:
            stream.write(("" if self._whole else "\n") + json.dumps(record) + "\n")
        self._whole = True

    def clear(self) -> None:
        """Forget all records."""
        self.records.clear()
        self._path.unlink(missing_ok=True)
        self._whole = True

    def count(self, **values: object) -> int:
        """Return how many records have these values."""
        return sum(
            all(record.get(name) == value for name, value in values.items())
            for record in self.records
        )


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read() == b"\n"


def kept(name: str) -> Path:
    """Return the path of a piece of evidence that is kept; its folder exists."""
    path = cache.root() / "evidence" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
