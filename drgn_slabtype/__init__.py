# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Read and check the Linux slab allocators through drgn.

The public names are imported when they are first used: this package is loaded
into every drgn session of its users, most of which never need it.

``prog`` is always a :class:`drgn.Program` of a Linux kernel. What is not in a
dump raises :exc:`drgn.FaultError`; every other error is a
:class:`SlabTypeError`, and what cannot be meant an :class:`ArgumentError`.
Addresses are integers or objects of drgn, counts are of objects and pages, sizes
in bytes.

In the examples ``prog`` is the kernel that ships with the package, drgn's default
program; the names are those that drgn's prompt has, and all of this package.
``import *`` brings in names as general as those of the commands: ``check``,
``diff``, ``what``; a script that has such names itself says ``import
drgn_slabtype``.
"""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False  # as that of typing, whose import takes ten milliseconds
if TYPE_CHECKING:
    from typing import Any, List

__version__ = "0.1.0"
"""
Version of this package.

>>> __version__.count(".")
2
"""

# Public name to module.
_NAMES = {
    "ActiveState": ".pagetype.encoding",
    "ArgumentError": ".errors",
    "CorruptionError": ".errors",
    "ENCODINGS": ".pagetype.encoding",
    "Encoding": ".pagetype.encoding",
    "Finding": ".findings",
    "LayoutError": ".errors",
    "MissingDebugInfoError": ".errors",
    "PageBuddy": ".pages.predicates",
    "PageGuard": ".pages.predicates",
    "PageHuge": ".pages.predicates",
    "PageLargeKmalloc": ".pages.predicates",
    "PageOffline": ".pages.predicates",
    "PageSlab": ".pages.predicates",
    "PageTable": ".pages.predicates",
    "PageUnaccepted": ".pages.predicates",
    "PageZsmalloc": ".pages.predicates",
    "Report": ".findings",
    "Selection": ".pages.census",
    "SlabTypeError": ".errors",
    "TargetError": ".errors",
    "TargetOptions": ".target",
    "UnknownNameError": ".errors",
    "UnsupportedError": ".errors",
    "accept": ".fleet.baseline",
    "allocation_sites": ".answers.sites",
    "as_baseline": ".fleet.baseline",
    "as_json": ".report",
    "caches": ".answers.caches",
    "census": ".pages.census",
    "check": ".check",
    "compare": ".diff",
    "decode": ".answers.decode",
    "demo": ".demo",
    "diff": ".diff",
    "dump_page": ".pages.dump",
    "ensure_types": ".target",
    "explain": ".answers.explanations",
    "fleet_summary": ".fleet.judge",
    "folio_test_buddy": ".pages.predicates",
    "folio_test_guard": ".pages.predicates",
    "folio_test_hugetlb": ".pages.predicates",
    "folio_test_large_kmalloc": ".pages.predicates",
    "folio_test_offline": ".pages.predicates",
    "folio_test_pgtable": ".pages.predicates",
    "folio_test_slab": ".pages.predicates",
    "folio_test_unaccepted": ".pages.predicates",
    "folio_test_zsmalloc": ".pages.predicates",
    "for_each_object": ".answers.objects",
    "for_each_slab": ".answers.objects",
    "json_schema": ".report.schema",
    "judge_fleet": ".fleet.judge",
    "kinds": ".answers.likeness",
    "kpagecount": ".pages.kpageflags",
    "kpageflags": ".pages.kpageflags",
    "likenesses": ".fleet.known",
    "objects": ".answers.objects",
    "open_moment": ".diff",
    "open_target": ".target",
    "owners": ".answers.owners",
    "page_has_type": ".pages.predicates",
    "page_info": ".answers.page",
    "page_type_has_type": ".pages.predicates",
    "page_type_layout": ".machine",
    "page_type_text": ".pages.predicates",
    "page_type_word": ".pages.predicates",
    "page_types": ".pages.predicates",
    "read_causes": ".fleet.known",
    "refs": ".answers.refs",
    "slab_active_state": ".pages.counters",
    "slab_get_active": ".pages.counters",
    "slab_get_inuse": ".pages.counters",
    "slab_object": ".answers.object",
    "slabs": ".answers.slabs",
    "stable_page_flags": ".pages.kpageflags",
    "stacks": ".answers.stacks",
    "validate_slab_cache": ".check",
    "watch": ".watch",
    "what": ".answers.what",
    "write_capture": ".capture.write",
    "write_html": ".checking",
    "write_kernel_files": ".pages.kpageflags",
    "write_report": ".checking",
    "write_text": ".report.output",
}

__all__ = ["__version__", *_NAMES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    from importlib import import_module

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
