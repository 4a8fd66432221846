# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text for people: a function for each command."""

from __future__ import annotations

from .answers import caches, capture, decode, layout, object, objects, refs, slabs, what
from .check import check, demo, watch
from .codes import explain
from .diff import diff
from .fleet import fleet
from .pages import page, pages
from .stacks import owners, stacks

__all__ = [
    "caches",
    "capture",
    "check",
    "decode",
    "demo",
    "diff",
    "explain",
    "fleet",
    "layout",
    "object",
    "objects",
    "owners",
    "page",
    "pages",
    "refs",
    "slabs",
    "stacks",
    "watch",
    "what",
]
