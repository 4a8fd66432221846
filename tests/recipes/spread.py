# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage that is more than a word, or in no cache's own structures.

Tables that lead to caches, KFENCE's metadata, vectors of object cgroups, pages that were
given back while they are slabs, and writes that run over many words at once.
"""

from __future__ import annotations

from typing import Any, FrozenSet, Iterator, Sequence

from drgn import FaultError, Object, TypeKind, offsetof, sizeof
from drgn.helpers.linux.mmzone import NODE_DATA
from drgn.helpers.linux.percpu import per_cpu_ptr

from .changes import GARBAGE, Change, Edit, Spot, flip, put, store
from .cpupages import cpu_pages
from .language import NOW, NoVictim, Root, Suite, Victim
from .library import machine as of_program
from .library import witness
from .pages import user_page
from .things import Beside, Thing
from .victims import CACHE, PARTIAL, container, first, given

_SLAB_POISON = 0x800
_TEXT = b"intel_pstate: HWP enabled by BIOS"
_ROW, _SMALL, _LARGE = 0, 6, 8  # kmalloc-64 and kmalloc-256


def spread(suite: Suite[Any], also: Any) -> None:
    """
    Enter what both allocators have.

    :param also: What may follow for slabs of a list.
    """
    _tables(suite)
    _vectors(suite)
    cpu_pages(suite)
    # A cache that is cleared: its slabs, and its neighbours in sysfs, follow.
    gone = frozenset({"slab-mark-stray", "cache-wrong", "cache-list"})
    cleared = store(lambda cache: cache.address, lambda cache: bytes(_size(cache)))
    root = Root("cache-list", cache=None, place="slab_caches", also=gone)
    suite.recipe("cache-cleared", CACHE, cleared, root.but(others=frozenset({"*"})))
    unnamed = Root("slab-flags-wrong", node=None, found=hex(1 << 35))
    suite.recipe("bit-of-no-flag", PARTIAL, flip("flags", 1 << 35), unnamed)
    # The highest bit of the zone, of which no machine has so many.
    root = Root("page-zone-wrong", node=None)
    for name, victim in (("slab", PARTIAL), ("user", _page_of_user)):
        suite.recipe(f"zone-of-{name}-wrong", victim, flip("flags", _zone_bit), root)
    given_back = frozenset({"list-broken", "list-links", "list-missing", "vmstat-slab"})
    root = Root("page-free-type", place="pcp", node=None, also=given_back | also, astray=True)
    suite.recipe("slab-on-a-list-of-free-pages", _full_slab, _give_back(), root)


def runs(suite: Suite[Any], name: str, place: str) -> None:
    """Enter text over all entries of what holds free objects: one damage."""
    foreign = frozenset({"claim-foreign"})
    change = store(lambda found: found.entry(0).address, lambda found: _over(found, _TEXT))
    root = Root("claim-foreign", place=lambda found: found.called, also=foreign)
    suite.recipe(name, container(place, 3), change, root)


def _over(found: Any, text: bytes) -> bytes:
    length = 8 * len(found.entries)
    return (text * (length // len(text) + 1))[:length]


def _size(cache: Any) -> int:
    return int(cache.machine.cache("kmem_cache").object.object_size.value_())


# Tables.


def _variable(name: str) -> Victim[Any]:
    def pick(machine: Any) -> Thing:
        try:
            found = machine.prog.variable(name)
            machine.prog.read(found.address_, 1)
        except (FaultError, LookupError, TypeError):
            raise NoVictim(f"no {name}") from None
        return Thing(machine, "struct list_head", found.address_)

    return pick


def _entry(thing: Any, column: int) -> Spot:
    # In row 0, where ordinary memory is.
    return Spot(thing.machine.prog, thing.address + 8 * column)


def _kmalloc(machine: Any) -> Thing:
    table = _variable("kmalloc_caches")(machine)
    if not (_entry(table, _LARGE).number and _entry(table, _SMALL).number):
        raise NoVictim("kmalloc() aligns its objects")
    return table


def _kinds(machine: Any) -> int:
    # The column of the same size in another row, which leads to another cache; 0 for none.
    rows = machine.prog["kmalloc_caches"]
    row = rows[0].type_.type if rows[0].type_.kind == TypeKind.TYPEDEF else rows[0].type_
    first = Spot(machine.prog, rows.address_ + 8 * _LARGE).number
    for number in range(1, rows.type_.length) if row.kind == TypeKind.ARRAY else ():
        column = number * row.length + _LARGE
        if Spot(machine.prog, rows.address_ + 8 * column).number not in (0, first):
            return int(column)
    return 0


def _named_by_kmalloc(machine: Any) -> Beside:
    return Beside(machine.cache("kmalloc-256"), CACHE(machine))


def _tables(suite: Suite[Any]) -> None:
    root = Root("machine-wrong", place="kmalloc_caches", found=NOW)
    entry = put(lambda t: _entry(t, _LARGE), lambda t: _entry(t, _SMALL).number)
    suite.recipe("kmalloc-cache-for-smaller-objects", _kmalloc, entry, root)
    for what, number in (("null", 0), ("garbage", GARBAGE)):
        name = f"kmalloc-cache-{what}"
        suite.recipe(name, _kmalloc, put(lambda t: _entry(t, _LARGE), number), root)
    smaller = put(lambda t: Spot(t.machine.prog, t.address + 15, 1), 3)  # for 121 to 128 bytes
    root = Root("machine-wrong", place="kmalloc_size_index", found=3)
    suite.recipe("kmalloc-size-for-smaller-objects", _variable("kmalloc_size_index"), smaller, root)
    root = Root("machine-wrong", place="slab_state", found=0x6B6B6B6B)
    down = put(lambda t: Spot(t.machine.prog, t.address, 4), 0x6B6B6B6B)
    suite.recipe("slab-state-garbage", _variable("slab_state"), down, root)
    root = Root("machine-wrong", place="kmalloc_caches", found=NOW)
    suite.recipe(
        "kmalloc-cache-of-another-kind",
        given(_kinds, "kmalloc() has one kind of caches", _kmalloc),
        put(lambda t: _entry(t, _LARGE), lambda t: _entry(t, _kinds(t.machine)).number),
        root,
    )
    suite.recipe(
        "name-of-kmalloc-cache",
        given(_kinds, "kmalloc() has one kind of caches", _named_by_kmalloc),
        put("name", lambda v: v.other.kept("name")),
        Root(
            "cache-wrong",
            cache=lambda v: v.other.name,
            found=lambda v: v.other.kept("name"),
            others=lambda v: frozenset({v.name, v.other.name}),
            also=frozenset({"cache-wrong"}),
        ),
    )
    victim = given(
        lambda m: m.prog.type("struct kmem_cache").has_member("oo"),
        "SLAB's first cache is in no slab",
        _variable("kmem_cache"),
    )
    another = put("next", lambda thing: thing.machine.caches[3].address)
    root = Root("machine-wrong", place="kmem_cache", found=NOW)
    suite.recipe("kmem-cache-is-another", victim, another, root)


# Vectors.


def _vector(slab: Any) -> Spot:
    layout = slab.machine.prog.type(slab.machine.descriptor)
    for name in ("obj_exts", "memcg_data", "obj_cgroups"):
        if layout.has_member(name):
            found: Spot = slab.spot(name)
            return found
    raise NoVictim("no vectors")


def _with_vectors(machine: Any) -> Iterator[Beside]:
    for slab in machine.all_slabs():
        word = _vector(slab).number
        address = word & ~7
        if not word & 1 or not address or slab.start <= address < slab.start + slab.span:
            continue
        try:
            machine.prog.read(address, 8 * slab.objects)
            known = machine.prog.type("struct obj_cgroup").is_complete()
        except (FaultError, LookupError):
            continue
        if known and slab.objects > 1:
            yield Beside(slab, address)


def _freed_vector(machine: Any) -> Iterator[Beside]:
    # A slab with a vector, and a place of the cache whose object the vector is.
    room = [found for found in machine.containers if len(found.entries) > 2]
    for found in _with_vectors(machine):
        home = machine.home(found.other)
        for place in room if home else ():
            if place.cache is home.cache and place.place.endswith(("sheaf", "array")):
                yield Beside(found, place)
                break


def _if_poisoned(found: Any) -> FrozenSet[str]:
    # With CONFIG_DEBUG_SLAB. SLUB's debugged caches have no sheaves.
    cache = found.other.cache
    poisoned = isinstance(cache.flags, int) and cache.flags & _SLAB_POISON
    return frozenset({cache.name} if poisoned else ())


def _vectors(suite: Suite[Any]) -> None:
    freed = put(lambda v: v.other.entry(1), lambda v: v.victim.other)
    # Where free objects are poisoned, that one is not, and its cache is inconsistent, too.
    content = frozenset({"poison"})
    leads = Root("slab-vector-wrong", node=None, astray=True, also=content)
    leads = leads.but(others=_if_poisoned)
    suite.recipe("vector-freed", first("vector in an object", _freed_vector), freed, leads)
    root = Root("slab-vector-wrong", node=None, astray=True)
    text = store(lambda v: v.other, _TEXT[:16])
    suite.recipe("vector-holds-text", first("vector", _with_vectors), text, root)


# Pages.


def _page_of_user(machine: Any) -> Thing:
    found = user_page(machine)
    found.names = {"page": found.page}
    return found


def _zone_bit(page: Any) -> int:
    return 1 << 63 - int(page.machine.nodes_shift)


def _full_slab(machine: Any) -> Any:
    if offsetof(machine.prog.type(machine.descriptor), "slab_cache") == 8:
        raise NoVictim("where a free page has its links, a slab has its cache")
    full = ("full", "nowhere")
    return machine.slab(
        "full slab of one page",
        lambda s: s.where in full and s.counted == s.objects and not s.order,
        lambda s: not s.cache.lived_in and not getattr(s.cache, "debug", False),
    )


def _pages_of_cpu(machine: Any) -> Any:
    zones = NODE_DATA(machine.prog, 0).node_zones
    zone = max(zones, key=lambda zone: zone.present_pages.value_())
    if zone.type_.has_member("per_cpu_pageset"):
        return per_cpu_ptr(zone.per_cpu_pageset, machine.cpus[0])
    return per_cpu_ptr(zone.pageset, machine.cpus[0]).pcp.address_of_()


def _give_back() -> Change:
    def edits(slab: Any) -> Any:
        prog = slab.machine.prog
        pages = _pages_of_cpu(slab.machine)
        head, link = pages.lists[0].address_of_().value_(), slab.link
        first = prog.read_u64(head)
        count = Spot(prog, pages.member_("count").address_of_().value_(), 4)
        links = {link: first, link + 8: head, head: link}
        links[first + 8] = link
        return [
            Edit(count, count.number + 1),
            *(Edit(Spot(prog, a), to) for a, to in links.items()),
        ]

    return Change(edits)


# KFENCE.


def guarded(suite: Suite[Any]) -> None:
    """Enter damage to the metadata of KFENCE, and to what is beside an object."""
    root = Root("kfence-wrong", place="kfence_metadata", found=NOW)
    suite.group(
        first("object in use in KFENCE's pool", _in_use),
        root,
        {
            "kfence-address-zero": put("addr", 0),
            "kfence-cache-garbage": put("cache", GARBAGE),
            "kfence-size-too-great": put("size", 0x6B6B6B6B),
            "kfence-state-garbage": put("state", 0x6B6B6B6B),
        },
    )
    suite.group(
        first("object in use in KFENCE's pool, all stacks known", _standing_still),
        Root("redzone", cache=_cache_of, place="red zone of KFENCE", found="00"),
        {"kfence-red-zone": Change(_beside)},
    )


def _cache_of(guarded: Thing) -> str:
    cache = Object(guarded.machine.prog, "struct kmem_cache *", guarded.kept("cache"))
    return cache.name.string_().decode()


def _beside(guarded: Thing) -> Sequence[Edit]:
    # Captures without what is beside objects have zeroes there: the page is filled, and the
    # byte behind the object, or if none is the one before, is cleared.
    prog, start = guarded.machine.prog, guarded.kept("addr")
    end = start + guarded.kept("size")
    first = start & ~0xFFF
    edits = [
        Edit(Spot(prog, at, 1), 0xAA ^ (at & 7))
        for at in range(first, first + 0x1000)
        if not start <= at < end
    ]
    return [*edits, Edit(Spot(prog, end if end & 0xFFF else start - 1, 1), 0)]


def _standing_still(machine: Any) -> Iterator[Thing]:
    if witness.witnesses(of_program(machine.prog)).complete:
        yield from _in_use(machine)


def _in_use(machine: Any) -> Iterator[Thing]:
    try:
        metadata, pool = (machine.prog[name] for name in ("kfence_metadata", "__kfence_pool"))
    except LookupError:
        return
    is_array = metadata.type_.kind == TypeKind.ARRAY
    start = metadata.address_ if is_array else metadata.value_()
    step = sizeof(machine.prog.type("struct kfence_metadata"))
    for at in range(255 if pool.value_() and start else 0):
        thing = Thing(machine, "struct kfence_metadata", start + at * step)
        if thing.kept("state") == 1:
            yield thing
