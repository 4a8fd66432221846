# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB's structures in a dump, one by one
---------------------------------------

Read with drgn objects and nothing of the library, to find victims in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from drgn import Object, Program, cast, offsetof, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import page_to_virt, virt_to_page
from drgn.helpers.linux.percpu import per_cpu_ptr

from .overlay import Write

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
    nodes: Tuple[Optional[Object], ...]
    """``struct kmem_cache_node *`` of each node."""


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


@dataclass
class Machine:
    """Everything SLAB keeps in a dump."""

    prog: Program
    caches: List[Cache] = field(default_factory=list)
    slabs: Dict[str, List[Slab]] = field(default_factory=dict)
    arrays: Dict[str, List[Array]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        prog = self.prog
        self.struct = _struct(prog)
        members = {member.name for member in prog.type(self.struct).members}
        # How the count is kept: in the page type word (RFC v3), in 16 bits
        # beside the offset of the first object (Alternative 2), or plain.
        self.layout = "plain"
        if self.struct == "struct slab" and _bits(prog, "active") is None:
            self.layout = "rfc-v3"
        elif _bits(prog, "active") == 16:
            self.layout = "alternative-2"
        self.members = members
        width = sizeof(prog.type("freelist_idx_t"))
        for object in list_for_each_entry(
            "struct kmem_cache", prog["slab_caches"].address_of_(), "list"
        ):
            cache = self._cache(object)
            self.caches.append(cache)
            self.slabs[cache.name] = list(self._slabs(cache, width))
            self.arrays[cache.name] = list(self._arrays(cache))

    # Reading -----------------------------------------------------------------

    def _cache(self, object: Object) -> Cache:
        flags = object.flags.value_()
        mode = "objfreelist" if flags & 0x40000000 else "off-slab" if flags >> 31 else "on-slab"
        lead = object.obj_offset.value_() if _has(object, "obj_offset") else 0
        ids = _node_ids(self.prog)
        nodes = tuple(node if (node := object.node[nid]) else None for nid in range(ids))
        return Cache(
            object,
            object.name.string_().decode(),
            object.value_(),
            object.num.value_(),
            object.size.value_(),
            object.gfporder.value_(),
            mode,
            object.freelist_size.value_(),
            lead,
            max(object.colour.value_(), 1),
            nodes,
        )

    def _slabs(self, cache: Cache, width: int) -> Iterator[Slab]:
        for nid, node in enumerate(cache.nodes):
            for kind in KINDS if node is not None else ():
                assert node is not None
                head = node.member_("slabs_" + kind).address_of_()
                for slab in list_for_each_entry(self.struct, head, "slab_list"):
                    yield self._slab(cache, nid, kind, slab, width)

    def _slab(self, cache: Cache, nid: int, kind: str, slab: Object, width: int) -> Slab:
        start = page_to_virt(cast("struct page *", slab)).value_()
        pointer = slab.freelist.value_()
        indexes: Tuple[int, ...] = ()
        if pointer:
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
        for cpu in for_each_possible_cpu(self.prog):
            yield _array(cache, "cpu", cpu, per_cpu_ptr(cache.object.cpu_cache, cpu))
        for nid, node in enumerate(cache.nodes):
            if node is None:
                continue
            if node.shared:
                yield _array(cache, "shared", nid, node.shared)
            for other in range(len(cache.nodes)) if node.alien else ():
                if node.alien[other]:
                    yield _array(cache, "alien", nid, node.alien[other].ac.address_of_())

    # Finding -----------------------------------------------------------------

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
        if not hasattr(self, "_homes"):
            self._homes = {
                slab.start + page * 4096: slab
                for slabs in self.slabs.values()
                for slab in slabs
                for page in range(1 << slab.cache.order)
            }
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

    def spare_array(self, cache: Cache, nid: int = 0) -> Optional[Array]:
        """Return an array that is neither nearly empty nor full, so that no work explains it."""
        for array in self.arrays[cache.name]:
            count = len(array.entries)
            full = count in (array.limit, array.limit - array.limit // 2)
            own = array.kind == "cpu" and count >= 4 and not full
            if own and self.node_of(array.entries[0]) == nid:
                return array
        return None

    def node_of(self, address: int) -> int:
        """Return the node whose lists hold the slab of an object."""
        home = self.home(address)
        return -1 if home is None else home[0].nid

    # Writing -----------------------------------------------------------------

    def member(self, page: int, name: str, value: int) -> Write:
        """Return the write of a member of ``struct slab`` (before 5.17 ``struct page``)."""
        type = self.prog.type(self.struct)
        return Write(page + offsetof(type, name), _little(value, 8))

    def word(self, page: int, value: int) -> Write:
        """Return the write of the page type word."""
        at = offsetof(self.prog.type("struct page"), "_mapcount")
        return Write(page + at, _little(value, 4))

    def active(self, slab: Slab, value: int) -> Write:
        """Return the write of the active count, as the kernel's arithmetic would leave it."""
        if self.layout == "rfc-v3":
            return self.word(slab.page, 0xFFEFFFFF - value)
        if self.layout == "alternative-2":
            at = offsetof(self.prog.type(self.struct), "__page_flags") + 40
            return Write(slab.page + at, _little(value, 2))
        return self.word(slab.page, value)

    def first_object(self, slab: Slab, value: int) -> Write:
        """Return the write of the address of the first object."""
        if self.layout == "alternative-2":
            return Write(slab.page + 42, _little(value - slab.start, 2))
        return self.member(slab.page, "s_mem", value)

    def index(self, slab: Slab, position: int, value: int) -> Write:
        """Return the write of an entry of the index array."""
        width = sizeof(self.prog.type("freelist_idx_t"))
        return Write(slab.freelist + position * width, _little(value, width))

    def entry(self, array: Array, position: int, value: int) -> Write:
        """Return the write of an entry of an array cache."""
        at = offsetof(self.prog.type("struct array_cache"), "entry")
        return Write(array.address + at + 8 * position, _little(value, 8))

    def array(self, array: Array, member: str, value: int) -> Write:
        """Return the write of ``avail``, ``limit`` or ``batchcount``."""
        at = offsetof(self.prog.type("struct array_cache"), member)
        return Write(array.address + at, _little(value, 4))

    def node(self, node: Object, member: str, value: int) -> Write:
        """Return the write of a member of ``struct kmem_cache_node``."""
        at = offsetof(self.prog.type("struct kmem_cache_node"), member)
        return Write(node.value_() + at, _little(value, 8))

    def flags(self, page: int, value: int) -> Write:
        """Return the write of the flags of a page."""
        return Write(page, _little(value, 8))

    def byte(self, address: int, value: int) -> Write:
        """Return the write of one byte."""
        return Write(address, bytes([value]))

    @property
    def order_offset(self) -> int:
        """Offset of the compound order in the second page of a slab."""
        try:
            folio = self.prog.type("struct folio")
            return offsetof(folio, "_folio_order") - sizeof(self.prog.type("struct page"))
        except LookupError:
            return offsetof(self.prog.type("struct page"), "compound_order")

    def user_page(self) -> int:
        """Return a ``struct page *`` that belongs to a file or a process."""
        page = self.prog.type("struct page")
        size, mapping = sizeof(page), offsetof(page, "mapping")
        vmemmap = self.prog["vmemmap"].value_()
        for pfn in range(1, 1 << 16):
            at = vmemmap + pfn * size
            data = self.prog.read(at, size)
            word = int.from_bytes(data[offsetof(page, "_mapcount") :][:4], "little")
            owner = int.from_bytes(data[mapping : mapping + 8], "little")
            flags = int.from_bytes(data[:8], "little")
            is_slab = self.layout == "plain" and flags >> int(self.prog["PG_slab"]) & 1
            if word < 1 << 16 and owner >> 47 == 0x1FFFF and not data[8] & 1 and not is_slab:
                return int(at)
        raise LookupError("no page of a user")

    def address_of(self, page: int) -> int:
        """Return the address of a page in the direct map."""
        return int(page_to_virt(Object(self.prog, "struct page *", page)).value_())

    def links(self, slab: Slab) -> Tuple[int, int]:
        """Return next and prev of a slab."""
        return self.prog.read_word(self.link(slab)), self.prog.read_word(self.link(slab) + 8)

    def link(self, slab: Slab) -> int:
        """Return the address of a slab's ``slab_list``."""
        return slab.page + offsetof(self.prog.type(self.struct), "slab_list")

    def unlink(self, slab: Slab) -> List[Write]:
        """Return the writes that make its neighbours forget a slab."""
        after, before = self.links(slab)
        return [Write(before, _little(after, 8)), Write(after + 8, _little(before, 8))]

    def push(self, slab: Slab, head: int) -> List[Write]:
        """Return the writes that put a slab at the head of a list."""
        first = self.prog.read_word(head)
        at = self.link(slab)
        return [
            Write(at, _little(first, 8)),
            Write(at + 8, _little(head, 8)),
            Write(head, _little(at, 8)),
            Write(first + 8, _little(at, 8)),
        ]

    def head(self, cache: Cache, nid: int, kind: str) -> int:
        """Return the address of a list's head."""
        node = cache.nodes[nid]
        assert node is not None
        return int(node.member_("slabs_" + kind).address_of_().value_())

    def page_of(self, address: int) -> int:
        """Return the ``struct page *`` of an address."""
        return int(virt_to_page(self.prog, address).value_())


def pointer(address: int, value: int) -> Write:
    """Return the write of a pointer."""
    return Write(address, _little(value, 8))


def _array(cache: Cache, kind: str, owner: int, array: Object) -> Array:
    entries = tuple(array.entry[i].value_() for i in range(array.avail.value_()))
    return Array(cache, kind, owner, array.value_(), array.limit.value_(), entries)


def _little(value: int, width: int) -> bytes:
    return (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")


def _struct(prog: Program) -> str:
    try:
        prog.type("struct slab")
    except LookupError:
        return "struct page"
    return "struct slab"


def _bits(prog: Program, name: str) -> Optional[int]:
    # Bits of a member of the slab descriptor; None if there is none.
    try:
        member = prog.type(_struct(prog)).member(name)
    except LookupError:
        return None
    return member.bit_field_size or 8 * sizeof(member.type)


def _has(object: Object, member: str) -> bool:
    return object.type_.type.has_member(member)


def _node_ids(prog: Program) -> int:
    try:
        return int(prog["nr_node_ids"])
    except LookupError:
        return 1
