# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Whose structures a cache leads to
---------------------------------

Nodes, and what CPUs have, do not say whose they are; what stands in them does: a
slab names its cache, and so does a sheaf. Where a cache leads to what is another's,
and that one not to its own, somebody has exchanged the pointers, or copied one over
the other. All that is read through them would be told of both caches, so that each is
read by its own again, where it is known, and the words in memory are damaged.
"""

from __future__ import annotations

from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np

from ..arguments import named
from ..codes import ADDRESS
from ..ledger import I64, U64, Bools, Suspect
from ..machine import Machine
from ..machine.columns import Rows, numbers_at
from ..machine.percpu import per_cpu_addresses
from ..pages.folios import head_pages
from .members import per_node_offset

_MOST = 8  # caches that are exchanged; of more it is not understood what they lead to
_LISTS = ("partial", "full", "slabs_partial", "slabs_full", "slabs_free")
_BARNS = ("sheaves_full", "sheaves_empty")


class _Kind(NamedTuple):
    # A pointer of every cache, and the caches that what it leads to is of: shape (caches,
    # witnesses), -1 where one tells nothing.
    member: str
    offset: int
    pointers: U64
    owners: I64

    @property
    def told(self) -> Tuple[I64, Bools]:
        # What all witnesses agree on, -1 if they do not, and whether it is more than one.
        most = self.owners.max(axis=1, initial=-1)
        agreed = ((self.owners == most[:, None]) | (self.owners < 0)).all(axis=1)
        told = np.where(agreed, most, -1).astype(np.int64)
        return told, np.count_nonzero(self.owners >= 0, axis=1) > 1


class _Exchanged(NamedTuple):
    # A pointer that leads to what is another cache's.
    row: int
    owner: int
    member: str
    offset: int
    right: int
    found: int


def settle_pointers(machine: Machine, rows: Rows, names: Sequence[str]) -> Dict[int, Suspect]:
    """
    Put pointers right, in this copy of the caches, that lead to what is another cache's.

    :param rows: ``struct kmem_cache`` each.
    :param names: Of the caches.
    :return: What is to be said of the words in memory, by row.
    """
    found: Dict[int, Suspect] = {}
    addresses = tuple(rows.addresses.tolist())
    for one in machine.fact(_find, addresses, rows.raw.shape[1]) if addresses else ():
        found[one.row] = Suspect(
            "cache-wrong",
            f"{one.member} is {named(one.found)}, which is that of {names[one.owner]}",
            expected=one.right or None,
            found=one.found,
            word=addresses[one.row] + one.offset,
            member=one.member,
            measure=ADDRESS,
        )
        right = np.array([one.right], machine.memory.word).tobytes()
        rows.overwrite(one.row, one.offset, right)
    return found


def _find(machine: Machine, addresses: Sequence[int], size: int) -> List[_Exchanged]:
    found: List[_Exchanged] = []
    rows = machine.rows("struct kmem_cache", np.array(addresses, np.uint64), size)
    for kind in _kinds(machine, rows):
        pointers, (told, sure) = kind.pointers, kind.told
        mine = np.arange(len(told))
        # What stands in that of the one is the other's, and nothing in that of the other.
        for row in np.flatnonzero((told >= 0) & (told != mine) & sure & (told[told] < 0)).tolist():
            if pointers[told[row]] != pointers[row]:
                told[told[row]] = row
        elsewhere = (told >= 0) & (told != mine)
        # That of the other is not its own either, or the same.
        wrong = elsewhere & (elsewhere[told] | (pointers[told] == pointers))
        numbers = np.flatnonzero(wrong).tolist()
        for row in numbers if len(numbers) <= _MOST else ():
            owners = np.flatnonzero(told == row)
            right = int(pointers[owners[0]]) if len(owners) else 0
            owner, leads = int(told[row]), int(pointers[row])
            found.append(_Exchanged(row, owner, kind.member, kind.offset, right, leads))
    return found


def _kinds(machine: Machine, rows: Rows) -> Iterator[_Kind]:
    memory, layout = machine.memory, rows.structure
    slab = machine.structure(f"struct {machine.layout.slab_struct}").offset("slab_cache")

    def column(offset: int) -> U64:
        found: U64 = numbers_at(rows.raw, offset, memory.word).astype(np.uint64)
        return memory.tags.removed(found) if memory.tags.used else found

    def of_slabs(pages: U64) -> I64:
        return _owners(rows, _words(machine, pages + np.uint64(slab), pages != 0))

    for nid in range(machine.node_ids):
        offset = per_node_offset(machine, "node", nid)
        pointers = column(offset)
        yield _Kind(f"node[{nid}]", offset, pointers, of_slabs(_listed(machine, pointers)))
        if layout.has("per_node"):
            offset = per_node_offset(machine, "barn", nid)
            pointers = column(offset)
            sheaves = _caches_of(machine, _in_barns(machine, pointers))
            yield _Kind(f"barn[{nid}]", offset, pointers, _owners(rows, sheaves))
    finds: Tuple[Tuple[str, Callable[[U64], I64]], ...] = (
        ("cpu_slab", lambda where: of_slabs(_slabs_of_cpus(machine, where[:, :2]))),
        ("cpu_sheaves", lambda where: _owners(rows, _sheaves_of_cpus(machine, where[:, :2]))),
        ("cpu_cache", lambda where: of_slabs(_slabs_of_arrays(machine, where))),
    )
    for member, find in finds:
        if layout.has(member):
            pointers = rows[member]
            owners = find(per_cpu_addresses(machine, pointers))
            yield _Kind(member, layout.offset(member), pointers, owners)


def _owners(rows: Rows, told: U64) -> I64:
    # The cache at each address.
    order = np.argsort(rows.addresses, kind="stable")
    known = rows.addresses[order]
    at = np.minimum(np.searchsorted(known, told), max(len(order) - 1, 0))
    return np.where(known[at] == told, order[at], -1).astype(np.int64)


def _words(machine: Machine, addresses: U64, there: Bools) -> U64:
    # One at each address, 0 where there is none.
    memory, where = machine.memory, (addresses * there).reshape(-1)
    read = memory.gather_words(where, memory.word_size, np.zeros(1, np.int64))
    return read.words[:, 0].reshape(addresses.shape)


def _ends(machine: Machine, kind: str, where: U64, lists: Sequence[str], link: int) -> U64:
    # The first and the last entry of the first list of each structure that has any.
    rows = machine.rows(kind, where)
    found = np.zeros((len(where), 2), np.uint64)
    for name in lists:
        if rows.structure.has(f"{name}.next"):
            ends = np.stack([rows[f"{name}.next"], rows[f"{name}.prev"]], axis=1)
            head = where + np.uint64(rows.structure.offset(name))
            there = rows.ok & (ends != head[:, None]).all(axis=1) & (found[:, 0] == 0)
            found[there] = ends[there] - np.uint64(link)
    found[found[:, 0] == found[:, 1], 1] = 0
    return found


def _listed(machine: Machine, nodes: U64) -> U64:
    slab = machine.structure(f"struct {machine.layout.slab_struct}")
    link = slab.offset("slab_list")
    return _ends(machine, "struct kmem_cache_node", nodes, _LISTS, link)


def _in_barns(machine: Machine, barns: U64) -> U64:
    link = machine.structure("struct slab_sheaf").offset("barn_list")
    return _ends(machine, "struct node_barn", barns, _BARNS, link)


def _of_cpus(machine: Machine, kind: str, where: U64, member: str) -> U64:
    return machine.rows(kind, where.reshape(-1))[member].reshape(where.shape)


def _slabs_of_cpus(machine: Machine, where: U64) -> U64:
    member = "slab" if machine.structure("struct kmem_cache_cpu").has("slab") else "page"
    return _of_cpus(machine, "struct kmem_cache_cpu", where, member)


def _sheaves_of_cpus(machine: Machine, where: U64) -> U64:
    return _caches_of(machine, _of_cpus(machine, "struct slub_percpu_sheaves", where, "main"))


def _caches_of(machine: Machine, sheaves: U64) -> U64:
    offset = np.uint64(machine.structure("struct slab_sheaf").offset("cache"))
    return _words(machine, sheaves + offset, sheaves != 0)


def _slabs_of_arrays(machine: Machine, where: U64) -> U64:
    # Of the first object that waits in each.
    memory, page = machine.memory, machine.page
    count = _of_cpus(machine, "struct array_cache", where, "avail")
    first = where + np.uint64(machine.structure("struct array_cache").offset("entry"))
    objects = _words(machine, first, count != 0)
    pfns = (objects - np.uint64(memory.linear_base)) >> np.uint64(memory.page_shift)
    pages = pfns * np.uint64(page.size) + np.uint64(page.vmemmap)
    there = memory.in_direct_map(objects) & (objects != 0)
    links = _words(machine, pages + np.uint64(page.compound), there)
    heads = np.where(links & np.uint64(1) != 0, head_pages(pages, links), pages)
    found: U64 = np.where(there, heads, np.uint64(0))
    # What one slab says of itself is said once, however many arrays hold objects of it.
    for cpu in range(1, found.shape[1]):
        found[(found[:, :cpu] == found[:, cpu : cpu + 1]).any(axis=1), cpu] = 0
    return found
