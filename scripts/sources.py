# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files that make up the project, in a checkout and in a source distribution."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import List

ROOT = Path(__file__).parents[1]
_MADE = {"__pycache__", "build", "dist"}


def tracked(root: Path = ROOT) -> List[str]:
    """
    Return the files in version control, as paths from the top; without it, all but what is made.

    :param root: Top of a checkout, or of an unpacked source distribution.
    """
    if (root / ".git").exists():
        listed = subprocess.run(
            ["git", "-C", str(root), "ls-files", "-z", "--cached"],
            stdout=subprocess.PIPE,
            check=True,
        )
        names = listed.stdout.decode().split("\0")
        return [name for name in names if name and (root / name).is_file()]
    found = (path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file())
    return [str(path) for path in found if not any(map(_is_made, path.parts))]


def _is_made(part: str) -> bool:
    hidden = part.startswith(".") and part not in (".ci", ".gitignore")
    return hidden or part in _MADE or part.endswith(".egg-info")
