# SPDX-License-Identifier: LGPL-2.1-or-later
"""The structures of a kernel whose words are changed, as drgn finds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Callable, Collection, Iterator, List, Optional, Sequence, Tuple

from drgn import FaultError, Program

from ..recipes.machine import has_type
from ..recipes.overlay import order_of
from .layout import Entries, Leaf, few_entries, leaves
from .words import Word

_KERNEL = 1 << 63
# Names that count where bits of a struct page or slab have several.
SLAB_NAMES = ("slab_cache", "slab_list", "freelist", "s_mem", "active", "inuse", "objects")
PAGE_NAMES = ("buddy_list", "lru", "private", "page_type", "_mapcount")


@dataclass(frozen=True)
class Structure:
    """Some numbers that lie together."""

    name: str
    """As the table spells it: ``kmem_cache_node``, ``slab (full)``."""
    address: int
    members: Sequence[Leaf]
    cache: Optional[str] = None
    """Name of the cache that it belongs to."""
    peer: int = 0
    """Address of another one of its kind; 0 if there is none."""


def numbers(*named: Tuple[str, int, int]) -> List[Leaf]:
    """Return members by name, offset and size in bytes."""
    return [Leaf(name, 8 * at, 8 * size, size == 8) for name, at, size in named]


def words(prog: Program, structures: Sequence[Structure], pointer: int) -> Iterator[Word]:
    """
    Yield the words of structures that can be read, each address once.

    :param pointer: A right pointer, for words that have no other of their kind.
    """
    seen, order = set(), order_of(prog)
    for one in structures:
        for leaf in one.members:
            address, shift = one.address + leaf.bit // 8, leaf.bit % 8
            size = (shift + leaf.bits + 7) // 8
            if order == "big":
                shift = 8 * size - shift - leaf.bits
            what = one.name, leaf.path, address, shift, leaf.bits, pointer, one.cache
            word = Word(*what, order=order, size=size)
            if (address, shift) in seen or not _readable(prog, address, word.size):
                continue
            seen.add((address, shift))
            beside = one.peer + leaf.bit // 8
            if one.peer and leaf.pointer and _readable(prog, beside, 8):
                other = prog.read_u64(beside)
                if other not in (0, prog.read_u64(address)):
                    word = replace(word, other=other)
            yield word


def _readable(prog: Program, address: int, size: int) -> bool:
    try:
        prog.read(address, size)
    except FaultError:
        return False
    return True


class Kernel(ABC):
    """
    What both allocators have of structures.

    :param machine: Of the recipes.
    """

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.prog: Program = machine.prog

    @abstractmethod
    def of(self, cache: Any) -> Iterator[Structure]:
        """Yield the structures of one cache, one of each kind."""

    @abstractmethod
    def features(self, cache: Any) -> Collection[str]:
        """Return what tells a cache from others: caches of all kinds are wanted."""

    # What they are made of -----------------------------------------------------

    def copy(
        self,
        name: str,
        type: str,
        address: int,
        cache: Any = None,
        peer: int = 0,
        prefer: Collection[str] = (),
        entries: Entries = few_entries,
        wanted: Callable[[Leaf], bool] = bool,
    ) -> Iterator[Structure]:
        """Yield a structure of a type, unless there is none."""
        if address and has_type(self.prog, type):
            members = leaves(self.prog.type(type), prefer, entries)
            named = None if cache is None else cache.name
            yield Structure(name, address, [leaf for leaf in members if wanted(leaf)], named, peer)

    def common(self, cache: Any) -> Iterator[Structure]:
        """Yield the cache, its nodes and its slabs."""
        beside = self.beside(cache)
        nodes = sum(1 for node in cache.nodes if node)

        def entries(name: str, length: int) -> int:
            if name in ("node", "per_node"):
                return nodes
            return few_entries(name, length)

        layout = "struct kmem_cache"
        yield from self.copy(
            "kmem_cache", layout, cache.address, cache, beside.address, entries=entries
        )
        for nid, node in enumerate(cache.nodes):
            name, layout = "kmem_cache_node", "struct kmem_cache_node"
            peer = beside.nodes[nid] if nid < len(beside.nodes) else 0
            yield from self.copy(name, layout, node, cache, peer)
            break
        for slab in self.slabs(cache):
            yield from self.slab(slab)

    def beside(self, cache: Any) -> Any:
        """Return the next cache."""
        caches = self.machine.caches
        return caches[(caches.index(cache) + 1) % len(caches)]

    def slabs(self, cache: Any) -> List[Any]:
        """Return one slab of a cache for each place where slabs stand."""
        found = {slab.where: slab for slab in reversed(self.machine.slabs_of(cache))}
        return [found[where] for where in sorted(found)]

    def slab(self, slab: Any) -> Iterator[Structure]:
        """Yield what describes a slab, its head and a tail of it."""
        machine = self.machine
        same = (one for one in machine.slabs.values() if one.where == slab.where)
        peer = next((one.page for one in same if one is not slab), 0)
        name = f"slab ({slab.where})"
        yield from self.copy(
            name, machine.descriptor, slab.page, slab.cache, peer, prefer=SLAB_NAMES
        )
        # struct slab of 5.17 and later leaves a word of a struct page nameless.
        if slab.span > machine.page_size:
            yield Structure(
                "slab, tail",
                slab.page + self.page_bytes,
                self.tail,
                slab.cache.name,
                peer and peer + self.page_bytes,
            )
        if slab.span > 2 * machine.page_size:
            last = slab.page + (slab.span // machine.page_size - 1) * self.page_bytes
            other = peer and peer + self.page_bytes
            yield Structure("slab, last tail", last, self.tail, slab.cache.name, other)

    @property
    def page_bytes(self) -> int:
        """Bytes of a ``struct page``."""
        return self.prog.type("struct page").size or 0

    @property
    def tail(self) -> List[Leaf]:
        """The words of a tail."""
        page = self.prog.type("struct page")
        link = "compound_info" if page.has_member("compound_info") else "compound_head"
        found = [("flags", 0, 8), (link, 8, 8), ("word 2", 16, 8), ("word 3", 24, 8)]
        found += [("word 4", 32, 8), ("word 5", 40, 8), ("_mapcount", 48, 4), ("_refcount", 52, 4)]
        found += [("word 7", at, 8) for at in range(56, min(self.page_bytes, 64), 8)]
        return numbers(*found)


def chosen(kernel: Kernel, count: int, order: Sequence[Any]) -> List[Any]:
    """
    Return some caches that have as many kinds of structures as possible between them.

    :param order: All caches; what comes first is taken where several do as well.
    """
    kinds = {
        cache.name: {(one.name, feature) for one in kernel.of(cache) for feature in features}
        for cache in order
        for features in [[*kernel.features(cache), ""]]
    }
    found: List[Any] = []
    covered: set[Tuple[str, str]] = set()
    while len(found) < min(count, len(order)):
        rest = [cache for cache in order if cache not in found]
        best = max(rest, key=lambda cache: len(kinds[cache.name] - covered))
        covered |= kinds[best.name]
        found.append(best)
    return found
