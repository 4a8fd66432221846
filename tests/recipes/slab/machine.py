# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB's structures in a dump, one by one
---------------------------------------

Read with drgn objects and nothing of the library, to find victims in.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Sequence

from drgn import Object, Program, offsetof, sizeof
from drgn.helpers.linux.percpu import per_cpu_ptr

from ..changes import Spot
from ..machine import Machine as AnyMachine
from ..machine import all_caches, has_member, node_ids
from ..things import AnyCache, AnySlab, Container, Item

KINDS = ("partial", "full", "free")


class Cache(AnyCache):
    """A slab cache."""

    machine: Machine

    def __init__(self, machine: Machine, object: Object) -> None:
        super().__init__(machine, object)
        self.nodes = [object.node[nid].value_() for nid in range(node_ids(machine.prog))]
        self.flags: int = object.flags.value_()
        self.num: int = object.num.value_()
        self.order = object.gfporder.value_()
        self.lead = object.obj_offset.value_() if has_member(object, "obj_offset") else 0
        self.colours = max(object.colour.value_(), 1)
        self.freelist_size: int = object.freelist_size.value_()
        self.mode = "off-slab" if self.flags >> 31 else "on-slab"
        """``on-slab``, ``off-slab`` or ``objfreelist``."""
        if self.flags & 0x40000000:
            self.mode = "objfreelist"


class Slab(AnySlab):
    """A slab on a list, where ``free`` are the indexes of its free objects, in order."""

    cache: Cache
    machine: Machine

    def __init__(self, cache: Cache, page: int, where: str, nid: int) -> None:
        super().__init__(cache, page, where, nid)
        prog, slab = cache.machine.prog, self.machine.described(page)
        self.objects = cache.num
        if self.machine.layout == "rfc-v3":
            self.counted = ~slab.page_type.value_() & 0xFFFF
        else:
            self.counted = slab.active.value_()
        if self.machine.layout == "alternative-2":
            self.first = self.start + slab.s_mem_offset.value_()
        else:
            self.first = slab.s_mem.value_()
        self.freelist: int = slab.freelist.value_()
        width = self.machine.index_bytes
        data = prog.read(self.freelist, cache.num * width) if self.freelist else b""
        self.indexes: Sequence[int] = memoryview(data).cast("B" if width == 1 else "H")
        """The index array, stale entries too; empty where there is none."""
        self.free: Sequence[int] = self.indexes[self.counted :].tolist() if data else ()

    @property
    def quiet(self) -> bool:
        """Whether it has several objects of both kinds."""
        usual = self.where == "partial" and 2 <= self.counted <= self.objects - 3
        return usual and not self.machine.holds_vectors(self)

    def spot(self, path: str) -> Spot:
        """Return where a member stands; ``active`` and ``s_mem`` wherever this layout has them."""
        prog, layout = self.machine.prog, self.machine.layout
        if path == "active" and layout == "rfc-v3":
            # What the kernel's arithmetic makes of the whole word.
            at = super().spot("word").address
            return Spot(prog, at, 4, encode=_complement, decode=_complement)
        if path == "active" and layout == "alternative-2":
            at = offsetof(prog.type(self.machine.descriptor), "__page_flags") + 40
            return Spot(prog, self.page + at, 2)
        if path == "active":
            return super().spot("word")
        if path == "s_mem" and layout == "alternative-2":
            return Spot(prog, self.page + 42, 2, encode=lambda address: address - self.start)
        return super().spot(path)

    def entry(self, position: int) -> Spot:
        """Return where an entry of the index array stands."""
        width = self.machine.index_bytes
        return Spot(self.machine.prog, self.freelist + position * width, width)

    def parked(self) -> Dict[int, Container]:
        """Return the indexes of its objects that are in array caches."""
        inside = range(self.start, self.start + self.span)
        return {
            self.index(entry): array
            for array in self.machine.arrays_of(self.cache)
            for entry in array.entries
            if entry in inside
        }

    def used(self) -> Iterator[Item]:
        """Yield the objects that users hold."""
        taken = {*self.free, *self.parked()}
        for index in range(self.objects):
            if index not in taken:
                yield Item(self, self.slot(index))


class Machine(AnyMachine):
    """Everything SLAB keeps in a dump."""

    lists = "slabs_"

    def __init__(self, prog: Program) -> None:
        super().__init__(prog)
        # How the count is kept: in the page type word (RFC v3), in 16 bits
        # beside the offset of the first object (Alternative 2), or plain.
        self.layout = "plain"
        if self.descriptor == "struct slab" and _bits(prog, self.descriptor) is None:
            self.layout = "rfc-v3"
        elif _bits(prog, self.descriptor) == 16:
            self.layout = "alternative-2"
        self.index_bytes = sizeof(prog.type("freelist_idx_t"))
        self.caches = [Cache(self, object) for object in all_caches(prog)]
        for cache in self.caches:
            self._enter(
                Slab(cache, page, kind, nid)
                for nid, node in enumerate(cache.nodes)
                for kind in (KINDS if node else ())
                for page in self._on_list(cache, nid, kind)
            )
            self.containers += self._arrays(cache)

    def _arrays(self, cache: Cache) -> Iterator[Container]:
        for cpu in self.cpus:
            yield _array(cache, "cpu", cpu, per_cpu_ptr(cache.object.cpu_cache, cpu))
        for nid, address in enumerate(cache.nodes):
            if not address:
                continue
            node = cache.node(nid).object
            if node.shared:
                yield _array(cache, "shared", nid, node.shared)
            for other in range(len(cache.nodes)) if node.alien else ():
                if node.alien[other]:
                    yield _array(cache, "alien", nid, node.alien[other].ac.address_of_())

    def arrays_of(self, cache: Cache, kind: str = "") -> List[Container]:
        """Return the arrays of a cache, or those of one kind."""
        found = (array for array in self.containers if array.cache is cache)
        return [array for array in found if kind in array.place]

    def spare_arrays(
        self, caches: Optional[Sequence[Cache]] = None, nid: int = 0
    ) -> Iterator[Container]:
        """Yield an array of each cache that is neither nearly empty nor full."""
        for cache in self.caches if caches is None else caches:
            for array in self.arrays_of(cache, "cpu"):
                # Then no work explains what is in it.
                count = len(array.entries)
                full = count in (array.limit, array.limit - array.limit // 2)
                if count >= 4 and not full and self.node_of(array.entries[0]) == nid:
                    yield array
                    break

    def node_of(self, address: int) -> int:
        """Return the node whose lists hold the slab of an object."""
        home = self.home(address)
        return -1 if home is None else int(home.nid)


def _array(cache: Cache, kind: str, owner: int, array: Object) -> Container:
    limit, count = array.limit.value_(), array.avail.value_()
    return Container(
        cache, array, f"{kind} array", owner, kind == "cpu", limit, count, member="entry"
    )


def _complement(number: int) -> int:
    return 0xFFEFFFFF - number


def _bits(prog: Program, descriptor: str) -> Optional[int]:
    # Bits of the active count where it is a member of its own.
    try:
        member = prog.type(descriptor).member("active")
    except LookupError:
        return None
    return member.bit_field_size or 8 * sizeof(member.type)
