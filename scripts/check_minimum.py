# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Check that every file parses with the grammar of the oldest supported Python.

That is the grammar and nothing else; names of the standard library that came
later are found by mypy (from 3.10 on) and by running the tests with PYTHON set
to an interpreter of that version.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from sources import tracked

MINIMUM = (3, 9)


def main() -> int:
    """Return the exit status: 1 if a file needs a newer Python."""
    root = Path(__file__).parents[1]
    paths = [root / name for name in tracked(root) if name.endswith(".py")]
    status = 0
    for path in paths:
        try:
            ast.parse(path.read_bytes(), str(path), feature_version=MINIMUM)
        except SyntaxError as e:
            print(f"{path.relative_to(root)}:{e.lineno}: {e.msg}")
            status = 1
    print(f"{len(paths)} files parse as Python {'.'.join(map(str, MINIMUM))}" if not status else "")
    return status


if __name__ == "__main__":
    sys.exit(main())
