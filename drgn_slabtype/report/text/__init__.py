# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text for people: a function for each command, imported when it is asked for."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "check": ("check", "demo", "watch"),
    "codes": ("explain",),
    "diff": ("diff",),
    "fleet": ("fleet",),
    "pages": ("page", "pages"),
    "stacks": ("owners", "stacks"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = (each for each in _MODULES.items() if name in each[1])
    where, _ = next(found, ("answers", ()))
    function = getattr(import_module(f".{where}", __name__), name)
    # Importing a module binds its name, which is that of a function, too.
    for module, names in _MODULES.items():
        loaded = sys.modules.get(f"{__name__}.{module}")
        if loaded is not None:
            globals().update({each: getattr(loaded, each) for each in names})
    return function
