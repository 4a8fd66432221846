# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python -m tests.fleet FOLDER``: write a fleet's dumps."""

from __future__ import annotations

import argparse
from pathlib import Path

from .make import Maker, mixed, write_list


def main() -> None:
    """Write the dumps, and beside them which is which."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("folder", type=Path, help="that they are written to")
    parser.add_argument("-n", "--number", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--sound", type=int, help="how many of them sound (default: a tenth)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sound = options.number // 10 if options.sound is None else options.sound
    made = list(Maker().make(options.folder, mixed(options.number, sound), options.seed))
    write_list(options.folder, made)


if __name__ == "__main__":
    main()
