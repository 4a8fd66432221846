# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLUB's structures in a dump, one by one
---------------------------------------

Read with drgn objects and nothing of the library, to find victims in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from drgn import FaultError, Object, Program, container_of, offsetof
from drgn.helpers.linux.list import list_for_each
from drgn.helpers.linux.mm import PageSlab
from drgn.helpers.linux.percpu import per_cpu, per_cpu_ptr

from ..language import NoVictim
from ..machine import Machine as AnyMachine
from ..machine import all_caches, has_member, node_ids

# The allocator's own objects; other damage is plainer in anybody else's.
_OWN = ("kmem_cache", "kmem_cache_node")
_FLAGS = {"RED_ZONE": 0x400, "POISON": 0x800, "STORE_USER": 0x10000, "KMALLOC": 0x1000}
_FLAGS["TYPESAFE_BY_RCU"] = 0x80000
_FLAGS["OBJECT_POISON"] = 0x80000000


@dataclass(frozen=True)
class Cache:
    """A slab cache."""

    object: Object = field(repr=False, compare=False)
    name: str
    address: int
    size: int
    object_size: int
    inuse: int
    offset: int
    order: int
    pad: int
    """Bytes of the left red zone before the first object."""
    random: Optional[int]
    flags: frozenset[str]
    nodes: Tuple[int, ...]
    """``struct kmem_cache_node *`` of each node; 0 where there is none."""
    barns: Tuple[int, ...]
    """``struct node_barn *`` of each node; 0 where there is none."""

    @property
    def debug(self) -> bool:
        """Whether the kernel checks what is in its objects."""
        return bool(self.flags & {"RED_ZONE", "POISON", "STORE_USER"})


@dataclass(frozen=True)
class Slab:
    """A slab, wherever it stands."""

    cache: Cache = field(repr=False)
    page: int
    start: int
    """Address of its memory."""
    order: int
    nid: int
    where: str
    """``partial``, ``full``, ``cpu``, ``cpu partial`` or ``nowhere``."""
    owner: int
    """Node or CPU."""
    inuse: int
    objects: int
    frozen: bool
    free: Tuple[int, ...] = field(repr=False)
    """The objects on its freelist, in order."""

    @property
    def quiet(self) -> bool:
        """Whether it is a slab that allows most kinds of damage."""
        usual = self.where == "partial" and self.cache.name not in _OWN
        return usual and len(self.free) >= 4 and self.inuse >= 2

    @property
    def first(self) -> int:
        """Address of the first object."""
        return self.start + self.cache.pad

    def slot(self, index: int) -> int:
        """Return the address of an object."""
        return self.first + index * self.cache.size


class CpuSlab(NamedTuple):
    """A ``struct kmem_cache_cpu`` that has a slab."""

    cache: Cache
    cpu: int
    address: int
    slab: Slab
    free: Tuple[int, ...]
    """The CPU's private freelist."""


class Chain(NamedTuple):
    """The slabs a CPU keeps for later."""

    cache: Cache
    cpu: int
    head: int
    """Address of the pointer to the first."""
    slabs: Tuple[Slab, ...]


class Sheaf(NamedTuple):
    """A ``struct slab_sheaf``."""

    cache: Cache
    place: str
    owner: int
    """CPU or node."""
    address: int
    capacity: int
    entries: Tuple[int, ...]
    holder: int
    """Address of the pointer to it; of the list head, for those in a barn."""


class Machine(AnyMachine):
    """Everything SLUB keeps in a dump."""

    def __init__(self, prog: Program) -> None:
        super().__init__(prog)
        self.caches: List[Cache] = [self._cache(object) for object in all_caches(prog)]
        self.by_address = {cache.address: cache for cache in self.caches}
        self._where: Dict[int, Tuple[str, int]] = {}
        self._find_listed()
        self.slabs: Dict[int, Slab] = {}
        """By ``struct slab *``, in the order of pages."""
        for page in self._pages():
            self.slabs[page] = self._slab(page)
        self._homes = {
            slab.start + at * 4096: slab
            for slab in self.slabs.values()
            for at in range(1 << slab.order)
        }
        self.cpu_slabs = list(self._cpu_slabs())
        self.chains = list(self._chains())
        self.sheaves = list(self._sheaves())
        self.parked = {entry for sheaf in self.sheaves for entry in sheaf.entries}
        self.parked |= {entry for cpu in self.cpu_slabs for entry in cpu.free}

    # Reading -----------------------------------------------------------------

    def _cache(self, cache: Object) -> Cache:
        flags = cache.flags.value_()
        names = frozenset(name for name, bit in _flags(self.prog).items() if flags & bit)
        nodes, barns = [], []
        for nid in range(node_ids(self.prog)):
            node, barn = _per_node(cache, nid)
            nodes.append(node)
            barns.append(barn)
        return Cache(
            cache,
            cache.name.string_().decode(),
            cache.value_(),
            cache.size.value_(),
            cache.object_size.value_(),
            cache.inuse.value_(),
            cache.offset.value_(),
            cache.oo.x.value_() >> 16,
            cache.red_left_pad.value_() if "RED_ZONE" in names else 0,
            cache.random.value_() if has_member(cache, "random") else None,
            names,
            tuple(nodes),
            tuple(barns),
        )

    def _find_listed(self) -> None:
        node_type = self.prog.type("struct kmem_cache_node")
        for cache in self.caches:
            for nid, address in enumerate(cache.nodes):
                if not address:
                    continue
                for kind in ("partial", "full"):
                    # Without CONFIG_SLUB_DEBUG there is no list of full slabs.
                    if not node_type.has_member(kind):
                        continue
                    for slab in self.listed_slabs(cache, nid, kind):
                        self._where[slab.value_()] = kind, nid
            for cpu in self.cpus if self.has_cpu_slabs else ():
                c = per_cpu_ptr(cache.object.cpu_slab, cpu)
                slab = c.member_(self.cpu_member)
                if slab:
                    self._where[slab.value_()] = "cpu", cpu
                for slab in self._chain(c):
                    self._where[slab.value_()] = "cpu partial", cpu

    @property
    def cpu_member(self) -> str:
        """The member of ``struct kmem_cache_cpu`` that points to the CPU's slab."""
        return "page" if self.descriptor == "struct page" else "slab"

    def _chain(self, c: Object) -> Iterator[Object]:
        slab = c.partial if c.type_.type.has_member("partial") else None
        while slab:
            yield slab
            slab = slab.next

    def _pages(self) -> List[int]:
        # Every page whose pointer names a cache and that is marked as slab.
        page = self.prog.type("struct page")
        size = page.size or 0
        at = self.offset("slab_cache")
        known = np.array(sorted(self.by_address), np.uint64)
        found = set(self._where)
        pool = _kfence_pool(self.prog)
        base = self.prog["vmemmap"].value_()
        for pfn in range(0, int(self.prog["max_pfn"]), 4096 // size):
            try:
                data = self.prog.read(base + pfn * size, 4096)
            except FaultError:
                continue
            words = np.frombuffer(data, np.uint8).reshape(-1, size)
            owners = np.ascontiguousarray(words[:, at : at + 8]).view("<u8")[:, 0]
            for row in np.flatnonzero(np.isin(owners, known)).tolist():
                address = base + (pfn + row) * size
                marked = PageSlab(Object(self.prog, "struct page *", address))
                if marked and self.address_of(address) not in pool:
                    found.add(address)
        return sorted(found)

    def _slab(self, page: int) -> Slab:
        slab = Object(self.prog, self.descriptor + " *", page)
        cache = self.by_address[slab.slab_cache.value_()]
        start = self.address_of(page)
        where, owner = self._where.get(page, ("nowhere", -1))
        order = cache.order if slab.objects.value_() * cache.size > 4096 else 0
        fits = (4096 << order) // cache.size == slab.objects.value_()
        if not fits:
            order = cache.object.min.x.value_() >> 16
        return Slab(
            cache,
            page,
            start,
            order,
            self.flags(page) >> (64 - self.nodes_shift),
            where,
            owner,
            slab.inuse.value_(),
            slab.objects.value_(),
            bool(slab.frozen),
            tuple(self.follow(cache, slab.freelist.value_(), start, 4096 << order)),
        )

    def follow(self, cache: Cache, head: int, start: int, span: int) -> Iterator[int]:
        """Yield the objects of a chain of free pointers, as long as it stays in one slab."""
        for _ in range(span // cache.size):
            if not start <= head < start + span:
                return
            yield head
            head = self.code(cache, head, self.prog.read_u64(head + cache.offset))

    def code(self, cache: Cache, holder: int, value: int) -> int:
        """Encode or decode the free pointer that an object holds."""
        if cache.random is None:
            return value
        where = holder + cache.offset
        return value ^ cache.random ^ int.from_bytes(where.to_bytes(8, "little"), "big")

    def _cpu_slabs(self) -> Iterator[CpuSlab]:
        for cache in self.caches:
            for cpu in self.cpus if self.has_cpu_slabs else ():
                c = per_cpu_ptr(cache.object.cpu_slab, cpu)
                slab = self.slabs.get(c.member_(self.cpu_member).value_())
                if slab is not None:
                    span = 4096 << slab.order
                    free = tuple(self.follow(cache, c.freelist.value_(), slab.start, span))
                    yield CpuSlab(cache, cpu, c.value_(), slab, free)

    def _chains(self) -> Iterator[Chain]:
        for cache in self.caches:
            for cpu in self.cpus if self.has_cpu_slabs else ():
                c = per_cpu_ptr(cache.object.cpu_slab, cpu)
                slabs = tuple(self.slabs[slab.value_()] for slab in self._chain(c))
                if slabs:
                    head = c.value_() + offsetof(c.type_.type, "partial")
                    yield Chain(cache, cpu, head, slabs)

    def _sheaves(self) -> Iterator[Sheaf]:
        for cache in self.caches:
            if not has_member(cache.object, "cpu_sheaves") or not cache.object.cpu_sheaves:
                continue
            capacity = cache.object.sheaf_capacity.value_()
            for cpu in self.cpus:
                own = per_cpu_ptr(cache.object.cpu_sheaves, cpu)
                for place in ("main", "spare", "rcu_free"):
                    sheaf = own.member_(place)
                    holder = own.value_() + offsetof(own.type_.type, place)
                    if sheaf and sheaf.cache.value_() == cache.address:
                        yield _sheaf(cache, f"{place} sheaf", cpu, sheaf, capacity, holder)
            for nid, address in enumerate(cache.barns):
                for kind in ("full", "empty") if address else ():
                    barn = Object(self.prog, "struct node_barn", address=address)
                    head = barn.member_(f"sheaves_{kind}").address_of_()
                    for link in list_for_each(head):
                        sheaf = container_of(link, "struct slab_sheaf", "barn_list")
                        place = f"{kind} barn"
                        yield _sheaf(cache, place, nid, sheaf, capacity, head.value_())

    def deferred(self, cpu: int) -> int:
        """
        Return the address of a CPU's list of deferred frees.

        :raises NoVictim: before Linux 6.18.
        """
        for name in ("deferred_percpu_work", "defer_free_objects"):
            try:
                variable = self.prog[name]
            except LookupError:
                continue
            return int(per_cpu(variable, cpu).objects.address_of_().value_())
        raise NoVictim("no deferred frees before 6.18")

    @property
    def has_cpu_slabs(self) -> bool:
        """Whether CPUs have slabs of their own, as they had before 7.0."""
        return self.prog.type("struct kmem_cache").has_member("cpu_slab")

    @property
    def mark(self) -> int:
        """The bit of a slab's flags that marks it as on a node's partial list; 0 before 6.8."""
        bit = 1 << _constant(self.prog, "SL_partial", "PG_workingset")
        partial = [slab for slab in self.slabs.values() if slab.where == "partial"]
        marked = sum(bool(self.flags(slab.page) & bit) for slab in partial)
        return bit if 2 * marked > len(partial) else 0

    # Finding -----------------------------------------------------------------

    def slab(self, what: str, where: Callable[[Slab], bool]) -> Slab:
        """
        Return the first slab for which a condition holds.

        :param what: The condition in words.
        :raises NoVictim: if there is none.
        """
        for slab in self.slabs.values():
            if slab.cache.name not in _OWN and where(slab):
                return slab
        raise NoVictim(f"no {what}")

    def quiet(self) -> Slab:
        """Return a slab on a node's partial list with several objects of both kinds."""
        return self.slab("partial slab with objects of both kinds", lambda slab: slab.quiet)

    def home(self, address: int) -> Optional[Slab]:
        """Return the slab an address lies in."""
        return self._homes.get(address & ~4095)

    def used(self, slab: Slab) -> List[int]:
        """Return the objects of a slab that users hold."""
        every = (slab.slot(index) for index in range(slab.objects))
        return [at for at in every if at not in slab.free and at not in self.parked]

    def listed(self, least: int, kind: str = "partial", nid: int = 0) -> List[Slab]:
        """
        Return a list of at least so many slabs, in its order.

        :raises NoVictim: if no list is that long.
        """
        for cache in self.caches:
            if cache.name in _OWN or not cache.nodes[nid]:
                continue
            found = [self.slabs[slab.value_()] for slab in self.listed_slabs(cache, nid, kind)]
            if len(found) >= least:
                return found
        raise NoVictim(f"no {kind} list of {least} slabs")

    def sheaf(self, what: str, where: Callable[[Sheaf], bool]) -> Sheaf:
        """
        Return the first sheaf for which a condition holds.

        :raises NoVictim: if there is none.
        """
        for sheaf in self.sheaves:
            if where(sheaf):
                return sheaf
        raise NoVictim(f"no {what}" if self.sheaves else "no sheaves")


def _sheaf(
    cache: Cache, place: str, owner: int, sheaf: Object, capacity: int, holder: int
) -> Sheaf:
    entries = tuple(sheaf.objects[i].value_() for i in range(sheaf.size.value_()))
    return Sheaf(cache, place, owner, sheaf.value_(), capacity, entries, holder)


def _flags(prog: Program) -> Dict[str, int]:
    try:
        return {name: 1 << prog["_SLAB_" + name].value_() for name in _FLAGS}
    except LookupError:
        return _FLAGS


def _constant(prog: Program, *names: str) -> int:
    for name in names:
        try:
            return int(prog.constant(name))
        except LookupError:
            pass
    raise LookupError(f"no constant {names[-1]}")


def _kfence_pool(prog: Program) -> range:
    # Its pages look like slabs. The default of 255 objects takes 2 MiB.
    try:
        start = prog["__kfence_pool"].value_()
    except LookupError:
        return range(0)
    return range(start, start + (2 << 20)) if start else range(0)


def _per_node(cache: Object, nid: int) -> Tuple[int, int]:
    # The addresses of a cache's node structure and barn.
    if has_member(cache, "per_node"):
        pair = cache.per_node[nid]
        return pair.node.value_(), pair.barn.value_()
    node = cache.node[nid]
    barn = node.barn.value_() if node and has_member(node, "barn") else 0
    return node.value_(), barn
