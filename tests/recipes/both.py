# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recipes for what both allocators have."""

from __future__ import annotations

from typing import Any, Dict, FrozenSet, Iterator, Sequence, Set, Tuple

from drgn import FaultError, sizeof

from .changes import GARBAGE, LIST_POISON, Spot, add, enter, entry, flip, move, put, unlink
from .language import NOW, WAS, Root, Suite, Victim
from .pages import user_page
from .things import Beside, Page
from .victims import (
    CACHE,
    PARTIAL,
    beside_a_cache,
    beside_another_cache,
    first,
    given,
    listed,
    member_of,
    with_other,
)

Codes = FrozenSet[str]


def links(suite: Suite[Any], lists: Codes, node: Codes, least: int, at: int) -> None:
    """
    Enter damage to the links of slabs on lists, and to the heads of lists.

    :param lists: What may follow for slabs of the list.
    :param node: What may follow for a node's sums.
    :param least: How many slabs a list must have.
    :param at: Which of them is the victim.
    """
    some = listed(least)
    broken = Root("list-links", place=lambda slab: slab.where, found=NOW, also=lists)
    for name, position, link, to in (
        ("next-link-poisoned", at, "next", LIST_POISON[0]),
        ("next-link-null", at, "next", 0),
        ("next-leads-to-itself", at, "next", lambda v: v.link),
        ("next-leads-back", at + 1, "next", lambda v: v.other[at - 1].link),
        ("next-skips", at - 1, "next", lambda v: v.other[at + 1].link),
        ("prev-link-null", at, "prev", 0),
        ("prev-of-first-wrong", 0, "prev", lambda v: v.other[2].link),
    ):
        suite.recipe(name, member_of(some, position), put(f"slab_list.{link}", to), broken)

    # The last is INIT_LIST_HEAD() of a list that is not empty: its slabs still lead to it.
    emptied = put("next", lambda v: v.address) + put("prev", lambda v: v.address)
    head = Root("list-broken", also=lists)
    suite.recipe("list-head-next-null", some, put("next", 0), head)
    suite.recipe("list-head-prev-wrong", some, put("prev", lambda v: v.slabs[1].link), head)
    suite.recipe("list-head-emptied", some, emptied, head)

    for kind in ("partial", "full"):
        victim = member_of(listed(least, kind), at)
        suite.recipe(f"{kind}-slab-lost", victim, unlink(), Root("list-missing", also=node))


def wrong_list(suite: Suite[Any], name: str, victim: Victim[Any], kind: str, node: Codes) -> None:
    """Enter the recipe that moves a slab to another list of its node."""
    root = Root("list-wrong", place=kind, also=node)
    suite.recipe(name, victim, move(lambda slab: slab.node.head(kind)), root)


def descriptors(
    suite: Suite[Any], also: Codes, large: Victim[Any], another: Any, orders: Dict[str, int]
) -> None:
    """
    Enter damage to what a slab says of itself.

    :param also: What may follow when it does not name its cache.
    :param large: Picks a slab of several pages.
    :param another: Whether a cache is another than that of a slab.
    :param orders: Wrong ones, and what they are called.
    """
    root = Root("slab-cache-wrong", found=NOW, also=also)
    suite.recipe("cache-pointer-null", PARTIAL, put("slab_cache", 0), root)
    shifted = put("slab_cache", lambda slab: slab.cache.address + 8)
    suite.recipe("cache-pointer-shifted", PARTIAL, shifted, root)
    to_other, two = put("slab_cache", lambda v: v.other.address), beside_a_cache(PARTIAL, another)
    suite.recipe("cache-pointer-of-another-cache", two, to_other, root)
    # Its tails have what follows from the order that it had.
    tails = frozenset({"page-tail-head", "page-tail-word"})
    for name, order in orders.items():
        root = Root("slab-order-wrong", found=NOW, also=tails)
        suite.recipe(f"order-{name}", large, put("order", order), root)


def marks(suite: Suite[Any], marked: Any, unmarked: Any, lost: Root, large: Victim[Any]) -> None:
    """
    Enter damage to the mark of slabs, be it a page type or a flag.

    :param marked: The word or flags of a page with it.
    :param unmarked: The word or flags of a slab without it.
    :param lost: The root for a slab without it.
    :param large: Picks a slab of several pages.
    """

    def tail(machine: Any) -> Page:
        return Page(machine, large(machine).page + sizeof(machine.prog.type("struct page")))

    stray, mark = Root("slab-mark-stray"), put("mark", marked)
    typed = given(lambda m: m.slab_flag is None, "nobody asks a tail for its flags", tail)
    suite.recipe("mark-lost-on-partial", PARTIAL, put("mark", unmarked), lost)
    suite.recipe("mark-on-page-of-user", user_page, mark, stray)
    suite.recipe("mark-on-tail", typed, mark, stray)


def counters(
    suite: Suite[Any], node: Victim[Any], table: Sequence[Tuple[str, str, int, str]]
) -> None:
    """
    Enter damage to what a node counts.

    :param table: Name, member, change and code of each.
    """
    for name, member, change, code in table:
        root = Root(code, place=member.split(".")[0], expected=WAS)
        suite.recipe(name, node, add(member, change), root)


def nodes_of_cache(suite: Suite[Any], also: Codes) -> None:
    """
    Enter two nodes that are one.

    :param also: What may follow where both have what one of them has.
    """
    two = first("cache with slabs on two nodes", _of_two_nodes)
    first_node = put(lambda v: v.node_pointer("node", 1), lambda v: v.node_pointer().number)
    root = Root("cache-wrong", found=NOW, also=also)
    suite.recipe("node-pointer-of-another-node", two, first_node, root)


def _of_two_nodes(machine: Any) -> Iterator[Any]:
    nodes: Dict[Any, Set[int]] = {}
    for slab in machine.slabs.values():
        nodes.setdefault(slab.cache, set()).add(slab.nid)
    return (cache for cache, nids in nodes.items() if nids >= {0, 1} and not cache.lived_in)


def on_container(code: str, **says: Any) -> Root:
    """Return a root that tells in what place a container of free objects is."""
    return Root(code, place=lambda found: found.called, **says)


def entries(suite: Suite[Any], names: Dict[str, str], victim: Victim[Any], foreign: Root) -> None:
    """
    Enter damage to the second entry of what holds free objects.

    :param names: Of the recipes, by what takes the place of the entry.
    :param foreign: The root for an entry that is no object of the cache.
    """
    home = foreign.but(slab=lambda v: v.other.page, node=lambda v: v.other.nid)
    at_home = with_other(victim, lambda found: found.machine.home(found.entries[1]))

    def doubled(machine: Any) -> Beside:
        found = victim(machine)
        return Beside(machine.item(found.entries[2]), found)

    for what, picked, to, root in (
        ("null", victim, 0, foreign),
        ("garbage", victim, GARBAGE, foreign),
        ("user", victim, lambda found: user_page(found.machine).start, foreign),
        ("misaligned", at_home, lambda v: v.entries[1] + 8, home),
        ("another", beside_another_cache(victim), lambda v: v.other.first, foreign),
    ):
        suite.recipe(names[what], picked, put(entry(1), to), root)
    suite.recipe(names["twice"], doubled, enter(1), Root("claim-twice"))


def per_cpu_pointer(
    suite: Suite[Any], victim: Victim[Any], member: str, off: int, root: Root
) -> None:
    """
    Enter damage to a pointer from a cache to what it keeps of CPUs.

    :param off: What makes it misaligned.
    """
    name = member.replace("_", "-") + "-pointer"
    suite.group(
        victim,
        root,
        {
            f"{name}-garbage": put(member, GARBAGE),
            f"{name}-null": put(member, 0),
            f"{name}-misaligned": add(member, off),
        },
    )
    # Other per-CPU memory, that nobody has been given or that begins elsewhere.
    told = given(_tells_chunks, "nothing tells what per-CPU memory is given out", victim)
    suite.group(
        told,
        root,
        {
            f"{name}-another-page": flip(member, lambda cache: _of_none(cache, member)),
            f"{name}-another-chunk": flip(member, 1 << 20),
        },
    )


def _of_none(cache: Any, member: str) -> int:
    # The bit of a page that leads from a pointer to where that of no other cache leads.
    names = [name for name in ("cpu_slab", "cpu_sheaves", "cpu_cache") if _has(cache, name)]
    taken = {other.spot(name).number for other in cache.machine.caches for name in names}
    bit: int = cache.machine.page_size
    while cache.spot(member).number ^ bit in taken:
        bit <<= 1
    return bit


def _has(cache: Any, member: str) -> bool:
    return bool(cache.machine.prog.type("struct kmem_cache").has_member(member))


def _tells_chunks(machine: Any) -> bool:
    try:
        machine.prog.type("struct pcpu_chunk")
        return bool(machine.prog["pcpu_nr_slots"])
    except (FaultError, LookupError):
        return False


def _order(cache: Any, at: int = 0) -> Spot:
    # An entry of the order in which new slabs hand out their objects.
    return Spot(cache.machine.prog, cache.spot("random_seq").number + 4 * at, 4)


def _shuffled(machine: Any) -> Iterator[Any]:
    cache = CACHE(machine)
    known = machine.prog.type("struct kmem_cache").has_member("random_seq")
    if known and cache.spot("random_seq").number:
        yield cache


def _keeps_order(machine: Any) -> Iterator[Any]:
    # Captures made before this was looked at have zeroes there.
    return (
        cache for cache in _shuffled(machine) if _order(cache).number or _order(cache, 1).number
    )


_SHUFFLED = first("random order", _shuffled)
_KEPT_ORDER = first("random order that is there to be read", _keeps_order)


def pointers_of_cache(suite: Suite[Any], also: Codes, names: Sequence[int]) -> None:
    """
    Enter damage to pointers in a cache.

    :param also: What its slabs may show.
    :param names: What takes the place of the pointer to its name.
    """
    suite.recipe(
        "users-of-cache-none",
        CACHE,
        put("refcount", 0),
        Root("cache-destroyed", place="slab_caches", expected=0),
    )
    root = Root("cache-wrong", also=also)
    suite.recipe("users-of-cache-minus-one", CACHE, put("refcount", (1 << 32) - 1), root)
    suite.recipe("random-seq-of-cache-garbage", CACHE, put("random_seq", GARBAGE), root)
    suite.recipe("random-seq-of-cache-null", _SHUFFLED, put("random_seq", 0), root)
    suite.recipe("random-seq-inside-an-object", _SHUFFLED, add("random_seq", 4), root)
    first_entry = put(_order, lambda cache: _order(cache, 1).number)
    suite.recipe("random-seq-of-one-object-twice", _KEPT_ORDER, first_entry, root)
    suite.recipe("constructor-of-cache-garbage", CACHE, put("ctor", GARBAGE), root)
    nameless = root.but(
        cache=lambda cache: f"(cache 0x{cache.address:x})",
        others=lambda cache: frozenset({cache.name}),
    )
    for pointer in names:
        name = f"name-of-cache-{'garbage' if pointer else 'null'}"
        suite.recipe(name, CACHE, put("name", pointer), nameless)
