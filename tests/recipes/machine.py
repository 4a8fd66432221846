# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the machines of both allocators have in common."""

from __future__ import annotations

from typing import Any, Iterator, List, Optional, Protocol, Sequence

from drgn import FaultError, Object, Program, offsetof, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import page_to_virt, virt_to_page

from . import writes
from .language import Injury, NoVictim
from .overlay import Write
from .writes import field, value


class AnyCache(Protocol):
    """A slab cache of either allocator."""

    @property
    def name(self) -> str:
        """Name of the ``struct kmem_cache``."""

    @property
    def address(self) -> int:
        """``struct kmem_cache *``."""

    @property
    def nodes(self) -> Sequence[int]:
        """``struct kmem_cache_node *`` of each node; 0 where there is none."""


class AnySlab(Protocol):
    """A slab of either allocator."""

    @property
    def cache(self) -> AnyCache:
        """The cache it is of."""

    @property
    def page(self) -> int:
        """``struct slab *`` (before 5.17 ``struct page *``)."""

    @property
    def nid(self) -> int:
        """The node whose list it stands on."""


class Machine:
    """
    A kernel's pages, nodes and lists, whatever its allocator.

    :param prog: With debug info, or a capture.
    :param lists: What the names of a node's lists begin with.
    """

    def __init__(self, prog: Program, lists: str = "") -> None:
        self.prog = prog
        self.lists = lists
        self.descriptor = "struct slab" if has_type(prog, "struct slab") else "struct page"
        """The type that describes a slab."""
        self.cpus: List[int] = list(for_each_possible_cpu(prog))

    # Reading -----------------------------------------------------------------

    def offset(self, member: str) -> int:
        """Return the offset of a member of the slab descriptor."""
        return offsetof(self.prog.type(self.descriptor), member)

    def flags(self, page: int) -> int:
        """Return the flags word of a page, which is its first."""
        return self.prog.read_u64(page)

    @property
    def nodes_shift(self) -> int:
        """Bits of a page's flags that hold its node."""
        cache = self.prog.type("struct kmem_cache")
        name = "per_node" if cache.has_member("per_node") else "node"
        return (cache.member(name).type.length or 1).bit_length() - 1

    @property
    def slab_flag(self) -> Optional[int]:
        """The bit of a page's flags that marks a slab; ``None`` where it is a page type."""
        try:
            enum = self.prog.type("enum pageflags")
        except LookupError:
            return None
        found = [e.value for e in enum.enumerators or () if e.name == "PG_slab"]
        return 1 << found[0] if found else None

    def node(self, cache: AnyCache, nid: int = 0) -> Object:
        """
        Return the ``struct kmem_cache_node`` of a cache.

        :raises NoVictim: if the node has none.
        """
        if nid >= len(cache.nodes) or not cache.nodes[nid]:
            raise NoVictim(f"no node {nid}")
        return Object(self.prog, "struct kmem_cache_node", address=cache.nodes[nid])

    def head(self, cache: AnyCache, nid: int, kind: str = "partial") -> int:
        """Return the address of the head of a node's list."""
        node = self.node(cache, nid)
        return int(node.member_(self.lists + kind).address_of_().value_())

    def link(self, slab: AnySlab) -> int:
        """Return the address of a slab's ``slab_list``."""
        return slab.page + self.offset("slab_list")

    def listed_slabs(self, cache: AnyCache, nid: int, kind: str) -> Iterator[Object]:
        """Yield the slabs on a node's list, in its order."""
        head = Object(self.prog, "struct list_head *", self.head(cache, nid, kind))
        yield from list_for_each_entry(self.descriptor, head, "slab_list")

    def word_at(self, page: int) -> int:
        """Return the address of the page type word."""
        return page + offsetof(self.prog.type("struct page"), "_mapcount")

    def order_at(self, page: int) -> int:
        """Return the address of the compound order, which is in the second page."""
        # _folio_order is the lower byte of _flags_1 since Linux 6.6.
        for name in ("_folio_order", "_flags_1"):
            try:
                return page + offsetof(self.prog.type("struct folio"), name)
            except LookupError:
                pass
        struct_page = self.prog.type("struct page")
        return page + sizeof(struct_page) + offsetof(struct_page, "compound_order")

    def address_of(self, page: int) -> int:
        """Return the address of a page in the direct map."""
        return int(page_to_virt(Object(self.prog, "struct page *", page)).value_())

    def page_of(self, address: int) -> int:
        """Return the ``struct page *`` of an address."""
        return int(virt_to_page(self.prog, address).value_())

    def user_page(self) -> int:
        """Return a ``struct page *`` that belongs to a file or a process."""
        page = self.prog.type("struct page")
        size, mapping = sizeof(page), offsetof(page, "mapping")
        base, mark = self.prog["vmemmap"].value_(), self.slab_flag or 0
        for pfn in range(1, int(self.prog["max_pfn"])):
            try:
                data = self.prog.read(base + pfn * size, size)
            except FaultError:
                continue
            word = int.from_bytes(data[offsetof(page, "_mapcount") :][:4], "little")
            owner = int.from_bytes(data[mapping : mapping + 8], "little")
            flags = int.from_bytes(data[:8], "little")
            # Mapped once or not at all, no tail, and its mapping a kernel pointer.
            single = word in (0, 0xFFFFFFFF) and not data[8] & 1 and not flags & mark
            if single and owner >> 47 == 0x1FFFF:
                return int(base + pfn * size)
        raise NoVictim("no page of a user")

    # Writing -----------------------------------------------------------------

    def member(self, slab: AnySlab, name: str, number: int) -> Write:
        """Return the write of a member of a slab's descriptor."""
        return field(self.prog, self.descriptor, slab.page, name, number)

    def cache_member(self, cache: AnyCache, name: str, number: int) -> Write:
        """Return the write of a member of ``struct kmem_cache``."""
        return field(self.prog, "struct kmem_cache", cache.address, name, number)

    def node_member(self, cache: AnyCache, nid: int, name: str, number: int) -> Write:
        """Return the write of a member of ``struct kmem_cache_node``."""
        at = int(self.node(cache, nid).address_ or 0)
        return field(self.prog, "struct kmem_cache_node", at, name, number)

    def node_pointer(self, cache: AnyCache, nid: int, number: int, name: str = "node") -> Write:
        """Return the write of the pointer to a node's structure, or since 7.1 to its barn."""
        layout = self.prog.type("struct kmem_cache")
        if layout.has_member("per_node"):
            pair = layout.member("per_node").type.type
            at = offsetof(layout, "per_node") + nid * sizeof(pair) + offsetof(pair, name)
        else:
            at = offsetof(layout, "node") + 8 * nid
        return value(cache.address + at, number)

    def word(self, page: int, number: int) -> Write:
        """Return the write of the page type word."""
        return value(self.word_at(page), number, 4)

    def unlink(self, slab: AnySlab) -> List[Write]:
        """Return the writes that make its neighbours forget a slab."""
        return writes.unlink(self.prog, self.link(slab))

    def push(self, slab: AnySlab, head: int) -> List[Write]:
        """Return the writes that put a slab at the head of a list."""
        return writes.push(self.prog, self.link(slab), head)


def on_slab(slab: AnySlab, code: str, *writes: Write, **expected: Any) -> Injury:
    """Return an injury whose root names a slab."""
    expected.setdefault("node", slab.nid)
    return Injury(writes, code, slab.cache.name, slab.page, **expected)


def all_caches(prog: Program) -> Iterator[Object]:
    """Yield every ``struct kmem_cache *``."""
    head = prog["slab_caches"].address_of_()
    return list_for_each_entry("struct kmem_cache", head, "list")


def node_ids(prog: Program) -> int:
    """Return how many entries of per-node arrays exist."""
    try:
        return int(prog["nr_node_ids"])
    except LookupError:
        return 1


def has_type(prog: Program, name: str) -> bool:
    """Return whether the kernel has a type."""
    try:
        prog.type(name)
    except LookupError:
        return False
    return True


def has_member(object: Object, name: str) -> bool:
    """Return whether what a pointer leads to has a member."""
    return object.type_.type.has_member(name)
