# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Addresses of a stopped guest's symbols.

Run as a program, with the socket of a guest's monitor, its vmlinux or nothing, and
names; writes JSON with those that there are.
"""

from __future__ import annotations

import json
import sys

from drgn_slabtype.target import TargetOptions, open_target

__all__ = ("main",)


def main() -> int:
    """Write the addresses of the symbols named on the command line."""
    monitor, vmlinux, *names = sys.argv[1:]
    symbols = [vmlinux] if vmlinux else []
    prog = open_target(TargetOptions(qemu=monitor, symbols=symbols, default_symbols=False))
    found = {}
    for name in names:
        try:
            found[name] = prog.symbol(name).address
        except LookupError:
            continue
    json.dump(found, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
