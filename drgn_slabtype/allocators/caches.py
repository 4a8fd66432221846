# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All slab caches of the machine
------------------------------

Caches are on the list ``slab_caches``; where that list is damaged, or lacks a
cache, the slabs' own pointers lead to the rest.
"""

from __future__ import annotations

from typing import Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
from drgn import FaultError, sizeof
from drgn.helpers.common.format import escape_ascii_string

from ..distinct import among
from ..ledger import I64, U64, Bools, Suspect
from ..machine import Machine
from ..machine.columns import Rows
from ..machine.memory import Memory
from ..regions import Region, region
from ..rules.members import Pointer
from .exchanged import settle_pointers
from .links import Torn, follow, torn
from .settled import settle_caches

_MAX_CACHES = 1 << 20  # more slab caches than any kernel has
_DIRECTORY_BYTES = 64  # of a name in sysfs; a longer one is not looked at
_NAME_BYTES = 256  # of the longest name that is read
_USUAL_BYTES = 32  # more than nearly all names have
_POISON_STEP = 0x22  # from LIST_POISON1 to LIST_POISON2
_MAX_SIZE = 64 << 20  # bytes of the largest object that any slab can hold


class Lost(NamedTuple):
    """A place where ``slab_caches`` does not lead on."""

    at: int
    """``struct kmem_cache *``, or the list head."""
    found: int
    """Where the list ends: the links of what is no cache, or what the link leads to."""
    readable: bool
    """Whether the memory it leads to is in the target."""
    link: Torn
    """The link itself."""


class Caches(NamedTuple):
    """All slab caches of the machine."""

    rows: Rows
    """One ``struct kmem_cache`` each, up to the entries of its node array that exist."""
    names: List[str]
    """Escaped names; of one that is not in the target, and of none, what stands in for it."""
    named: Bools
    """Of which the name is known."""
    dying: Bools
    """Which are being destroyed and wait for RCU (``slab_caches_to_rcu_destroy``)."""
    unlisted: Bools
    """Which are on no list and were found through their slabs."""
    lost: Optional[Lost]
    """Where the list of caches is damaged."""
    chosen: Bools
    """Which a reading is about: of them alone it reads nodes, CPUs and places."""
    wrong: Mapping[int, Suspect]
    """What those are that are not read as they are in memory; see :mod:`.settled`."""

    def __len__(self) -> int:
        return len(self.names)

    def choose(self, numbers: Sequence[int]) -> Caches:
        """Return all caches, for a reading that is about some of them alone."""
        chosen = np.zeros(len(self), np.bool_)
        chosen[list(numbers)] = True
        return self._with(self.rows, chosen, self.wrong)

    def again(self, memory: Memory) -> Caches:
        """Return the same caches, those that are chosen as they are now."""
        rows = self.rows.again(memory, np.flatnonzero(self.chosen))
        wrong = {row: one for row, one in self.wrong.items() if not self.chosen[row]}
        wrong.update(settle_caches(rows, memory.page_size))
        return self._with(rows, self.chosen, wrong)

    def _with(self, rows: Rows, chosen: Bools, wrong: Mapping[int, Suspect]) -> Caches:
        # Its length is the number of caches: what makes a tuple of fields does not fit.
        named, dying = self.named, self.dying
        return Caches(rows, self.names, named, dying, self.unlisted, self.lost, chosen, wrong)

    @property
    def all_known(self) -> bool:
        """Whether each cache is in the target, so that what none has is no cache's. Where a
        link of their list is damaged, the rest is found from behind, by slabs and in sysfs."""
        is_whole = self.lost is None or self.lost.readable
        return is_whole and bool(self.rows.ok.all())

    @property
    def listed(self) -> Bools:
        """Which are on ``slab_caches``, as they are from when they are whole until they die."""
        return ~(self.dying | self.unlisted)

    @property
    def destroyed(self) -> Bools:
        """Which were taken off the list of caches, and left slabs behind."""
        found = self.unlisted & _deleted(self.rows)
        if self.lost is not None:
            # To one that is taken off, its neighbours lead no more when its links are poison.
            found &= self.addresses != np.uint64(self.lost.at)
        return found

    @property
    def given_up(self) -> Bools:
        """Which are on the list of caches, and nobody's."""
        return self.listed & self.rows.ok & (self.rows["refcount"] == 0)

    @property
    def addresses(self) -> U64:
        """``struct kmem_cache *`` of each."""
        return self.rows.addresses


def read_caches(machine: Machine, told: Sequence[int] = ()) -> Caches:
    """
    Read every ``struct kmem_cache``.

    The list is walked forward, and backward from its head after a broken link.

    :param told: What slabs call their cache: ``struct kmem_cache *`` if all is well.
    """
    listed, lost = _walk(machine, "slab_caches")
    try:
        dying, _ = _walk(machine, "slab_caches_to_rcu_destroy")
    except LookupError:
        dying = []
    known = set(listed) | set(dying)
    unlisted = _plausible(machine, [address for address in told if address not in known])
    beside = _plausible(machine, sorted({*_in_sysfs(machine, listed)} - known - {*unlisted}))
    # One that is being destroyed is in sysfs a little longer.
    gone = _deleted(rows_of_caches(machine, beside))
    unlisted += [address for address, dead in zip(beside, gone.tolist()) if not dead]
    addresses = listed + dying + unlisted
    rows = rows_of_caches(machine, addresses)
    texts = list(_names(machine, rows))
    names = [text or f"(cache 0x{address:x})" for text, address in zip(texts, addresses)]
    named = np.array([text is not None for text in texts], np.bool_)
    at = np.arange(len(addresses))
    is_unlisted = at >= len(listed) + len(dying)
    dead = (at >= len(listed)) & ~is_unlisted
    wrong = settle_caches(rows, machine.memory.page_size)
    every = np.ones(len(addresses), np.bool_)
    return Caches(rows, names, named, dead, is_unlisted, lost, every, wrong)


def read_caches_apart(machine: Machine, told: Sequence[int] = ()) -> Caches:
    """
    Read every ``struct kmem_cache``, and put right which of them leads to another's structures.

    That asks what stands in the structures of all caches. Where little is read, a slab of
    such a cache contradicts what is read through it.

    :param told: What slabs call their cache.
    """
    caches = read_caches(machine, told)
    if machine.is_live:
        return caches
    pointers = settle_pointers(machine, caches.rows, caches.names)
    return caches._with(caches.rows, caches.chosen, {**pointers, **caches.wrong})


def rows_of_caches(machine: Machine, addresses: Sequence[int]) -> Rows:
    """Return structures of caches, as far as the kernel makes them: to the last node."""
    layout = machine.structure("struct kmem_cache")
    node_array = "per_node" if layout.has("per_node") else "node"
    entry = layout.type.member(node_array).type.type
    size = layout.offset(node_array) + machine.node_ids * (entry.size or machine.memory.word_size)
    return machine.rows("struct kmem_cache", np.array(addresses, np.uint64), size)


def _in_sysfs(machine: Machine, listed: List[int]) -> List[int]:
    # What is beside caches in the kset of all of them. One that is being made is there
    # before it is on slab_caches, with links of NULL, which is no plausible cache yet;
    # its links are poison from when it is taken off.
    rows = rows_of_caches(machine, listed)
    if not rows.structure.has("kobj.entry.next"):
        return []
    there = rows.ok & (rows["kobj.state_in_sysfs"] != 0)
    links = np.concatenate([rows["kobj.entry.next"][there], rows["kobj.entry.prev"][there]])
    links = links[machine.memory.is_kernel_address(links)]
    return (links - np.uint64(rows.structure.offset("kobj.entry"))).tolist()


def _plausible(machine: Machine, addresses: List[int]) -> List[int]:
    # What a slab points to is a cache if it reads as one.
    rows = rows_of_caches(machine, addresses)
    if not len(rows):
        return []
    source = machine.memory
    size, object_size = rows["size"].astype(np.int64), rows["object_size"].astype(np.int64)
    good = rows.ok & (rows.addresses % np.uint64(source.word_size) == 0)
    good &= (size > 0) & (size <= _MAX_SIZE) & (object_size > 0) & (object_size <= size)
    linked = source.is_kernel_address(rows["list.next"])
    linked &= source.is_kernel_address(rows["list.prev"])
    good &= (linked & ~_copies(machine, rows)) | _deleted(rows)
    named = []
    for row in np.flatnonzero(good).tolist():
        name = _name(machine, int(rows["name"][row]))
        if name is None or (name and name.isprintable()):
            named.append(addresses[row])
    return named


def _copies(machine: Machine, rows: Rows) -> Bools:
    # Whose links are another's: what they lead to agrees on who is between them.
    word = np.uint64(machine.memory.word_size)
    own = rows.addresses + np.uint64(rows.structure.offset("list"))
    ahead, behind = rows["list.next"], rows["list.prev"]
    back, forth = (
        machine.memory.gather_words(links, int(word), np.zeros(1, np.int64)).words[:, 0]
        for links in (ahead + word, behind)
    )
    copies: Bools = (back == forth) & (back != own) & (back != 0)
    # Of one that was taken off a list of two, that is the head.
    return copies & (back != ahead) & (back != behind)


def _deleted(rows: Rows) -> Bools:
    # Which were taken off their list: list_del() leaves LIST_POISON1 and
    # LIST_POISON2, to which some architectures add the same.
    first, second = rows["list.next"], rows["list.prev"]
    low = np.uint64(0xFFFF)
    deleted: Bools = (first & low == 0x100) & (second - first == _POISON_STEP)
    return deleted


def _name(machine: Machine, pointer: int) -> Optional[str]:
    # None if it is not in the target. NULL need not fault.
    memory = machine.memory
    if not memory.is_kernel_address(np.array([pointer], np.uint64))[0]:
        return None
    try:
        text = machine.prog.read_c_string(pointer, max_size=_NAME_BYTES)
        # Of a page that a dumper left out there may be zeroes, but not in a capture.
        if not text and machine.manifest is None:
            page = memory.read(pointer & -memory.page_size, memory.page_size)
            return "" if any(page) else None
    except FaultError:
        return None
    return _escaped(text)


def _names(machine: Machine, rows: Rows) -> Iterator[Optional[str]]:
    pointers = rows["name"]
    if machine.manifest is not None:
        # Captures have nothing behind a name.
        yield from (_name(machine, pointer) for pointer in pointers.tolist())
        return
    gathered = machine.memory.gather(pointers, _USUAL_BYTES)
    for pointer, data in zip(pointers.tolist(), gathered.bytes):
        name, end, _ = data.tobytes().partition(b"\0")
        yield _escaped(name) if name and end else _name(machine, pointer)


def _escaped(name: bytes) -> str:
    if name.isascii() and b"\\" not in name and name.decode().isprintable():
        return name.decode()  # as nearly all are
    return escape_ascii_string(name, escape_backslash=True)


def names_in_sysfs(machine: Machine, caches: Caches) -> List[Optional[str]]:
    """Return the name that each cache's directory in sysfs has, escaped; ``None`` without one."""
    rows = caches.rows
    if not rows.structure.has("kobj.name"):
        return [None] * len(rows)
    there = rows.ok & (rows["kobj.state_in_sysfs"] != 0)
    if machine.manifest is not None:
        # Captures have nothing behind a name.
        pointers = zip(rows["kobj.name"].tolist(), there.tolist())
        return [_name(machine, pointer) if known else None for pointer, known in pointers]
    gathered = machine.memory.gather(rows["kobj.name"] * there, _DIRECTORY_BYTES)
    found: List[Optional[str]] = []
    for known, data in zip(gathered.ok.tolist(), gathered.bytes):
        name, end, _ = data.tobytes().partition(b"\0")
        found.append(_escaped(name) if known and end else None)
    return found


def _walk(machine: Machine, symbol: str) -> Tuple[List[int], Optional[Lost]]:
    head = machine.prog[symbol].address_
    assert head is not None
    offset = machine.structure("struct kmem_cache").offset("list")
    forward = follow(machine, head, _MAX_CACHES)
    links, lost = forward.links, None
    if not forward.closed:
        backward = follow(machine, head, _MAX_CACHES, backward=True)
        seen: Set[int] = set(links)
        links = links + [link for link in reversed(backward.links) if link not in seen]
        link = torn(machine, forward, backward)
        at = link.links - (offset if link.links != head else 0)
        both = link.links == forward.found == backward.found
        leads = link.links if both else link.found
        lost = Lost(at, leads, forward.readable, link)
    return [link - offset for link in links], lost


def same_cache(told: U64, caches: Caches) -> I64:
    """Return the position of the cache at each address; -1 where there is none."""
    order, ordered = caches.rows.by_address
    if not len(order):
        return np.full(len(told), -1, np.int64)
    at = np.minimum(ordered.searchsorted(told), len(order) - 1)
    return np.where(ordered[at] == told, order[at], -1).astype(np.int64)


def cache_pointers(memory: Memory, caches: Caches, number: int) -> List[Pointer]:
    """
    Return the pointers of a cache that both allocators have.

    :param number: Position in *caches*.
    """
    found = []
    # A cache may be without all of them but its name.
    for member, needed, alignment in (
        ("name", True, 1),
        ("random_seq", False, 4),
        ("ctor", False, 1),
    ):
        if caches.rows.structure.has(member):
            pointer = caches.rows[member][number : number + 1]
            leads = bool(memory.is_kernel_address(pointer)[0])
            found.append(Pointer(member, int(pointer[0]), leads, needed, alignment))
    return found


def regions(machine: Machine, caches: Caches) -> Iterator[Region]:
    """Yield every ``struct kmem_cache``, its name, and that in sysfs."""
    yield region("slab caches", caches.addresses, caches.rows.raw.shape[1])
    pointers = caches.rows["name"].tolist()
    if caches.rows.structure.has("kobj.name"):
        pointers += caches.rows["kobj.name"].tolist()
    for pointer in pointers:
        try:
            name = machine.prog.read_c_string(pointer, max_size=_NAME_BYTES)
        except FaultError:
            continue
        yield region("slab caches", pointer, len(name) + 1)


def in_kmalloc_table(machine: Machine, addresses: U64) -> Optional[Bools]:
    """
    Return which caches ``kmalloc_caches`` leads to; ``None`` if the target does not tell.

    :param addresses: ``struct kmem_cache *`` of each.
    """
    pointers = machine.fact(_kmalloc_caches)
    return None if pointers is None else among(addresses, pointers)


def _kmalloc_caches(machine: Machine) -> Optional[U64]:
    # What the table holds, row after row; it does not change once a kernel has booted.
    try:
        table = machine.prog["kmalloc_caches"]
    except LookupError:
        return None
    start = np.array([table.address_], np.uint64)
    gathered = machine.memory.gather(start, sizeof(table))
    return gathered.bytes.view(machine.memory.word)[0].astype(np.uint64) if gathered.ok[0] else None
