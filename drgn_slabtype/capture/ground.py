# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The machine's own regions
-------------------------

Memory that every check reads, whatever the allocator: the memory map and what
leads to it, variables, nodes and zones, KFENCE.
"""

from __future__ import annotations

from typing import Iterator, List, Tuple

import numpy as np
from drgn import FaultError, Object, Platform, Program, TypeKind, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.mm import for_each_valid_page_range
from drgn.helpers.linux.mmzone import NODE_DATA
from drgn.helpers.linux.nodemask import for_each_online_node

from ..machine import Machine
from ..machine.kfence import kfence_pool
from ..machine.memory import U64
from ..regions import Region, object_region, region
from . import roots
from .describe import find_variables

_FLAG_NAME_BYTES = 32  # more than any flag's name has


def variables(machine: Machine) -> Iterator[Region]:
    """Yield the memory of all variables that a capture knows."""
    for name, variable in find_variables(machine, roots.VARIABLES):
        yield object_region("variables", variable)
        if name == "pageflag_names":
            names = [variable[at].name.value_() for at in range(variable.type_.length or 0)]
            yield region("variables", [name for name in names if name], _FLAG_NAME_BYTES)
    for _, variable in find_variables(machine, roots.PER_CPU_VARIABLES):
        yield per_cpu_region(machine, "variables", variable.address_of_())


def memory_map(machine: Machine) -> Iterator[Region]:
    """Yield every ``struct page``."""
    size = sizeof(machine.prog.type("struct page"))
    for start, end, mem_map in for_each_valid_page_range(machine.prog):
        yield region("memory map", (mem_map + start).value_(), (end - start) * size)


def sections(machine: Machine) -> Iterator[Region]:
    """Yield what tells which parts of the memory map exist (SPARSEMEM)."""
    try:
        roots = machine.prog["mem_section"]
    except LookupError:
        return
    if roots.type_.kind == TypeKind.ARRAY:
        # Without SPARSEMEM_EXTREME the sections are the variable itself.
        assert roots.address_ is not None
        size = sizeof(machine.prog.type("struct mem_section"))
        addresses = _each(roots.address_, size, sizeof(roots) // size)
    else:
        source = machine.memory
        count = machine.prog["NR_SECTION_ROOTS"].value_()
        table = roots.value_()
        yield region("sections", table, count * source.word_size)
        pointers = source.gather(_each(table, source.word_size, count), source.word_size)
        root = pointers.bytes.view(source.word)[:, 0].astype(np.uint64)
        per_root = machine.prog["SECTIONS_PER_ROOT"].value_()
        size = sizeof(machine.prog.type("struct mem_section"))
        root = root[root != 0]
        yield region("sections", root, per_root * size)
        addresses = (root[:, None] + _each(0, size, per_root)).reshape(-1)
    rows = machine.rows("struct mem_section", addresses)
    if rows.structure.has("usage"):
        usage = rows["usage"]
        yield region(
            "sections", usage[usage != 0], sizeof(machine.prog.type("struct mem_section_usage"))
        )


def nodes(machine: Machine) -> Iterator[Region]:
    """Yield nodes and zones with their per-CPU counters."""
    for nid in for_each_online_node(machine.prog):
        node = NODE_DATA(machine.prog, nid)
        yield region("nodes", node.value_(), sizeof(node[0]))
        holders = [node, *node.node_zones]
        for holder in holders:
            # Since Linux kernel commit 28f836b6777b ("mm/page_alloc: split
            # per cpu page lists and zone stats") (in v5.14), a zone has
            # per_cpu_pageset and per_cpu_zonestats; before, pageset.
            for member in ("per_cpu_nodestats", "per_cpu_pageset", "per_cpu_zonestats", "pageset"):
                if hasattr(holder, member):
                    yield per_cpu_region(machine, "nodes", holder.member_(member))


def kfence(machine: Machine) -> Iterator[Region]:
    """Yield KFENCE's pool, masked, and what it knows about each of its objects."""
    pool = kfence_pool(machine)
    if pool.start:
        yield region("KFENCE", pool.start, pool.end - pool.start, masked=True)
        for rows in pool.metadata:
            yield region("KFENCE", rows.addresses[rows.ok], rows.structure.size, code=True)


def translation(machine: Machine) -> Iterator[Region]:
    """
    Yield the page tables that drgn walks to find the direct map.

    Where the architecture has no variable that says where the direct map is,
    drgn translates one address in it. Everything else in a capture is found by
    its virtual address and needs no page table.
    """
    source = machine.memory
    for physical, size in _walked(machine, machine.prog["saved_command_line"].value_()):
        yield region("page tables", source.phys_to_virt(np.array([physical], np.uint64)), size)


def _walked(machine: Machine, address: int) -> List[Tuple[int, int]]:
    # Let drgn walk and see which physical memory it reads.
    platform = machine.prog.platform
    assert isinstance(platform, Platform)
    seen: List[Tuple[int, int]] = []

    def read(physical: int, size: int, offset: int, is_physical: bool) -> bytes:
        data = machine.prog.read(physical, size, True)
        seen.append((physical, size))
        return data

    walker = Program(platform)
    walker.add_memory_segment(0, 1 << 63, read, True)
    walker.set_linux_kernel_custom(machine.prog["VMCOREINFO"].string_(), False)
    try:
        walker.read(address, 1)
    except FaultError:
        return seen  # the last read, of the address itself, fails in a capture
    return seen[:-1]


def per_cpu_addresses(machine: Machine, pointers: U64) -> U64:
    """Return where each per-CPU pointer leads for each possible CPU: shape (n × CPUs,)."""
    try:
        offset = machine.prog["__per_cpu_offset"]
    except LookupError:
        return pointers
    cpus = [offset[cpu].value_() for cpu in for_each_possible_cpu(machine.prog)]
    mask = np.uint64((1 << 8 * machine.memory.word_size) - 1)
    addresses = pointers[:, None] + np.array(cpus, np.uint64)[None, :]
    return (addresses & mask).reshape(-1)


def per_cpu_region(machine: Machine, what: str, pointer: Object) -> Region:
    """Return the region of what a per-CPU pointer leads to on each possible CPU."""
    addresses = per_cpu_addresses(machine, np.array([pointer.value_()], np.uint64))
    return region(what, addresses, sizeof(pointer[0]))


def _each(start: int, step: int, count: int) -> U64:
    return np.uint64(start) + np.uint64(step) * np.arange(count, dtype=np.uint64)
