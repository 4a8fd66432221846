# SPDX-License-Identifier: LGPL-2.1-or-later

"""What SLUB keeps to itself while its KUnit tests run."""

from __future__ import annotations

from .edits import SourceTree

__all__ = ("print_errors",)


def print_errors(tree: SourceTree) -> None:
    """Let SLUB print the errors that a KUnit test expects, and count them as before."""
    tree.substitute(
        "mm/slub.c",
        r"(resource->data\)\+\+;\n\tkunit_put_resource\(resource\);\n\treturn) true;",
        r"\1 false;",
    )
