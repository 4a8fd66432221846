# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLUB's structures in a dump
---------------------------

Read with drgn objects and nothing of the library, to find victims in.
"""

from __future__ import annotations

from typing import Any, Iterable, Iterator, List, Set

import numpy as np
from drgn import FaultError, Object, Program, container_of, offsetof
from drgn.helpers.linux.list import list_for_each
from drgn.helpers.linux.mm import PageSlab
from drgn.helpers.linux.percpu import per_cpu, per_cpu_ptr

from ..language import NoVictim
from ..machine import Machine as AnyMachine
from ..machine import all_caches, has_member
from ..overlay import order_of
from .things import Cache, Chain, CpuSlab, CpuStructure, Sheaf, Slab


class Machine(AnyMachine):
    """Everything SLUB keeps in a dump."""

    own = ("kmem_cache", "kmem_cache_node")

    def __init__(self, prog: Program) -> None:
        super().__init__(prog)
        self.caches: List[Cache] = [Cache(self, object) for object in all_caches(prog)]
        by_address = {cache.address: cache for cache in self.caches}
        standing = dict(self._standing())
        self._enter(
            Slab(
                by_address[self.described(page).slab_cache.value_()],
                page,
                standing.get(page, "nowhere"),
            )
            for page in self._pages(standing)
        )
        self.cpu_slabs = list(self._cpu_slabs())
        self.chains = list(self._chains())
        self.sheaves = list(self._sheaves())
        self.containers = [*self.cpu_slabs, *self.chains, *self.sheaves]
        self.parked: Set[int] = {entry for sheaf in self.sheaves for entry in sheaf.entries}
        """Free objects that are on no slab's freelist."""
        self.parked.update(entry for cpu in self.cpu_slabs for entry in cpu.entries)

    # Reading -----------------------------------------------------------------

    def _standing(self) -> Iterator[Any]:
        # The slabs on lists and CPUs, and where each stands.
        node_type = self.prog.type("struct kmem_cache_node")
        for cache in self.caches:
            for nid, address in enumerate(cache.nodes):
                # Without CONFIG_SLUB_DEBUG there is no list of full slabs.
                for kind in ("partial", "full") if address else ():
                    if node_type.has_member(kind):
                        for page in self._on_list(cache, nid, kind):
                            yield page, kind
        for _, _, c in self._cpu_structures():
            slab = c.member_(self.cpu_member)
            if slab:
                yield slab.value_(), "cpu"
            for slab in _chain(c):
                yield slab.value_(), "cpu partial"

    def _cpu_structures(self) -> Iterator[Any]:
        # Each cache, each CPU, and the struct kmem_cache_cpu * that they have.
        for cache in self.caches:
            for cpu in self.cpus if self.has_cpu_slabs else ():
                yield cache, cpu, per_cpu_ptr(cache.object.cpu_slab, cpu)

    @property
    def cpu_member(self) -> str:
        """The member of ``struct kmem_cache_cpu`` that points to the CPU's slab."""
        return "page" if self.descriptor == "struct page" else "slab"

    def _pages(self, standing: Iterable[int]) -> List[int]:
        # Every page whose pointer names a cache and that is marked as slab.
        page = self.prog.type("struct page")
        size = page.size or 0
        at = self.offset("slab_cache")
        known = np.array(sorted(cache.address for cache in self.caches), np.uint64)
        found = set(standing)
        pool = _kfence_pool(self.prog)
        base = self.prog["vmemmap"].value_()
        word = "<u8" if order_of(self.prog) == "little" else ">u8"
        for pfn in range(0, int(self.prog["max_pfn"]), 4096 // size):
            try:
                data = self.prog.read(base + pfn * size, 4096)
            except FaultError:
                continue
            words = np.frombuffer(data, np.uint8).reshape(-1, size)
            owners = np.ascontiguousarray(words[:, at : at + 8]).view(word)[:, 0]
            for row in np.flatnonzero(np.isin(owners, known)).tolist():
                address = base + (pfn + row) * size
                marked = PageSlab(Object(self.prog, "struct page *", address))
                if marked and self.address_of(address) not in pool:
                    found.add(address)
        return sorted(found)

    def _cpu_slabs(self) -> Iterator[CpuSlab]:
        for cache, cpu, c in self._cpu_structures():
            slab = self.slabs.get(c.member_(self.cpu_member).value_())
            if slab is not None:
                yield CpuSlab(cache, cpu, c, slab)

    def _chains(self) -> Iterator[Chain]:
        for cache, cpu, c in self._cpu_structures():
            slabs = [self.slabs[slab.value_()] for slab in _chain(c)]
            if slabs:
                yield Chain(cache, cpu, c, slabs)

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
                        yield Sheaf(cache, f"{place} sheaf", cpu, sheaf, capacity, holder)
            for nid, address in enumerate(cache.barns):
                for kind in ("full", "empty") if address else ():
                    barn = Object(self.prog, "struct node_barn", address=address)
                    head = barn.member_(f"sheaves_{kind}").address_of_()
                    for link in list_for_each(head):
                        sheaf = container_of(link, "struct slab_sheaf", "barn_list")
                        yield Sheaf(cache, f"{kind} barn", nid, sheaf, capacity, head.value_())

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

    def idle(self, cache: Cache) -> Iterator[CpuStructure]:
        """Yield what a cache keeps of the first CPU that has no slab of it."""
        busy = {found.cpu for found in self.cpu_slabs if found.cache is cache}
        for cpu in self.cpus if self.has_cpu_slabs else ():
            if cpu not in busy:
                yield CpuStructure(cache, cpu, per_cpu_ptr(cache.object.cpu_slab, cpu))
                return


def _chain(c: Object) -> Iterator[Object]:
    # The slabs that a CPU keeps.
    slab = c.partial if c.type_.type.has_member("partial") else None
    while slab:
        yield slab
        slab = slab.next


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
