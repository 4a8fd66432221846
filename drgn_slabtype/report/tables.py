# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines and tables of text."""

from __future__ import annotations

from typing import Dict, List, Sequence

from tabulate import tabulate

from .values import printable


def text(lines: Sequence[str]) -> str:
    """Return lines as text that a terminal shows and does not act upon."""
    return "".join(f"{printable(line)}\n" for line in lines)


def table(columns: Dict[str, str], rows: Sequence[Sequence[object]]) -> List[str]:
    """
    Return the lines of a table.

    :param columns: Column headings with their alignment, ``left`` or ``right``.
    """
    return tabulate(
        rows,
        headers=list(columns),
        tablefmt="plain",
        colalign=list(columns.values()) if rows else None,
        disable_numparse=True,
    ).split("\n")


def size(size_bytes: int) -> str:
    """Return a number of bytes with the unit that suits it."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} bytes"
