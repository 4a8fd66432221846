# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Names of merged caches
----------------------

SLUB merges caches of like size and keeps one name. The others remain only as
symbolic links under ``/sys/kernel/slab``, in the kernel's own tree of them.
"""

from __future__ import annotations

from itertools import islice
from typing import Dict, List, Mapping, Optional, Tuple

from drgn import FaultError, cast, container_of
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.rbtree import rbtree_inorder_for_each_entry

from ..machine import Machine

_MAX_LINKS = 1 << 16  # names under /sys/kernel/slab; damage must not make the walk endless


def cache_aliases(machine: Machine) -> Optional[Mapping[int, Tuple[str, ...]]]:
    """
    Return the names that were merged into each cache.

    :return: Address of the ``struct kmem_cache`` to the other names, sorted and
        escaped; ``None`` if they are not known: SLAB, no CONFIG_SYSFS, or the
        target lacks that memory (captures do).
    """
    found: Dict[int, List[str]] = {}
    try:
        children = machine.prog["slab_kset"].kobj.sd.dir.children
        is_link = machine.prog.constant("KERNFS_LINK")
        nodes = rbtree_inorder_for_each_entry("struct kernfs_node", children.address_of_(), "rb")
        for node in islice(nodes, _MAX_LINKS):
            if not node.flags & is_link:
                continue
            kobject = cast("struct kobject *", node.symlink.target_kn.priv)
            cache = container_of(kobject, "struct kmem_cache", "kobj")
            name = node.name.string_()
            if name != cache.name.string_():
                escaped = escape_ascii_string(name, escape_backslash=True)
                found.setdefault(cache.value_(), []).append(escaped)
    except (AttributeError, FaultError, LookupError):
        return None
    return {address: tuple(sorted(names)) for address, names in found.items()}
