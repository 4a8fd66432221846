# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read and check the Linux slab allocators through drgn.

The public names are imported when they are first used: this package is loaded
into every drgn session of its users, most of which never need it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any, List

__version__ = "0.1.0"

# Public name to module.
_NAMES = {
    "ArgumentError": ".errors",
    "CorruptionError": ".errors",
    "ENCODINGS": ".pagetype.encoding",
    "Finding": ".findings",
    "LayoutError": ".errors",
    "MissingDebugInfoError": ".errors",
    "PageSlab": ".pages.predicates",
    "Report": ".findings",
    "Selection": ".pages.census",
    "SlabTypeError": ".errors",
    "TargetError": ".errors",
    "TargetOptions": ".target",
    "UnsupportedError": ".errors",
    "allocation_sites": ".answers.sites",
    "caches": ".answers.caches",
    "census": ".pages.census",
    "check": ".check",
    "compare": ".diff",
    "decode": ".answers.decode",
    "diff": ".diff",
    "dump_page": ".pages.dump",
    "ensure_types": ".target",
    "explain": ".answers.explanations",
    "folio_test_slab": ".pages.predicates",
    "for_each_object": ".answers.objects",
    "for_each_slab": ".answers.objects",
    "json_schema": ".report.schema",
    "kinds": ".answers.likeness",
    "kpagecount": ".pages.kpageflags",
    "kpageflags": ".pages.kpageflags",
    "likenesses": ".fleet.known",
    "objects": ".answers.objects",
    "open_moment": ".diff",
    "open_target": ".target",
    "owners": ".answers.owners",
    "page_info": ".answers.page",
    "page_type_layout": ".machine",
    "page_types": ".pages.predicates",
    "read_causes": ".fleet.known",
    "refs": ".answers.refs",
    "slab_get_active": ".pages.predicates",
    "slab_get_inuse": ".pages.predicates",
    "slab_object": ".answers.object",
    "slabs": ".answers.slabs",
    "stable_page_flags": ".pages.kpageflags",
    "stacks": ".answers.stacks",
    "validate_slab_cache": ".check",
    "watch": ".watch",
    "what": ".answers.what",
    "write_html": ".checking",
    "write_kernel_files": ".pages.kpageflags",
    "write_report": ".checking",
}

__all__ = ["__version__", *_NAMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    try:
        module = _NAMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    found = globals()[name] = getattr(import_module(module, __name__), name)
    return found


class _Package(ModuleType):
    # Importing the module drgn_slabtype.check would replace the function of the
    # same name in this package.
    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _NAMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> List[str]:
    return sorted(__all__)
