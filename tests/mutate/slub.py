# SPDX-License-Identifier: LGPL-2.1-or-later
"""The structures of SLUB."""

from __future__ import annotations

from typing import Any, Collection, Dict, Iterator, List, Tuple

from drgn.helpers.linux.percpu import per_cpu_ptr

from ..recipes.language import NoVictim
from ..recipes.machine import has_member
from .structures import Kernel, Structure, numbers


class SlubKernel(Kernel):
    """A kernel with SLUB."""

    def features(self, cache: Any) -> Collection[str]:
        """Return its flags."""
        return sorted(cache.flags)

    def of(self, cache: Any) -> Iterator[Structure]:
        """Yield the structures of one cache, one of each kind."""
        yield from self.common(cache)
        yield from self._cpus(cache)
        yield from self._sheaves(cache)
        for slab in self.slabs(cache):
            for what, at in _pointers(slab):
                yield Structure(f"freelist (slab {slab.where})", at, what, cache.name)
            if cache.debug:
                yield from self._objects(slab)
        yield from self._deferred()

    def _cpus(self, cache: Any) -> Iterator[Structure]:
        machine, beside = self.machine, self.beside(cache)
        if not machine.has_cpu_slabs:
            return
        layout = "struct kmem_cache_cpu"
        busy = [one for one in machine.cpu_slabs if one.cache is cache]
        chains = [one for one in machine.chains if one.cache is cache]
        for name, found in (
            ("kmem_cache_cpu (with a slab)", busy[:1]),
            ("kmem_cache_cpu (with partial slabs)", chains[:1]),
            ("kmem_cache_cpu (idle)", list(machine.idle(cache))),
        ):
            for one in found:
                peer = per_cpu_ptr(beside.object.cpu_slab, one.cpu).value_()
                yield from self.copy(name, layout, one.address, cache, peer)
        for one in busy[:1]:
            for entry in one.entries[:1]:
                at = cache.pointer(entry).address
                yield Structure("freelist (CPU)", at, numbers(("first", 0, 8)), cache.name)

    def _sheaves(self, cache: Any) -> Iterator[Structure]:
        machine, beside = self.machine, self.beside(cache)
        for nid, barn in enumerate(cache.barns):
            peer = beside.barns[nid] if nid < len(beside.barns) else 0
            yield from self.copy("node_barn", "struct node_barn", barn, cache, peer)
        if not has_member(cache.object, "cpu_sheaves") or not cache.object.cpu_sheaves:
            return
        own = per_cpu_ptr(cache.object.cpu_sheaves, machine.cpus[0]).value_()
        other = 0
        if beside.object.cpu_sheaves:
            other = per_cpu_ptr(beside.object.cpu_sheaves, machine.cpus[0]).value_()
        layout = "struct slub_percpu_sheaves"
        yield from self.copy("slub_percpu_sheaves", layout, own, cache, other)
        places: Dict[str, Any] = {}
        for sheaf in machine.sheaves:
            kept = places.get(sheaf.place)
            if sheaf.cache is cache and (kept is None or (not kept.entries and sheaf.entries)):
                places[sheaf.place] = sheaf
        for place, sheaf in places.items():
            others = (one.address for one in machine.sheaves if one.place == place)
            peer = next((one for one in others if one != sheaf.address), 0)
            name = f"slab_sheaf ({place})"
            yield from self.copy(name, "struct slab_sheaf", sheaf.address, cache, peer)
            for what, position in _positions(sheaf):
                at = sheaf.entry(position).address
                other = peer and at - sheaf.address + peer
                yield Structure(name, at, numbers((what, 0, 8)), cache.name, other)

    def _deferred(self) -> Iterator[Structure]:
        try:
            at = self.machine.deferred(self.machine.cpus[0])
        except NoVictim:
            return
        yield Structure("deferred frees", at, numbers(("objects.first", 0, 8)))

    def _objects(self, slab: Any) -> Iterator[Structure]:
        cache = slab.cache
        users = [item.slot for item in slab.used()[:1]]
        for what, slots in (("in use", users), ("free", list(slab.free[:1]))):
            for slot in slots:
                named: List[Tuple[str, int, int]] = []
                if what == "free":
                    named += _ends("contents", 0, cache.object_size)
                named += _ends("red zone", cache.object_size, cache.inuse)
                behind = range(-(-cache.behind_pointer // 8) * 8, cache.size - cache.pad - 7, 8)
                named += [(f"behind +0x{at - cache.inuse:x}", at, 8) for at in behind[:40]]
                named += _ends("left red zone", cache.size - cache.pad, cache.size)
                name = f"object ({what}), debugging"
                yield Structure(name, slot, numbers(*named), cache.name)


def _pointers(slab: Any) -> Iterator[Tuple[Any, int]]:
    for what, entry in zip(("first", "second"), slab.free[:2]):
        yield numbers((what, 0, 8)), slab.cache.pointer(entry).address
    if len(slab.free) > 2:
        yield numbers(("last", 0, 8)), slab.cache.pointer(slab.free[-1]).address


def _positions(sheaf: Any) -> Iterator[Tuple[str, int]]:
    count = len(sheaf.entries)
    if count:
        yield "first entry", 0
    if count > 1:
        yield "last entry", count - 1
    if count < sheaf.limit:
        yield "entry behind the last", count


def _ends(name: str, first: int, end: int) -> List[Tuple[str, int, int]]:
    # The first and the last bytes of a part of a slot, in words where it has them.
    width = min(8, end - first)
    if width <= 0:
        return []
    found = [(name, first, width)]
    return found + ([(f"{name}, last", end - width, width)] if end - first > 8 else [])
