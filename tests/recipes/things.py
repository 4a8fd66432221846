# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What can be damaged
-------------------

A thing is a structure in a kernel's memory: its numbers have places that a
change can write to, and it knows what a finding about it names.
"""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

from drgn import Object, offsetof, sizeof

from .changes import Spot, member
from .language import NoVictim

PAGE = 4096


class Thing:
    """
    A structure.

    :param machine: Of either allocator.
    :param layout: Name of its type.
    :param names: What a finding about it names, as :class:`.Injury` has it.
    """

    def __init__(self, machine: Any, layout: str, address: int, **names: Any) -> None:
        self.machine = machine
        self.layout = layout
        self.address = address
        self.names: Dict[str, Any] = names

    def spot(self, path: str) -> Spot:
        """Return where a member stands; dots lead into nested structures."""
        return member(self.machine.prog, self.layout, self.address, path)

    def kept(self, path: str) -> int:
        """Return what the kernel keeps in a member."""
        return self.spot(path).number


class Beside:
    """A victim, and another thing that the damage has to do with."""

    def __init__(self, victim: Any, other: Any) -> None:
        self.victim = victim
        self.other = other

    def spot(self, path: str) -> Spot:
        """Return where a member of the victim stands, or ``other.`` and one of the other thing."""
        thing = self.other if path.startswith("other.") else self.victim
        spot: Spot = thing.spot(path.replace("other.", "", 1))
        return spot

    def __getattr__(self, name: str) -> Any:
        """Return what the victim has of that name."""
        return getattr(self.victim, name)


class Page(Thing):
    """
    A page, whatever it is used for.

    :param page: ``struct page *``, or that of the slab it belongs to.
    """

    def __init__(self, machine: Any, page: int, **names: Any) -> None:
        super().__init__(machine, machine.descriptor, page, **(names or {"slab": page}))
        self.page = page
        self.start: int = machine.address_of(page)
        """Address of its memory."""

    def spot(self, path: str) -> Spot:
        """
        Return where a member stands.

        Or ``flags``, the page type ``word``, the one of them that has the
        ``mark`` of a slab, or the ``order``.
        """
        prog, machine = self.machine.prog, self.machine
        if path == "mark":
            path = "word" if machine.slab_flag is None else "flags"
        if path == "flags":
            return Spot(prog, self.page)
        if path == "word":
            return Spot(prog, machine.word_at(self.page), 4)
        if path == "order":
            return Spot(prog, machine.order_at(self.page), 1)
        return super().spot(path)


class AnyCache(Thing):
    """
    A slab cache of either allocator.

    :param object: ``struct kmem_cache *``.
    """

    def __init__(self, machine: Any, object: Object) -> None:
        self.name = object.name.string_().decode()
        super().__init__(machine, "struct kmem_cache", object.value_(), cache=self.name)
        self.object = object
        self.size: int = object.size.value_()
        self.order = 0
        """Of its slabs."""
        self.lead = 0
        """Bytes before the object in a slot."""
        self.nodes: Sequence[int] = ()
        """``struct kmem_cache_node *`` of each node; 0 where there is none."""

    @property
    def lived_in(self) -> bool:
        """Whether the allocator may live in its objects."""
        return self.name.startswith(("kmem_cache", "kmalloc"))

    def node(self, nid: int = 0) -> Node:
        """
        Return what the cache keeps of a node.

        :raises NoVictim: if the node has nothing.
        """
        if nid >= len(self.nodes) or not self.nodes[nid]:
            raise NoVictim(f"no node {nid}")
        return Node(self, nid)

    def node_pointer(self, name: str = "node", nid: int = 0) -> Spot:
        """Return where the pointer to a node's structure stands, or since 7.1 to its barn."""
        layout = self.machine.prog.type("struct kmem_cache")
        if layout.has_member("per_node"):
            pair = layout.member("per_node").type.type
            at = offsetof(layout, "per_node") + nid * sizeof(pair) + offsetof(pair, name)
        else:
            at = offsetof(layout, "node") + 8 * nid
        return Spot(self.machine.prog, self.address + at)


class Node(Thing):
    """A ``struct kmem_cache_node``."""

    def __init__(self, cache: AnyCache, nid: int) -> None:
        address = cache.nodes[nid]
        super().__init__(
            cache.machine, "struct kmem_cache_node", address, cache=cache.name, node=nid
        )
        self.cache = cache
        self.nid = nid
        self.object = Object(cache.machine.prog, self.layout, address=address)

    def head(self, kind: str = "partial") -> int:
        """Return the address of the head of a list."""
        return self.spot(self.machine.lists + kind).address


class AnySlab(Page):
    """
    A slab of either allocator.

    :param page: ``struct slab *`` (before 5.17 ``struct page *``).
    :param where: The list or place it stands in.
    :param nid: The node it is of.
    """

    def __init__(self, cache: Any, page: int, where: str, nid: int) -> None:
        super().__init__(cache.machine, page, cache=cache.name, slab=page, node=nid)
        self.cache = cache
        self.where = where
        self.nid = nid
        self.order: int = cache.order
        self.first = self.start
        """Address of the first object."""
        self.objects = 0
        """How many it has."""
        self.counted = 0
        """How many of them the kernel counts as taken."""

    @property
    def span(self) -> int:
        """Bytes of its memory."""
        return int(self.machine.page_size) << self.order

    @property
    def link(self) -> int:
        """Address of its ``slab_list``."""
        return self.spot("slab_list").address

    @property
    def node(self) -> Node:
        """What its cache keeps of its node."""
        return Node(self.cache, self.nid)

    def slot(self, index: int) -> int:
        """Return the address of a slot."""
        return self.first + index * int(self.cache.size)

    def index(self, address: int) -> int:
        """Return the index of the slot at an address."""
        return (address - self.first) // int(self.cache.size)


class Container(Thing):
    """
    A structure that holds free objects of one cache.

    :param place: What the place is called in findings.
    :param owner: A CPU, or a node if not *per_cpu*.
    :param member: The array of objects.
    """

    def __init__(
        self,
        cache: Any,
        object: Object,
        place: str,
        owner: int,
        per_cpu: bool,
        limit: int,
        count: int,
        member: str,
    ) -> None:
        names = {"cpu" if per_cpu else "node": owner}
        layout = object.type_.type.type_name()
        super().__init__(cache.machine, layout, object.value_(), cache=cache.name, **names)
        self.cache = cache
        self.place = place
        self.owner = owner
        self.called = f"{place} of {'CPU' if per_cpu else 'node'} {owner}"
        self.limit = limit
        array = object.member_(member)
        self.entries = [int(array[at].value_()) for at in range(count)]
        self._first = offsetof(object.type_.type, member)

    def entry(self, position: int) -> Spot:
        """Return where an entry stands."""
        return Spot(self.machine.prog, self.address + self._first + 8 * position)


class SlabList(Thing):
    """A node's list of slabs; a change is made to its head."""

    def __init__(self, node: Node, kind: str, slabs: List[Any]) -> None:
        super().__init__(
            node.machine, "struct list_head", node.head(kind), **node.names, place=kind
        )
        self.slabs = slabs


class Item(Thing):
    """
    An object of a slab, where a user's bytes are.

    :param slot: Address of its slot.
    """

    def __init__(self, slab: Any, slot: int) -> None:
        address = slot + slab.cache.lead
        super().__init__(slab.machine, "", address, **slab.names, object=address)
        self.slab = slab
        self.cache = slab.cache
        self.slot = slot
