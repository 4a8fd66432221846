# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB's structures in a dump, one by one
---------------------------------------

Read with drgn objects and nothing of the library, to find victims in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from drgn import Object, Program, offsetof, sizeof
from drgn.helpers.linux.percpu import per_cpu_ptr

from ..language import NoVictim
from ..machine import Machine as AnyMachine
from ..machine import all_caches, has_member, node_ids
from ..overlay import Write
from ..writes import field as member_of
from ..writes import value

KINDS = ("partial", "full", "free")


@dataclass(frozen=True)
class Cache:
    """A slab cache."""

    object: Object
    name: str
    address: int
    num: int
    size: int
    order: int
    mode: str
    """``on-slab``, ``off-slab`` or ``objfreelist``."""
    freelist_size: int
    obj_offset: int
    colours: int
    nodes: Tuple[int, ...]
    """``struct kmem_cache_node *`` of each node; 0 where there is none."""


@dataclass(frozen=True)
class Slab:
    """A slab on a list."""

    cache: Cache
    page: int
    start: int
    nid: int
    kind: str
    active: int
    first: int
    freelist: int
    indexes: Tuple[int, ...]
    """The index array, stale entries too; empty where there is none."""

    @property
    def free(self) -> Tuple[int, ...]:
        """Indexes of the free objects, in the order of the array."""
        return self.indexes[self.active :]

    def slot(self, index: int) -> int:
        """Return the address of a slot."""
        return self.first + index * self.cache.size


@dataclass(frozen=True)
class Array:
    """An array cache."""

    cache: Cache
    kind: str
    """``cpu``, ``shared`` or ``alien``."""
    owner: int
    address: int
    """``struct array_cache *``."""
    limit: int
    entries: Tuple[int, ...]


class Machine(AnyMachine):
    """Everything SLAB keeps in a dump."""

    def __init__(self, prog: Program) -> None:
        super().__init__(prog, "slabs_")
        # How the count is kept: in the page type word (RFC v3), in 16 bits
        # beside the offset of the first object (Alternative 2), or plain.
        self.layout = "plain"
        if self.descriptor == "struct slab" and _bits(prog, self.descriptor) is None:
            self.layout = "rfc-v3"
        elif _bits(prog, self.descriptor) == 16:
            self.layout = "alternative-2"
        self.caches: List[Cache] = [self._cache(object) for object in all_caches(prog)]
        self.slabs: Dict[str, List[Slab]] = {}
        """By the cache's name, in the order of lists."""
        self.arrays: Dict[str, List[Array]] = {}
        """By the cache's name."""
        for cache in self.caches:
            self.slabs[cache.name] = list(self._slabs(cache))
            self.arrays[cache.name] = list(self._arrays(cache))
        self._homes = {
            slab.start + page * 4096: slab
            for slabs in self.slabs.values()
            for slab in slabs
            for page in range(1 << slab.cache.order)
        }

    # Reading -----------------------------------------------------------------

    def _cache(self, object: Object) -> Cache:
        flags = object.flags.value_()
        mode = "objfreelist" if flags & 0x40000000 else "off-slab" if flags >> 31 else "on-slab"
        return Cache(
            object,
            object.name.string_().decode(),
            object.value_(),
            object.num.value_(),
            object.size.value_(),
            object.gfporder.value_(),
            mode,
            object.freelist_size.value_(),
            object.obj_offset.value_() if has_member(object, "obj_offset") else 0,
            max(object.colour.value_(), 1),
            tuple(object.node[nid].value_() for nid in range(node_ids(self.prog))),
        )

    def _slabs(self, cache: Cache) -> Iterator[Slab]:
        for nid, node in enumerate(cache.nodes):
            for kind in KINDS if node else ():
                for slab in self.listed_slabs(cache, nid, kind):
                    yield self._slab(cache, nid, kind, slab)

    def _slab(self, cache: Cache, nid: int, kind: str, slab: Object) -> Slab:
        start = self.address_of(slab.value_())
        pointer = slab.freelist.value_()
        indexes: Tuple[int, ...] = ()
        if pointer:
            width = self.index_bytes
            data = self.prog.read(pointer, cache.num * width)
            indexes = tuple(memoryview(data).cast("B" if width == 1 else "H"))
        if self.layout == "rfc-v3":
            active = ~slab.page_type.value_() & 0xFFFF
        else:
            active = slab.active.value_()
        if self.layout == "alternative-2":
            first = start + slab.s_mem_offset.value_()
        else:
            first = slab.s_mem.value_()
        return Slab(cache, slab.value_(), start, nid, kind, active, first, pointer, indexes)

    def _arrays(self, cache: Cache) -> Iterator[Array]:
        for cpu in self.cpus:
            yield _array(cache, "cpu", cpu, per_cpu_ptr(cache.object.cpu_cache, cpu))
        for nid, address in enumerate(cache.nodes):
            if not address:
                continue
            node = self.node(cache, nid)
            if node.shared:
                yield _array(cache, "shared", nid, node.shared)
            for other in range(len(cache.nodes)) if node.alien else ():
                if node.alien[other]:
                    yield _array(cache, "alien", nid, node.alien[other].ac.address_of_())

    @property
    def index_bytes(self) -> int:
        """Bytes of an entry of an index array."""
        return sizeof(self.prog.type("freelist_idx_t"))

    # Finding -----------------------------------------------------------------

    def slab(self, what: str, where: Callable[[Slab], bool]) -> Slab:
        """
        Return the first slab for which a condition holds, in the order of caches and lists.

        :param what: The condition in words.
        :raises NoVictim: if there is none.
        """
        for slab in self.all_slabs(where):
            return slab
        raise NoVictim(f"no {what}")

    def cache(self, name: str) -> Cache:
        """Return the cache of that name."""
        return next(cache for cache in self.caches if cache.name == name)

    def all_slabs(self, where: Callable[[Slab], bool]) -> Iterator[Slab]:
        """Yield the slabs for which a condition holds, in the order of caches and lists."""
        for slabs in self.slabs.values():
            yield from filter(where, slabs)

    def all_arrays(self, where: Callable[[Array], bool]) -> Iterator[Array]:
        """Yield the array caches for which a condition holds."""
        for arrays in self.arrays.values():
            yield from filter(where, arrays)

    def home(self, address: int) -> Optional[Tuple[Slab, int]]:
        """Return the listed slab and the index of the object at an address."""
        slab = self._homes.get(address & ~4095)
        if slab is None:
            return None
        return slab, (address - slab.first) // slab.cache.size

    def parked(self, slab: Slab) -> Dict[int, Array]:
        """Return the indexes of a slab's objects that are in array caches."""
        found = {}
        for array in self.arrays[slab.cache.name]:
            for entry in array.entries:
                home = self.home(entry)
                if home is not None and home[0].page == slab.page:
                    found[home[1]] = array
        return found

    def some_array(self, kind: str, least: int = 2) -> Array:
        """Return the first array of a kind that holds so many objects."""
        for array in self.all_arrays(lambda a: a.kind == kind and len(a.entries) >= least):
            return array
        raise NoVictim(f"no {kind} array with {least} entries")

    def spare_array(self, cache: Cache, nid: int = 0) -> Array:
        """
        Return an array that is neither nearly empty nor full, so that no work explains it.

        :raises NoVictim: if the cache has none.
        """
        for array in self.arrays[cache.name]:
            count = len(array.entries)
            full = count in (array.limit, array.limit - array.limit // 2)
            own = array.kind == "cpu" and count >= 4 and not full
            if own and self.node_of(array.entries[0]) == nid:
                return array
        raise NoVictim("no array with entries and room")

    def node_of(self, address: int) -> int:
        """Return the node whose lists hold the slab of an object."""
        home = self.home(address)
        return -1 if home is None else home[0].nid

    # Writing -----------------------------------------------------------------

    def active(self, slab: Slab, number: int) -> Write:
        """Return the write of the active count, as the kernel's arithmetic would leave it."""
        if self.layout == "rfc-v3":
            return self.word(slab.page, 0xFFEFFFFF - number)
        if self.layout == "alternative-2":
            at = offsetof(self.prog.type(self.descriptor), "__page_flags") + 40
            return value(slab.page + at, number, 2)
        return self.word(slab.page, number)

    def first_object(self, slab: Slab, address: int) -> Write:
        """Return the write of the address of the first object."""
        if self.layout == "alternative-2":
            return value(slab.page + 42, address - slab.start, 2)
        return self.member(slab, "s_mem", address)

    def index(self, slab: Slab, position: int, number: int) -> Write:
        """Return the write of an entry of the index array."""
        width = self.index_bytes
        return value(slab.freelist + position * width, number, width)

    def entry(self, array: Array, position: int, address: int) -> Write:
        """Return the write of an entry of an array cache."""
        at = offsetof(self.prog.type("struct array_cache"), "entry")
        return value(array.address + at + 8 * position, address)

    def array(self, array: Array, member: str, number: int) -> Write:
        """Return the write of ``avail``, ``limit`` or ``batchcount``."""
        return member_of(self.prog, "struct array_cache", array.address, member, number)


def _array(cache: Cache, kind: str, owner: int, array: Object) -> Array:
    entries = tuple(array.entry[i].value_() for i in range(array.avail.value_()))
    return Array(cache, kind, owner, array.value_(), array.limit.value_(), entries)


def _bits(prog: Program, descriptor: str) -> Optional[int]:
    # Bits of the active count where it is a member of its own.
    try:
        member = prog.type(descriptor).member("active")
    except LookupError:
        return None
    return member.bit_field_size or 8 * sizeof(member.type)
