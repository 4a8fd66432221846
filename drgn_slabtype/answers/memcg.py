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

from ..machine import Machine
from ..machine.memory import U64

# Since Linux kernel commit 87944e2992bd ("mm: Introduce page memcg flags") (in
# v5.11), the lowest bits tell arrays and object cgroups apart.
_FLAGS = 7
_IS_VECTOR = 1
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
    :param vector: What :func:`vectors` says of the slab. Before Linux 7.0 the value
        says the same.
    """
    address = value & ~_FLAGS
    if not _is_address(machine, address):
        return None
    where = f"an object cgroup for each object, at 0x{address:x}"
    if vector is None:
        step, offset = _record(machine)
        vector = address + offset, step
    start, step = vector
    if not start:
        return where
    places = np.uint64(start) + np.arange(objects, dtype=np.uint64) * np.uint64(step)
    gathered = machine.memory.gather(places, machine.memory.word_size)
    if not gathered.ok.all():
        return where
    cgroups: List[int] = gathered.bytes.view(machine.memory.word)[:, 0].tolist()
    found: Dict[str, int] = {}
    for cgroup in sorted(set(cgroups) - {0}):
        name = _of_object_cgroup(machine, cgroup)
        found[name] = found.get(name, 0) + cgroups.count(cgroup)
    told = [f"{count} charged to {name}" for name, count in found.items()]
    return f"{where}: {'; '.join(told) or 'no object charged'}"


def vectors(machine: Machine, pages: U64, stride: int) -> Tuple[U64, U64]:
    """
    Return where the record of object 0 of each slab lies, and how far apart they are.

    :param pages: ``struct slab *`` of slabs of one cache: shape (n,).
    :param stride: Bytes from one of its objects to the next.
    :return: Address of a ``struct obj_cgroup *``, 0 where a slab has none, and bytes
        from one to the next: shapes (n,).
    """
    name = f"struct {machine.layout.slab_struct}"
    rows = machine.rows(name, pages)
    layout = rows.structure
    zeroes = np.zeros(len(rows), np.uint64)
    # obj_cgroups to Linux 5.10, memcg_data to 6.9, obj_exts since.
    member = next((m for m in ("obj_exts", "memcg_data", "obj_cgroups") if layout.has(m)), None)
    if member is None:
        return zeroes, zeroes
    word = rows[member]
    pointer = word & ~np.uint64(_FLAGS)
    good = rows.ok & (word & np.uint64(_IS_VECTOR) != 0) & machine.memory.is_kernel_address(pointer)
    size, offset = _record(machine)
    step = np.full(len(rows), size, np.uint64)
    if layout.has("stride"):
        # Linux 7.0 to 7.2: in the slots themselves they are a slot apart.
        step = rows["stride"]
    elif layout.has("obj_exts_in_object"):
        # Since Linux 7.3 an entry is a pointer for each of what a slab needs.
        needed = rows["obj_exts_needs_objcg"] != 0
        profiled = machine.structure("struct slabobj_ext").has("_ctref")
        within = rows["obj_exts_in_object"] != 0
        step = np.where(within, np.uint64(stride), step * (1 + np.uint64(profiled)))
        good &= needed
    return np.where(good, pointer + np.uint64(offset), np.uint64(0)), step


def _record(machine: Machine) -> Tuple[int, int]:
    # Bytes of what is kept of one object, and where the object cgroup is in it.
    try:
        # Since Linux kernel commit 21c690a349ba ("mm: introduce slabobj_ext to
        # support slab object extensions") (in v6.10).
        entry = machine.structure("struct slabobj_ext")
    except LookupError:
        return machine.memory.word_size, 0
    return entry.size, entry.offset("objcg") if entry.has("objcg") else 0


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
