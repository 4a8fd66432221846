# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which cgroup a page is charged to
---------------------------------

A page of users names its memory cgroup; kernel memory an object cgroup, which
leads to one; a slab an array with an object cgroup for each object.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.cgroup import cgroup_path

from ..allocators.vectors import entry_of
from ..machine import Machine, has_contents

# Since Linux kernel commit 87944e2992bd ("mm: Introduce page memcg flags") (in
# v5.11), the lowest bits tell arrays and object cgroups apart.
_FLAGS = 7
_OBJECT_CGROUP = 2


def page_memcg(machine: Machine, value: int) -> Optional[str]:
    """
    Tell which memory cgroup a page is charged to that is no slab.

    :param value: ``memcg_data`` of the head, or ``mem_cgroup`` before Linux 5.11.
    """
    address = value & ~_FLAGS
    if not _is_address(machine, address):
        return None
    if value & _OBJECT_CGROUP:
        return f"{_of_object_cgroup(machine, address)}, by object cgroup 0x{address:x}"
    return _name(machine, address)


def slab_memcg(
    machine: Machine, value: int, objects: int, vector: Optional[Tuple[int, int]] = None
) -> Optional[str]:
    """
    Tell how many objects of a slab are charged to which memory cgroup.

    :param value: ``memcg_data`` of the slab, ``obj_cgroups`` or ``obj_exts``.
    :param objects: How many objects the slab has.
    :param vector: What :func:`~drgn_slabtype.allocators.vectors.vectors` says of the slab.
        Before Linux 7.0 the value says the same.
    """
    address = value & ~_FLAGS
    if not _is_address(machine, address):
        return None
    where = f"an object cgroup for each object, at 0x{address:x}"
    if vector is None:
        step, offset = entry_of(machine)
        vector = address + offset, step
    start, step = vector
    if not start:
        return where
    left_out = f"{where}, which is not in the target"
    if not has_contents(machine):
        return left_out
    places = np.uint64(start) + np.arange(objects, dtype=np.uint64) * np.uint64(step)
    gathered = machine.memory.gather(places, machine.memory.word_size)
    if not gathered.ok.all():
        return left_out
    cgroups: List[int] = gathered.bytes.view(machine.memory.word)[:, 0].tolist()
    found: Dict[str, int] = {}
    for cgroup in sorted(set(cgroups) - {0}):
        name = _of_object_cgroup(machine, cgroup)
        found[name] = found.get(name, 0) + cgroups.count(cgroup)
    told = [f"{count} charged to {name}" for name, count in found.items()]
    return f"{where}: {'; '.join(told) or 'no object charged'}"


def _is_address(machine: Machine, address: int) -> bool:
    return bool(machine.memory.is_kernel_address(np.array([address], np.uint64))[0])


def _of_object_cgroup(machine: Machine, address: int) -> str:
    try:
        if not _is_address(machine, address):
            raise FaultError("no kernel address", address)
        cgroup = Object(machine.prog, "struct obj_cgroup *", address).memcg.value_()
    except (AttributeError, FaultError, LookupError):
        return "a cgroup that is not in the target"
    return _name(machine, cgroup) if cgroup else "no cgroup"


def _name(machine: Machine, address: int) -> str:
    told = f"mem_cgroup 0x{address:x}"
    if not _is_address(machine, address):
        return told
    try:
        cgroup = Object(machine.prog, "struct mem_cgroup *", address).css.cgroup.read_()
        path = escape_ascii_string(cgroup_path(cgroup), escape_backslash=True)
        return f"{path} (inode {cgroup.kn.id.value_()}, {told})"
    except (AttributeError, FaultError, LookupError):
        return told
