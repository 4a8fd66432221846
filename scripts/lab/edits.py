# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Change an extracted source tree, and fail where a change does not apply.

An edit is a regular expression that finds its place and says how often. It
carries no text of the kernel beyond the names it has to match.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Tuple

from .errors import EditError

__all__ = ("SourceTree",)


class SourceTree:
    """An extracted source tree that edits are applied to."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def substitute(self, path: str, pattern: str, replacement: str, *, count: int = 1) -> None:
        """
        Replace every match of a pattern in one file.

        :param path: File, relative to the root of the tree.
        :param pattern: Regular expression, ``^`` and ``$`` match at lines.
        :param replacement: As for :func:`re.sub`.
        :param count: How many matches there must be.
        :raises EditError: if there are more or fewer matches.
        """
        file = self.root / path
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise EditError(f"{path} is not in the source tree") from None
        changed, found = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if found != count:
            raise EditError(f"{path}: expected {count} places matching {pattern!r}, found {found}")
        # A new file, never the old one rewritten: it may be a hard link.
        copy = file.with_name(f".{file.name}.edited")
        copy.write_text(changed, encoding="utf-8")
        copy.replace(file)

    def delete_lines(self, path: str, pattern: str, *, count: int = 1) -> None:
        """
        Delete the lines that a pattern matches as a whole.

        :param count: How many lines there must be.
        :raises EditError: if there are more or fewer.
        """
        self.substitute(path, rf"^{pattern}\n", "", count=count)

    def insert_before(self, path: str, pattern: str, text: str) -> None:
        """Insert lines in front of the one line that a pattern matches."""
        escaped = text.replace("\\", "\\\\")
        self.substitute(path, rf"^(?={pattern})", escaped)

    def assert_absent(self, pattern: str, *paths: str) -> None:
        """
        Assert that nothing in these files matches any more.

        :raises EditError: if a place was left over.
        """
        for path in paths:
            text = (self.root / path).read_text(encoding="utf-8")
            match = re.search(pattern, text, flags=re.MULTILINE)
            if match is not None:
                line = text.count("\n", 0, match.start()) + 1
                raise EditError(f"{path}:{line}: {match.group(0)!r} is left over")

    def versions(self) -> Tuple[int, int]:
        """Return VERSION and PATCHLEVEL of the tree's Makefile."""
        text = (self.root / "Makefile").read_text(encoding="utf-8")
        numbers = [
            int(match.group(1))
            for name in ("VERSION", "PATCHLEVEL")
            if (match := re.search(rf"^{name} = (\d+)$", text, flags=re.MULTILINE))
        ]
        if len(numbers) != 2:
            raise EditError("the Makefile of the source tree does not tell its version")
        return numbers[0], numbers[1]
