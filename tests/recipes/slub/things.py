# SPDX-License-Identifier: LGPL-2.1-or-later
"""SLUB's structures, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, Optional, Sequence, Tuple

from drgn import Object, Program

from ..changes import Spot
from ..machine import has_member, node_ids
from ..things import AnyCache, AnySlab, Container, Item, Thing

if TYPE_CHECKING:
    from .machine import Machine

_FLAGS = {"RED_ZONE": 0x400, "POISON": 0x800, "STORE_USER": 0x10000, "KMALLOC": 0x1000}
_FLAGS["TYPESAFE_BY_RCU"] = 0x80000
_FLAGS["OBJECT_POISON"] = 0x80000000


class Cache(AnyCache):
    """A slab cache."""

    machine: Machine

    def __init__(self, machine: Machine, object: Object) -> None:
        super().__init__(machine, object)
        prog, flags = machine.prog, object.flags.value_()
        self.flags = frozenset(name for name, bit in flag_bits(prog).items() if flags & bit)
        self.object_size: int = object.object_size.value_()
        self.inuse: int = object.inuse.value_()
        self.offset: int = object.offset.value_()
        self.order = object.oo.x.value_() >> 16
        self.pad: int = object.red_left_pad.value_() if "RED_ZONE" in self.flags else 0
        """Bytes of the left red zone before the first object."""
        self.random: Optional[int] = None
        if has_member(object, "random"):
            self.random = object.random.value_()
        pairs = [_per_node(object, nid) for nid in range(node_ids(prog))]
        self.nodes = [node for node, _ in pairs]
        self.barns = [barn for _, barn in pairs]
        """``struct node_barn *`` of each node; 0 where there is none."""

    @property
    def debug(self) -> bool:
        """Whether the kernel checks what is in its objects."""
        return bool(self.flags & {"RED_ZONE", "POISON", "STORE_USER"})

    @property
    def behind_pointer(self) -> int:
        """Where in a slot the metadata begin that lie behind the free pointer."""
        return self.inuse + (8 if self.offset >= self.inuse else 0)

    def code(self, holder: int, value: int) -> int:
        """Encode or decode the free pointer that an object holds."""
        if self.random is None:
            return value
        where = holder + self.offset
        return value ^ self.random ^ int.from_bytes(where.to_bytes(8, "little"), "big")

    def pointer(self, holder: int) -> Spot:
        """Return where the free pointer stands that an object holds."""

        def code(value: int) -> int:
            return self.code(holder, value)

        return Spot(self.machine.prog, holder + self.offset, encode=code, decode=code)


class Slab(AnySlab):
    """
    A slab in ``partial``, ``full``, ``cpu``, ``cpu partial`` or ``nowhere``.

    Its ``free`` are the objects on its freelist, in order.
    """

    cache: Cache
    machine: Machine

    def __init__(self, cache: Cache, page: int, where: str) -> None:
        machine = cache.machine
        nid = machine.flags(page) >> (64 - machine.nodes_shift)
        super().__init__(cache, page, where, nid)
        slab = machine.described(page)
        self.objects = slab.objects.value_()
        self.counted = slab.inuse.value_()
        self.order = cache.order if self.objects * cache.size > machine.page_size else 0
        if self.span // cache.size != self.objects:
            self.order = cache.object.min.x.value_() >> 16
        self.first = self.start + cache.pad
        self.frozen = bool(slab.frozen)
        self.free: Sequence[int] = tuple(self.follow(slab.freelist.value_()))

    @property
    def quiet(self) -> bool:
        """Whether it is a slab that allows most kinds of damage."""
        usual = self.where == "partial" and self.cache.name not in self.machine.own
        usual = usual and len(self.free) >= 4 and self.counted >= 2
        return usual and not self.machine.holds_vectors(self)

    def follow(self, head: int) -> Iterator[int]:
        """Yield the objects of a chain of free pointers, as long as it stays in the slab."""
        for _ in range(self.span // self.cache.size):
            if not self.start <= head < self.start + self.span:
                return
            yield head
            head = self.cache.pointer(head).number

    def used(self) -> Sequence[Item]:
        """Return the objects that users hold."""
        taken = self.machine.parked.union(self.free)
        slots = map(self.slot, range(self.objects))
        return [Item(self, slot) for slot in slots if slot not in taken]


class CpuStructure(Thing):
    """A ``struct kmem_cache_cpu``."""

    def __init__(self, cache: Cache, cpu: int, object: Object) -> None:
        layout = "struct kmem_cache_cpu"
        super().__init__(cache.machine, layout, object.value_(), cache=cache.name, cpu=cpu)
        self.cache = cache
        self.cpu = cpu

    def spot(self, path: str) -> Spot:
        """Return where a member stands."""
        return super().spot(self.machine.cpu_member if path == "slab" else path)


class CpuSlab(CpuStructure):
    """One that has a slab; ``entries`` is the CPU's private freelist."""

    place = "cpu freelist"

    def __init__(self, cache: Cache, cpu: int, object: Object, slab: Slab) -> None:
        super().__init__(cache, cpu, object)
        self.names.update(slab.names)
        self.slab = slab
        self.entries = tuple(slab.follow(object.freelist.value_()))


class Chain(CpuStructure):
    """One that keeps slabs for later."""

    place = "cpu partial"

    def __init__(self, cache: Cache, cpu: int, object: Object, slabs: Sequence[Slab]) -> None:
        super().__init__(cache, cpu, object)
        self.entries = slabs
        self.names["place"] = self.place


class Sheaf(Container):
    """
    A ``struct slab_sheaf``.

    :param holder: Address of the pointer to it; of the list head, for those in a barn.
    """

    def __init__(
        self, cache: Cache, place: str, owner: int, sheaf: Object, capacity: int, holder: int
    ) -> None:
        per_cpu, size = place.endswith("sheaf"), sheaf.size.value_()
        super().__init__(cache, sheaf, place, owner, per_cpu, capacity, size, member="objects")
        self.holder = Spot(self.machine.prog, holder)
        self.per_cpu = per_cpu

    @property
    def link(self) -> int:
        """Address of its link in a barn."""
        return self.spot("barn_list").address


def flag_bits(prog: Program) -> Dict[str, int]:
    """Return the bits of ``kmem_cache.flags`` that say what debugging there is."""
    try:
        return {name: 1 << prog["_SLAB_" + name].value_() for name in _FLAGS}
    except LookupError:
        return _FLAGS


def _per_node(cache: Object, nid: int) -> Tuple[int, int]:
    # The addresses of a cache's node structure and barn.
    if has_member(cache, "per_node"):
        pair = cache.per_node[nid]
        return pair.node.value_(), pair.barn.value_()
    node = cache.node[nid]
    barn = node.barn.value_() if node and has_member(node, "barn") else 0
    return node.value_(), barn
