# SPDX-License-Identifier: LGPL-2.1-or-later
"""The structures of SLAB."""

from __future__ import annotations

from typing import Any, Collection, Dict, Iterator

from drgn import offsetof

from .structures import Kernel, Structure, numbers


class SlabKernel(Kernel):
    """A kernel with SLAB."""

    def features(self, cache: Any) -> Collection[str]:
        """Return where it keeps its index arrays, and whether it has debugging."""
        return [cache.mode, *(["debugging"] if cache.lead else [])]

    def of(self, cache: Any) -> Iterator[Structure]:
        """Yield the structures of one cache, one of each kind."""
        yield from self.common(cache)
        yield from self._arrays(cache)
        for slab in self.slabs(cache):
            yield from self._freelist(slab)
            if cache.lead:
                yield from self._objects(slab)

    def _arrays(self, cache: Any) -> Iterator[Structure]:
        machine = self.machine
        found: Dict[str, Any] = {}
        for array in machine.arrays_of(cache):
            kept = found.get(array.place)
            if kept is None or (not kept.entries and array.entries):
                found[array.place] = array
        beside = machine.arrays_of(self.beside(cache))
        for place, array in found.items():
            peer = next((one.address for one in beside if one.place == place), 0)
            name = f"array_cache ({place.split()[0]})"
            yield from self.copy(name, "struct array_cache", array.address, cache, peer)
            count = len(array.entries)
            entries = [("first entry", 0)] if count else []
            entries += [("last entry", count - 1)] if count > 1 else []
            entries += [("entry behind the last", count)] if count < array.limit else []
            for what, position in entries:
                at, other = array.entry(position).address, peer and peer + 8 * position
                members = numbers((what, 0, 8))
                yield Structure(name, at, members, cache.name, other)
        node = cache.node().object
        if node.alien:
            yield Structure("alien_cache table", node.alien.value_(), self._table(node), cache.name)
        if "alien array" in found:
            lead = offsetof(self.prog.type("struct alien_cache"), "ac")
            at = found["alien array"].address - lead
            yield from self.copy("alien_cache", "struct alien_cache", at, cache)

    def _table(self, node: Any) -> Any:
        return numbers(*((f"node {nid}", 8 * nid, 8) for nid in (0, 1)))

    def _freelist(self, slab: Any) -> Iterator[Structure]:
        if not slab.freelist:
            return
        width, active, last = self.machine.index_bytes, slab.counted, slab.objects - 1
        places = {"stale entry": 0} if active else {}
        if active <= last:
            places = {**places, "first free": active, "last free": last}
        for what, position in places.items():
            at = slab.freelist + position * width
            yield Structure("index array", at, numbers((what, 0, width)), slab.cache.name)

    def _objects(self, slab: Any) -> Iterator[Structure]:
        # With CONFIG_DEBUG_SLAB: what lies before, in and behind an object.
        cache = slab.cache
        users = [item.slot for item in slab.used()][:1]
        free = [slab.slot(index) for index in slab.free[:1]]
        end = cache.lead + cache.object.object_size.value_()
        for what, slots in (("in use", users), ("free", free)):
            for slot in slots:
                named = [("red zone before", cache.lead - 8, 8)] if cache.lead else []
                if what == "free":
                    named += [("contents", cache.lead, 8), ("last contents", end - 8, 8)]
                named += [("behind", at, 8) for at in range(-(-end // 8) * 8, cache.size - 7, 8)]
                name = f"object ({what}), debugging"
                yield Structure(name, slot, numbers(*named), cache.name)
