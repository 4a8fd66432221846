# SPDX-License-Identifier: LGPL-2.1-or-later

"""Where the functions of a kernel's slab allocator begin, by the symbols of its vmlinux."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List, NamedTuple

from .process import output

__all__ = ("Function", "functions")

_FILES = ("slab.c", "slub.c", "slab_common.c")
# Global functions stand behind those of all files.
_GLOBAL = re.compile(
    r"kmem_cache_alloc(_lru|_node|_bulk|_from_sheaf)?(_noprof)?|kmem_cache_free(_bulk)?|kfree"
    r"|k(v)?free_call_rcu|kvfree_rcu_cb|kmem_cache_(shrink|destroy|prefill_sheaf|return_sheaf)"
    r"|__kmem_cache_(shrink|shutdown|release|alloc_node|free|create|create_args)|___cache_free"
    r"|__kmalloc(_node)?(_noprof)?|__kfree_rcu_sheaf|flush_all_rcu_sheaves|slab_(prepare|dead)_cpu"
    r"|(__)?memcg_alloc_slab_cgroups|alloc_slab_obj_exts|do_kmem_cache_create"
)
# What tells, prints or tunes, and what is over when the kernel has booted.
_NOT = re.compile(
    r"slabinfo|slab_debug|_show$|_store$|show|print|debugfs|sysfs|setup_sl|slub_set|validate|process_slab|_err$"
    r"|bootstrap|_init|init_list|_bug$|_fix$|_setup$|set_up|object_err|tracking|cmp_|order"
    r"|slab_attr|calculate|out_of_memory|cpumask|_cold$|loc_track|trace|count_partial"
)


class Function(NamedTuple):
    """A function as it was compiled."""

    name: str
    """As in the source."""
    address: int
    """Where it begins, if the kernel is where it was linked to."""
    size: int
    """Bytes of its code."""


def functions(vmlinux: Path) -> List[Function]:
    """
    Return the functions that allocate, free, and move slabs.

    :raises LabError: if the symbols cannot be read.
    """
    found: Dict[str, Function] = {}
    file = ""
    for line in output(["readelf", "--symbols", "--wide", str(vmlinux)]).splitlines():
        words = line.split()
        if len(words) < 8:
            continue
        _, address, size, kind, binding, _, _, symbol = words[:8]
        if kind == "FILE":
            file = symbol
        if kind != "FUNC" or ".cold" in symbol:
            continue
        name = symbol.partition(".")[0]
        ours = file in _FILES and not _NOT.search(name) if binding == "LOCAL" else False
        if ours or _GLOBAL.fullmatch(name):
            found[name] = Function(name, int(address, 16), int(size, 0))
    return sorted(found.values())
