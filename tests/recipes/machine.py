# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the machines of both allocators have in common."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Callable, ClassVar, Dict, Iterator, List, Optional, Set, Tuple

from drgn import Object, Program, offsetof, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.mm import page_to_pfn

from .language import NoVictim
from .overlay import direct_map, order_of
from .things import Item


class Machine:
    """
    A kernel's pages, nodes and lists, whatever its allocator.

    :param prog: With debug info, or a capture.
    """

    lists: ClassVar[str] = ""
    """What the names of a node's lists begin with."""
    own: ClassVar[Tuple[str, ...]] = ()
    """Caches of the allocator's own objects; damage is plainer in anybody else's."""

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.page_size = int(prog["PAGE_SIZE"])
        """Bytes of a page."""
        self.descriptor = "struct slab" if has_type(prog, "struct slab") else "struct page"
        """The type that describes a slab."""
        self.cpus: List[int] = list(for_each_possible_cpu(prog))
        self.caches: List[Any] = []
        self.slabs: Dict[int, Any] = {}
        """By ``struct slab *``."""
        self.containers: List[Any] = []
        """What holds free objects beside the slabs."""
        self._homes: Dict[int, Any] = {}

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

    def described(self, page: int) -> Object:
        """Return the ``struct slab *`` or ``struct page *`` of a slab."""
        return Object(self.prog, f"{self.descriptor} *", page)

    def _on_list(self, cache: Any, nid: int, kind: str) -> Iterator[int]:
        # The slabs on a node's list, in its order.
        head = Object(self.prog, "struct list_head *", cache.node(nid).head(kind))
        for slab in list_for_each_entry(self.descriptor, head, "slab_list"):
            yield slab.value_()

    def word_at(self, page: int) -> int:
        """Return the address of the page type word."""
        return page + offsetof(self.prog.type("struct page"), "_mapcount")

    def order_at(self, page: int) -> int:
        """Return the address of the compound order, which is in the second page."""
        # _folio_order is the lower byte of _flags_1 since Linux 6.6.
        lowest = 0 if order_of(self.prog) == "little" else 7
        for name, at in (("_folio_order", 0), ("_flags_1", lowest)):
            try:
                return page + offsetof(self.prog.type("struct folio"), name) + at
            except LookupError:
                pass
        struct_page = self.prog.type("struct page")
        return page + sizeof(struct_page) + offsetof(struct_page, "compound_order")

    def address_of(self, page: int) -> int:
        """Return the address of a page in the direct map."""
        pfn = int(page_to_pfn(Object(self.prog, "struct page *", page)))
        return direct_map(self.prog) + pfn * self.page_size & (1 << 64) - 1

    # Finding -----------------------------------------------------------------

    def _enter(self, slabs: Iterator[Any]) -> None:
        for slab in slabs:
            self.slabs[slab.page] = slab
            pages = range(0, slab.span, self.page_size)
            self._homes.update({slab.start + at: slab for at in pages})

    @cached_property
    def _vectors(self) -> Set[int]:
        # The pages that vectors of slabs lie in.
        names = ("obj_exts", "memcg_data", "obj_cgroups")
        layout = self.prog.type(self.descriptor)
        member = next((name for name in names if layout.has_member(name)), None)
        words = [slab.kept(member) for slab in self.slabs.values()] if member else []
        return {word & -self.page_size for word in words if word & 1}

    def holds_vectors(self, slab: Any) -> bool:
        """Return whether what other slabs keep beside their objects lies in a slab."""
        pages = range(slab.start, slab.start + slab.span, self.page_size)
        return not self._vectors.isdisjoint(pages)

    def all_slabs(self) -> Iterator[Any]:
        """Yield every slab but those of the allocator's own objects."""
        return (slab for slab in self.slabs.values() if slab.cache.name not in self.own)

    def slab(self, what: str, *where: Callable[[Any], bool]) -> Any:
        """
        Return the first slab for which conditions hold.

        :param what: The conditions in words.
        :raises NoVictim: if there is none.
        """
        for slab in self.all_slabs():
            if all(holds(slab) for holds in where):
                return slab
        raise NoVictim(f"no {what}")

    def slabs_of(self, cache: Any) -> List[Any]:
        """Return the slabs of a cache."""
        return [slab for slab in self.slabs.values() if slab.cache is cache]

    def standing(self, cache: Any, kind: str, nid: int = 0) -> List[Any]:
        """Return the slabs on a node's list, in its order."""
        if nid >= len(cache.nodes) or not cache.nodes[nid]:
            return []
        return [self.slabs[page] for page in self._on_list(cache, nid, kind)]

    def home(self, address: int) -> Any:
        """Return the slab that an address lies in, or ``None``."""
        return self._homes.get(address & -self.page_size)

    def item(self, slot: int) -> Item:
        """Return the object in a slot of some slab."""
        return Item(self.home(slot), slot)

    def cache(self, name: str) -> Any:
        """Return the cache of that name."""
        return next(cache for cache in self.caches if cache.name == name)


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
