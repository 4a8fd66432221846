# SPDX-License-Identifier: LGPL-2.1-or-later
"""The members that all caches of a machine are asked for, to judge each by the others."""

from __future__ import annotations

import re
from functools import cached_property
from itertools import chain
from typing import Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

import numpy as np
from drgn import FaultError

from ..codes import ADDRESS, WORD
from ..distinct import distinct
from ..ledger import I64, U64, Bools, Suspect
from ..machine import Machine
from ..machine.columns import Rows
from ..rules.alike import (
    Flags,
    Odd,
    Ring,
    judge_common,
    judge_home,
    judge_ring,
    judge_slab_caches,
    judge_slab_nodes,
    judge_slub_caches,
    judge_slub_nodes,
    usual,
)
from ..rules.names import judge_characters, judge_names
from .caches import Caches, in_kmalloc_table, names_in_sysfs, read_caches
from .members import at_member, per_node_offset
from .nodes import Nodes, node_pointers, read_nodes
from .whereabouts import find_slab, in_no_slab

_MEMBERS = """
    cpu_cache cpu_slab cpu_sheaves
    flags size object_size align refcount useroffset usersize random_seq ctor allocflags
    colour_off obj_offset offset inuse sheaf_capacity min_partial remote_node_defrag_ratio
    cpu_partial cpu_partial_slabs oo.x max.x gfporder num
    reciprocal_size.m reciprocal_size.sh1 reciprocal_size.sh2
    reciprocal_buffer_size.m reciprocal_buffer_size.sh1 reciprocal_buffer_size.sh2
    kobj.name kobj.sd kobj.parent kobj.kset kobj.ktype kobj.kref.refcount.refs.counter
    kobj.state_initialized kobj.state_in_sysfs kobj.state_add_uevent_sent
    kobj.state_remove_uevent_sent kobj.uevent_suppress
""".split()
# Values of the macros before Linux kernel commit cc61eb85b1a7 ("mm, slab: use
# an enum to define SLAB_ cache creation flags") (in v6.9).
_MACROS = {
    "CONSISTENCY_CHECKS": 0x100,
    "RED_ZONE": 0x400,
    "POISON": 0x800,
    "KMALLOC": 0x1000,
    "CACHE_DMA": 0x4000,
    "CACHE_DMA32": 0x8000,
    "STORE_USER": 0x10000,
    "RECLAIM_ACCOUNT": 0x20000,
    "TYPESAFE_BY_RCU": 0x80000,
    "TRACE": 0x200000,
    "CMPXCHG_DOUBLE": 0x40000000,
    "OBJECT_POISON": 0x80000000,
}
_KNOWN = 0xFFFFFD00  # by the macros
_KMALLOC = ("kmalloc-", "dma-kmalloc-")
_OWN = ("kmem_cache", "kmem_cache_node")
"""Those that the allocator lives in, and that it makes before all others."""

# What a cache is called, for itself and in sysfs; names may be the kernel's own words.
_IN_SLABS = ("name", "kobj.name", "kobj.sd")

# What a cache has of each node.
_OF_NODE = re.compile(r"(node|barn)\[([0-9]+)\]")

Suspects = Dict[int, List[Suspect]]
"""What is wrong with caches, by ``struct kmem_cache *``."""


class ByOthers:
    """
    What is wrong with caches by what all of them have in common, found when it is asked for.

    :param caches: Those of a reading.
    """

    def __init__(self, machine: Machine, caches: Caches) -> None:
        self._machine = machine
        self._caches = caches
        self._known: Dict[int, List[Suspect]] = {}

    def of(self, number: int, whole: bool) -> List[Suspect]:
        """
        Return what is wrong with one cache.

        :param whole: Whether the whole machine is read. Else what all caches are called is
            looked for in slabs only if what this one is called is in none, and what all their
            constructors are only if this one's is no function.
        """
        if whole:
            return self._of(self._with_names, number)
        found = self._known.get(number)
        if found is None:
            odd = _is_odd(self._machine, self._caches.rows, number)
            wrong = self._with_names if odd else self._machine.settled(_by_listed)
            found = self._known[number] = self._of(wrong, number)
        return found

    def _of(self, wrong: Suspects, number: int) -> List[Suspect]:
        return wrong.get(int(self._caches.addresses[number]), [])

    @cached_property
    def _with_names(self) -> Suspects:
        rows, listed = self._caches.rows, _listed(self._caches)
        astray = _astray(self._machine, rows, listed)
        homes = (
            judge_home(rows[name][listed], column, name)
            for name, column in zip(_names_of(rows), astray)
        )
        found = chain.from_iterable(homes)
        return _judge(self._machine, self._caches, found, _inside_functions)


def _is_odd(machine: Machine, rows: Rows, number: int) -> bool:
    # Whether that has to be known of all caches to judge one.
    inside = _inside_functions(machine, rows["ctor"][number : number + 1])
    return bool(inside.any() or _astray(machine, rows, np.array([number])).any())


def _names_of(rows: Rows) -> List[str]:
    return [name for name in _IN_SLABS if rows.structure.has(name)]


def _astray(machine: Machine, rows: Rows, numbers: I64) -> Bools:
    # What caches are called that is in no slab: shape (names, caches).
    pointers = np.array([rows[name][numbers] for name in _names_of(rows)], np.uint64)
    return in_no_slab(machine, pointers.reshape(-1)).reshape(pointers.shape)


def _listed(caches: Caches) -> I64:
    return np.flatnonzero(caches.listed & caches.rows.ok)


def _by_listed(machine: Machine) -> Suspects:
    return _judge(machine, machine.settled(read_caches), (), _inside_none)


def _judge(
    machine: Machine,
    caches: Caches,
    besides: Iterable[Odd],
    inside: Callable[[Machine, U64], U64],
) -> Suspects:
    rows, listed = caches.rows, _listed(caches)
    cache = _columns(machine, rows, listed)
    cache["inside"] = inside(machine, cache["ctor"])
    _add_nodes(machine, caches, listed, cache)
    flags = machine.fact(_flags)
    names = [caches.names[number] for number in listed.tolist()]
    is_kmalloc = np.array([name.startswith(_KMALLOC) for name in names], np.bool_)
    in_table = in_kmalloc_table(machine, rows.addresses[listed])
    early = is_kmalloc | np.isin(names, _OWN) | ~caches.named[listed]
    cache["early"] = (early if in_table is None else early | in_table).astype(np.uint64)
    found = list(judge_common(cache, caches.all_known))
    found += judge_characters(names, rows["name"][listed])
    if rows.structure.has("oo"):
        if in_table is not None:
            # Another may have got the name.
            is_kmalloc = in_table & (is_kmalloc | ~caches.named[listed])
        found += judge_slub_caches(cache, flags, is_kmalloc)
    else:
        found += judge_slab_caches(cache, flags)
    if rows.structure.has("kobj.entry.next"):
        found += judge_ring(_ring(machine, caches, listed), "kobj.entry")
        found += _judge_names(machine, caches, listed)
    found += besides
    wrong = _by_cache(machine, found, rows, listed, caches)
    for at, some in _judge_nodes(machine, caches).items():
        wrong.setdefault(at, []).extend(some)
    for row, damaged in caches.wrong.items():
        wrong.setdefault(int(rows.addresses[row]), []).insert(0, damaged)
    return wrong


def _judge_names(machine: Machine, caches: Caches, listed: I64) -> Iterator[Odd]:
    directories = names_in_sysfs(machine, caches)
    rows = listed.tolist()
    names = [caches.names[number] if caches.named[number] else None for number in rows]
    called = [directories[number] for number in rows]
    return judge_names(names, called, caches.rows["name"][listed], caches.rows["size"][listed])


def _judge_nodes(machine: Machine, caches: Caches) -> Suspects:
    nodes = read_nodes(machine, caches, every=True)
    # What two caches or nodes lead to is judged once.
    first = np.zeros(len(nodes.rows), np.bool_)
    first[np.unique(nodes.rows.addresses, return_index=True)[1]] = True
    there = np.flatnonzero(nodes.rows.ok & caches.listed[nodes.cache] & first)
    owner = nodes.cache[there]
    node = {
        name: nodes.rows[name][there]
        for name in ("colour_next", "free_touched", "next_reap", "barn")
        if nodes.rows.structure.has(name)
    }
    if caches.rows.structure.has("colour"):
        found = judge_slab_nodes(node, caches.rows["colour"][owner], _jiffies(machine))
    else:
        found = judge_slub_nodes(node)
    return _by_cache(machine, found, nodes.rows, there, caches, nodes)


def _columns(machine: Machine, rows: Rows, listed: I64) -> Dict[str, U64]:
    cache = {name: rows[name][listed] for name in _MEMBERS if rows.structure.has(name)}
    cache["order"] = cache["oo.x"] >> np.uint64(16) if "oo.x" in cache else cache["gfporder"]
    # Of a slab: of SLUB in the lower half, as OO_MASK says.
    cache["objects"] = cache["oo.x"] & np.uint64(0xFFFF) if "oo.x" in cache else cache["num"]
    flags = machine.fact(_flags)
    cache["zones"] = np.full(len(listed), flags.zones, np.uint64)
    cache["linear"] = machine.memory.in_direct_map(cache["ctor"]).astype(np.uint64)
    return cache


def _inside_none(machine: Machine, pointers: U64) -> U64:
    return np.zeros(len(pointers), np.uint64)


def _inside_functions(machine: Machine, pointers: U64) -> U64:
    # 1 for what leads to other than the first byte of a function.
    inside = np.zeros(len(pointers), np.uint64)
    for one in distinct(pointers[pointers != 0]).tolist():
        inside[pointers == one] = machine.fact(_is_inside_function, one)
    return inside


def _is_inside_function(machine: Machine, address: int) -> bool:
    try:
        return machine.prog.symbol(address).address != address
    except (LookupError, OverflowError):
        return False


def _add_nodes(machine: Machine, caches: Caches, listed: I64, cache: Dict[str, U64]) -> None:
    # What a cache has of each node, and how many.
    paired = caches.rows.structure.has("per_node")
    for name in ("node", "barn") if paired else ("node",):
        owner, nid, pointers = node_pointers(machine, caches, name, every=True)
        for one in distinct(nid).tolist():
            column = np.zeros(len(caches), np.uint64)
            column[owner[nid == one]] = pointers[nid == one]
            cache[f"{name}[{one}]"] = column[listed]
        if paired:
            cache[f"{name}s"] = np.bincount(owner, minlength=len(caches))[listed].astype(np.uint64)


def _flags(machine: Machine) -> Flags:
    bits = machine.enumerators("_slab_flag_bits")
    values: Mapping[str, int] = _MACROS
    known = _KNOWN
    if bits:
        values = {name[len("_SLAB_") :]: 1 << bit for name, bit in bits.items()}
        known = (1 << bits.get("_SLAB_FLAGS_LAST_BIT", 32)) - 1

    def of(*names: str) -> int:
        return sum(values.get(name, 0) for name in names)

    return Flags(
        known=known,
        unchecked=of("CONSISTENCY_CHECKS", "STORE_USER", "TRACE"),
        cmpxchg=of("CMPXCHG_DOUBLE"),
        poison=of("POISON"),
        object_poison=of("OBJECT_POISON"),
        typesafe=of("TYPESAFE_BY_RCU"),
        red_zone=of("RED_ZONE"),
        kmalloc=of("KMALLOC"),
        no_sheaves=of("NO_SHEAVES"),
        # Since Linux kernel commit d345bd2e9834 ("mm: add kmem_cache_create_rcu()")
        # (in v6.12), which nothing but a later type tells from v6.9.
        inside=of("TYPESAFE_BY_RCU") if bits else 0,
        zones=of("CACHE_DMA", "CACHE_DMA32", "RECLAIM_ACCOUNT"),
    )


def _ring(machine: Machine, caches: Caches, listed: I64) -> Ring:
    # The list of the kset, whose head is no cache.
    rows, word = caches.rows, np.uint64(machine.memory.word_size)
    entry = rows.addresses[listed] + np.uint64(rows.structure.offset("kobj.entry"))
    ahead, behind = rows["kobj.entry.next"][listed], rows["kobj.entry.prev"][listed]
    order = np.argsort(entry)

    def read(links: U64, member: int) -> Tuple[U64, Bools]:
        # A word of what links lead to, and whether it is there: mostly another of
        # these caches.
        at = order[np.minimum(np.searchsorted(entry, links, sorter=order), len(entry) - 1)]
        own = entry[at] == links
        found = np.where(own, (behind if member else ahead)[at], np.uint64(0))
        gathered = machine.memory.gather(links[~own] + word * np.uint64(member), int(word))
        found[~own] = gathered.bytes.view(machine.memory.word)[:, 0]
        own[~own] = gathered.ok
        return found, own

    (back, here), (forth, there) = read(ahead, 1), read(behind, 0)
    head = usual(rows["kobj.kset"][listed])
    # What is right before the one is right behind the other.
    beyond, before = read(back, 0)[0], read(forth, 1)[0]
    of_slabs = caches.all_known
    gone = (_gone(machine, ahead, here, of_slabs), _gone(machine, behind, there, of_slabs))
    return Ring(entry, ahead, behind, back, forth, beyond, before, head, *gone)


def _gone(machine: Machine, addresses: U64, there: Bools, of_slabs: bool) -> Bools:
    # What is in a slab, and not in the target. Where more is missing, the slab may be, too.
    memory = machine.memory
    lost = memory.is_kernel_address(addresses) & ~there
    if not of_slabs:
        return lost
    pfns = (addresses - np.uint64(memory.linear_base)) >> np.uint64(memory.page_shift)
    lost[lost] = [find_slab(machine, pfn).page is not None for pfn in pfns[lost].tolist()]
    return lost


def _jiffies(machine: Machine) -> Optional[int]:
    if machine.is_live:
        return None
    try:
        return int(machine.prog["jiffies_64"].value_())
    except (FaultError, LookupError):
        return None


def _by_cache(
    machine: Machine,
    found: Iterable[Odd],
    rows: Rows,
    which: I64,
    caches: Caches,
    nodes: Optional[Nodes] = None,
) -> Suspects:
    # Rows of the structures that the members are of, and whose each of them is.
    by_cache: Suspects = {}

    def whose(row: int) -> Tuple[int, Optional[int]]:
        at = int(which[row])
        return (at, None) if nodes is None else (int(nodes.cache[at]), int(nodes.nid[at]))

    for one in found:
        cache, nid = whose(one.row)
        what = one.what
        if one.beside is not None:
            beside, member = one.beside
            other, node = whose(beside)
            on = "" if node is None else f" of node {node}"
            what += f", where {member}{on} of {caches.names[other]} leads as well"
        suspect = Suspect(
            "cache-wrong" if nid is None else "container-state",
            what,
            node=nid,
            place=None if nid is None else "node",
            expected=one.expected,
            found=one.found,
            member=one.member,
            measure=ADDRESS if one.bits and one.found >> 47 else WORD if one.bits else None,
        )
        (suspect,) = at_member(rows, int(which[one.row]), [suspect])
        of_node = None if nodes is not None else _OF_NODE.fullmatch(one.member or "")
        if of_node:
            offset = per_node_offset(machine, of_node[1], int(of_node[2]))
            suspect = suspect._replace(word=int(caches.addresses[cache]) + offset)
        by_cache.setdefault(int(caches.addresses[cache]), []).append(suspect)
    return by_cache
