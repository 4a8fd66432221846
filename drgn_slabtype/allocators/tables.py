# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of caches: where the kernel finds the cache for an allocation."""

from __future__ import annotations

from typing import Iterator, List, Optional, Tuple

import numpy as np
from drgn import FaultError, Object, Type, TypeKind, sizeof

from ..arguments import named
from ..codes import ADDRESS, Measure
from ..findings import Finding
from ..index import SlabIndex
from ..ledger import I64, U64
from ..machine import Machine
from ..rules.tables import Named, judge_kinds, judge_kmalloc, judge_size_index, usual_owner
from .caches import Caches
from .nodes import node_pointers

_INDEX = Measure("index")
_TABLE = "kmalloc_caches"
# The earlier name is that of other tables, too.
_SIZE_INDEX = (("kmalloc_size_index", None), ("size_index", "slab_common.c"))


def judge_tables(
    machine: Machine, caches: Caches, index: SlabIndex, owner: I64
) -> Iterator[Finding]:
    """
    Yield what is wrong with the variables that lead to caches.

    :param owner: Position of the cache of each row of the index; -1 for none.
    """
    if caches.lost is not None or not caches.listed.any():
        return  # a cache that is not known any more would be missed here, too
    yield from _kmalloc(machine, caches)
    nodes = node_pointers(machine, caches, "node", every=True)[2]
    for name, structures in (("kmem_cache", caches.addresses), ("kmem_cache_node", nodes)):
        yield from _root(machine, caches, name, _owners(index, owner, structures))


def _owners(index: SlabIndex, owner: I64, structures: U64) -> I64:
    rows = index.rows_of_addresses(structures)
    return np.where(rows >= 0, owner[rows], -1) if len(owner) else rows


def _root(machine: Machine, caches: Caches, name: str, owners: I64) -> Iterator[Finding]:
    # SLAB has its nodes from kmalloc(), and no variable for them.
    at = usual_owner(owners)
    variable = _variable(machine, name)
    if at is None or variable is None:
        return
    value, address = variable
    right = int(caches.addresses[at])
    if value != right:
        yield Finding(
            "machine-wrong",
            f"{name} is {named(value)}, and what is made from it lies in slabs of "
            f"{caches.names[at]}, 0x{right:x}",
            place=name,
            expected=right,
            found=value,
            word=address,
            measure=ADDRESS,
        )


def _variable(machine: Machine, name: str) -> Optional[Tuple[int, int]]:
    # The pointer in a variable, and where that is.
    try:
        found = machine.prog.variable(name)
        if found.address_ is None or found.type_.unaliased_kind() != TypeKind.POINTER:
            return None
        return machine.memory.read_word(int(found.address_)), int(found.address_)
    except (FaultError, LookupError):
        return None


def _kmalloc(machine: Machine, caches: Caches) -> Iterator[Finding]:
    try:
        variable = machine.prog.variable(_TABLE)
        table = _rows(machine, variable)
    except (FaultError, LookupError):
        return
    if table is None:
        return
    listed = caches.listed
    names = [name for name, there in zip(caches.names, listed.tolist()) if there]
    sizes = caches.rows["object_size"][listed]
    wrong = judge_kmalloc(table, caches.addresses[listed], sizes, names)
    word = machine.memory.word_size
    if wrong is None:
        yield Finding(
            "not-understood",
            f"{_TABLE} was not judged: most of its entries lead to caches for other sizes, or none",
            place=_TABLE,
        )
        return
    others, renamed = judge_kinds(table, caches.addresses[listed], sizes, names)
    for entry in (*wrong, *others):
        at = int(variable.address_ or 0) + word * (entry.row * table.shape[1] + entry.column)
        yield Finding(
            "machine-wrong",
            f"{_TABLE}[{entry.row}][{entry.column}] at 0x{at:x} is {named(entry.found)}, which "
            f"{entry.why}",
            place=_TABLE,
            found=entry.found,
            word=at,
            measure=ADDRESS,
        )
    if not any(entry.row == 0 for entry in wrong):
        yield from _size_index(machine, table[0])
        yield from _state(machine) if table[0][-1] else ()
    for one in renamed:
        yield _misnamed(caches, np.flatnonzero(listed), names, one)


def _size_index(machine: Machine, row: U64) -> Iterator[Finding]:
    for name, file in _SIZE_INDEX:
        try:
            variable = machine.prog.variable(name, file)
            address = int(variable.address_ or 0)
            data = machine.memory.read(address, sizeof(variable))
            break
        except (FaultError, LookupError, TypeError):
            continue
    else:
        return
    index = np.frombuffer(data, np.uint8)
    for entry, right in judge_size_index(index, row) or ():
        at, found, size = address + entry, int(index[entry]), 8 * (entry + 1)
        yield Finding(
            "machine-wrong",
            f"{name}[{entry}] at 0x{at:x} is {found}: for {size - 7} to {size} bytes kmalloc() has "
            f"{_TABLE}[…][{right}]",
            place=name,
            expected=right,
            found=found,
            word=at,
            measure=_INDEX,
        )


def _state(machine: Machine) -> Iterator[Finding]:
    # As soon as kmalloc() has all of its caches, it is UP.
    try:
        variable = machine.prog.variable("slab_state")
        found, address = int(variable.value_()), variable.address_
        states = {one.name: one.value for one in variable.type_.enumerators or ()}
        ready = [states["UP"], states["FULL"]]
    except (AttributeError, FaultError, KeyError, LookupError):
        return
    if found not in ready:
        yield Finding(
            "machine-wrong",
            f"slab_state is {found}, and kmalloc() has all of its caches: it is UP or FULL then",
            place="slab_state",
            found=found,
            word=address,
            measure=Measure("number"),
        )


def _rows(machine: Machine, variable: Object) -> Optional[U64]:
    # As a table: a row for each kind of memory. Before Linux 4.19 there was one row.
    row = _plain(variable.type_.type)
    columns = row.length if row.kind == TypeKind.ARRAY else variable.type_.length
    if not columns or not variable.type_.length or variable.address_ is None:
        return None
    start = np.array([variable.address_], np.uint64)
    gathered = machine.memory.gather(start, sizeof(variable))
    if not gathered.ok.all():
        return None
    words = gathered.bytes.view(machine.memory.word)[0].astype(np.uint64)
    return words.reshape(-1, columns)


def _plain(type: Type) -> Type:
    # Since Linux 6.11 a row is a kmem_buckets.
    while type.kind == TypeKind.TYPEDEF:
        type = type.type
    return type


def _misnamed(caches: Caches, listed: I64, names: List[str], one: Named) -> Finding:
    at = int(listed[one.cache])
    return Finding(
        "cache-wrong",
        f"{names[one.cache]}: {_TABLE}[{one.row}][{one.column}] leads to it, and others in "
        f"that row are called {one.kind}…",
        cache=names[one.cache],
        found=int(caches.rows["name"][at]),
        word=int(caches.addresses[at]) + caches.rows.structure.offset("name"),
        member="name",
        measure=ADDRESS,
    )
