# SPDX-License-Identifier: LGPL-2.1-or-later
"""
KASAN's quarantine
------------------

Generic KASAN keeps an object that was freed back for a while: it is linked into
a list of the CPU or of the machine, through what KASAN keeps of it, and counted
as in use by its slab. The lists hold objects of all caches. An object of a cache
that may be touched after it was freed is never here; neither are those that
CONFIG_SLUB_RCU_DEBUG holds back until a grace period has passed.
"""

from __future__ import annotations

import contextlib
from typing import Dict, Iterator, List, NamedTuple, Tuple

import numpy as np

from ..arguments import named
from ..index import SlabIndex
from ..ledger import I64, U64, Containers, Ledger, Place, State, Suspect, Walk
from ..machine import Machine
from ..machine.percpu import per_cpu_addresses
from ..regions import Region, region, steps
from .arrays import enter_arrays
from .caches import Caches

QUARANTINE = Place("quarantine", counted=True)
"""The place of its objects; its name in :meth:`Quarantine.enter`."""

_HEAD = "struct qlist_head"
# Per-CPU lists by the variable that has them, and the member of it that they are.
_PER_CPU = {"cpu_quarantine": "", "shrink_qlist": "qlist"}
_BATCHES = "global_quarantine"
_SMALLEST = 32  # bytes that no slot with KASAN's records in it is below
_MAX_ENTRIES = 1 << 20  # of one list: the kernel moves a list on long before


class Heads(NamedTuple):
    """All lists of the quarantine, as columns."""

    names: List[str]
    """What holds each: a variable, and the CPU where it is per CPU."""
    addresses: U64
    """``struct qlist_head *``."""
    first: U64
    last: U64
    limit: I64
    """Most entries it can have by the bytes it counts."""


class Walked(NamedTuple):
    """What is on the lists."""

    nodes: U64
    """``struct qlist_node *`` of each object."""
    of: I64
    """The list it is on: row of :class:`Heads`."""
    torn: Dict[int, int]
    """What lists lead to that do not end where they say they do, by row."""
    lost: Dict[int, int]
    """The same of those that lead to memory which is not in the target."""


class Quarantine:
    """The objects in quarantine."""

    def __init__(self, heads: Heads, walked: Walked) -> None:
        self._heads = heads
        self._walked = walked
        self._by_cache: Dict[int, U64] = {}
        self._foreign: Dict[int, int] = {}

    def locate(self, index: SlabIndex, caches: Caches, owner: I64) -> None:
        """
        Sort the objects by their cache.

        :param owner: Position of the cache of each row of the index.
        """
        self._by_cache, self._foreign = {}, {}
        nodes = self._walked.nodes
        if not len(nodes) or not len(index):
            return
        rows = index.rows_of_addresses(nodes)
        cache = np.where(rows >= 0, owner[rows], -1)
        known = cache >= 0
        if index.whole:
            pairs = zip(self._walked.of[~known].tolist(), nodes[~known].tolist())
            self._foreign = dict(reversed(list(pairs)))
        objects = nodes[known] - _link_offsets(index.machine, caches)[cache[known]]
        order = np.argsort(cache[known], kind="stable")
        numbers, firsts = np.unique(cache[known][order], return_index=True)
        self._by_cache = dict(zip(numbers.tolist(), np.split(objects[order], firsts[1:])))

    def suspects(self) -> Iterator[Suspect]:
        """Yield what is wrong with the lists, which belong to no cache."""
        for code, links in (
            ("list-broken", {**self._foreign, **self._walked.torn}),
            ("unreadable", self._walked.lost),
        ):
            for row, found in links.items():
                yield Suspect(
                    code,
                    f"{self._heads.names[row]}: the list leads to {named(found)}",
                    place=QUARANTINE.name,
                    found=found,
                    address=int(self._heads.addresses[row]),
                )

    def enter(self, cache: int, rows: I64, index: SlabIndex, ledger: Ledger, place: int) -> None:
        """
        Enter the objects of one cache into its ledger.

        :param rows: Rows of the index that are the rows of ``ledger.slabs``.
        :param place: Position of :data:`QUARANTINE` in ``ledger.places``.
        """
        mine = self._by_cache.get(cache)
        if mine is None:
            return
        box = Containers.build(1, place=place, address=0, walked=len(mine), state=Walk.WHOLE)
        count, states = np.array([len(mine)], np.int64), np.array([State.WAITING], np.uint8)
        enter_arrays(ledger, index, rows, box, mine[None, :], count, states)


def _link_offsets(machine: Machine, caches: Caches) -> U64:
    # From an object of each cache to its link.
    inside = machine.structure("struct kasan_free_meta").offset("quarantine_link")
    offsets: U64 = caches.rows["kasan_info.free_meta_offset"] + np.uint64(inside)
    return offsets


def read_quarantine(machine: Machine) -> Quarantine:
    """Read the lists of the quarantine; there are none without generic KASAN."""
    heads = _read_heads(machine)
    return Quarantine(heads, _walk(machine, heads))


def _head_addresses(machine: Machine) -> Iterator[Tuple[str, U64]]:
    for name, member in _PER_CPU.items():
        with contextlib.suppress(LookupError):
            variable = machine.prog[name]
            layout = machine.structure(variable.type_.type_name())
            inside = np.uint64(layout.offset(member) if member else 0)
            base = np.array([variable.address_], np.uint64)
            at = per_cpu_addresses(machine, base)[0] + inside
            yield from ((f"{name} of CPU {cpu}", one) for cpu, one in zip(machine.cpus, at))
    with contextlib.suppress(LookupError):
        batches = machine.prog[_BATCHES]
        assert batches.address_ is not None
        size = machine.structure(_HEAD).size
        for number, one in enumerate(steps(batches.address_, size, batches.type_.length or 0)):
            yield f"{_BATCHES}[{number}]", one


def _read_heads(machine: Machine) -> Heads:
    has_kasan = machine.structure("struct kmem_cache").has("kasan_info.free_meta_offset")
    found = list(_head_addresses(machine)) if has_kasan else []
    addresses = np.array([at for _, at in found], np.uint64)
    nothing = np.zeros(0, np.uint64)
    if not found:
        return Heads([], nothing, nothing, nothing, np.zeros(0, np.int64))
    rows = machine.rows(_HEAD, addresses)
    # The one that is being put there is not counted yet.
    limit = np.minimum(rows["bytes"] // np.uint64(_SMALLEST) + np.uint64(2), _MAX_ENTRIES)
    names = [name for name, _ in found]
    return Heads(names, addresses, rows["head"], rows["tail"], limit.astype(np.int64))


def _walk(machine: Machine, heads: Heads) -> Walked:
    # All lists at once, a step each time.
    source = machine.memory
    nodes, of = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    torn: Dict[int, int] = {}
    lost: Dict[int, int] = {}
    rows = np.flatnonzero(heads.first)
    at, step = heads.first[rows], 0
    while len(rows):
        sane = source.is_kernel_address(at) & (at % np.uint64(source.word_size) == 0)
        sane &= step < heads.limit[rows]
        torn.update(zip(rows[~sane].tolist(), at[~sane].tolist()))
        rows, at = rows[sane], at[sane]
        gathered = source.gather(at, source.word_size)
        lost.update(zip(rows[~gathered.ok].tolist(), at[~gathered.ok].tolist()))
        links = gathered.bytes.view(source.word)[:, 0].astype(np.uint64)
        nodes.append(at[gathered.ok])
        of.append(rows[gathered.ok])
        # The link of the last one may not be written yet; nor may the tail be.
        on = gathered.ok & (at != heads.last[rows]) & (heads.last[rows] != 0) & (links != 0)
        rows, at, step = rows[on], links[on], step + 1
    return Walked(np.concatenate(nodes), np.concatenate(of), torn, lost)


def regions(machine: Machine) -> Iterator[Region]:
    """Yield the lists of the quarantine, and the links in its objects."""
    heads = _read_heads(machine)
    if len(heads.addresses):
        yield region("quarantine", heads.addresses, machine.structure(_HEAD).size)
        yield region("quarantine", _walk(machine, heads).nodes, machine.memory.word_size)
