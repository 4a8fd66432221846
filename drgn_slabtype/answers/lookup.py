# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Finding caches and slabs
------------------------

What all answers ask. A question about one address is answered by a reading of
the slab that it lies in; the whole machine is read when that cannot settle it,
and for questions about caches.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property, partial
from typing import Callable, List, NamedTuple, Optional, Sequence

import numpy as np

from ..allocators.caches import Caches, read_caches, same_cache
from ..allocators.whereabouts import find_slab
from ..arguments import CacheLike, CacheName, cache_of, named
from ..errors import ArgumentError
from ..findings import Finding
from ..index import SlabIndex, slabs_at
from ..ledger import I64, U64, Ledger
from ..machine import Machine
from ..pages.scan import Progress
from ..reading import Reading, Scope
from ..strays import judge_pages, of_caches
from .aliases import cache_aliases
from .names import find_names, known_as
from .proven import shelf, witnessed
from .slabpage import SlabPages
from .states import Objects, object_states

_KEPT_BYTES = 64 << 20  # of the tables of caches that are kept for the next question

_NAMED = 4  # caches that are named where one was asked for


class Judged(NamedTuple):
    """A cache, or as much of it as a reading is about, read and judged."""

    ledger: Ledger
    findings: List[Finding]
    objects: Objects
    changing: Sequence[Finding] = ()
    """What would be findings, and work in progress explains; of what moves, nothing is."""

    @property
    def size(self) -> int:
        """Bytes of its tables."""
        tables = (self.ledger.slabs, self.ledger.claims, self.ledger.containers)
        columns = [column for table in tables for column in vars(table).values()]
        own = self.objects
        columns += [own.slab, own.index, own.address, own.state, own.claim]
        return sum(column.nbytes for column in columns)


class Located:
    """
    One slab.

    :param index: That it is in.
    :param row: Of the index.
    :param number: Position of its cache in *caches*; -1 if it is of none.
    """

    def __init__(
        self, lookup: Lookup, index: SlabIndex, row: int, caches: Caches, number: int
    ) -> None:
        self._lookup = lookup
        self.index = index
        self.row = row
        self.caches = caches
        self.number = number

    @property
    def machine(self) -> Machine:
        """That it is in."""
        return self._lookup.machine

    @property
    def is_alone(self) -> bool:
        """Whether it was found without a reading of the whole machine."""
        return not self.index.whole

    @property
    def page(self) -> int:
        """``struct slab *``."""
        return int(self.index.pages[self.row])

    @cached_property
    def _alone(self) -> Optional[Judged]:
        return self._lookup.judge_slab(self.page) if self.is_alone else None

    def settle(self) -> Located:
        """Return the slab as a reading of its own settles what it is, or the whole machine does."""
        if not self.is_alone or self._alone is not None:
            return self
        return self._lookup.widely(self.page) or self

    @property
    def judged(self) -> Judged:
        """What :meth:`settle` has settled, with the places that could hold its objects."""
        return self._alone or self._lookup.judged(self.number)


class Lookup:
    """
    Readings of one machine, ready for questions.

    :param whole: A reading of the whole machine, if there is one already.
        Questions about a moving target are answered as of the moment when they
        are asked, as far as they need no reading of the whole.
    """

    def __init__(
        self,
        machine: Machine,
        whole: Optional[Reading] = None,
        progress: Optional[Progress] = None,
    ) -> None:
        self.machine = machine
        self._whole = whole
        self._progress = progress
        self._judged: OrderedDict[int, Judged] = OrderedDict()

    @property
    def whole(self) -> Reading:
        """The reading of the whole machine, made when it is first asked for."""
        if self._whole is None:
            self._whole = Reading(self.machine, progress=self._progress)
        return self._whole

    @property
    def caches(self) -> Caches:
        """All caches, those included that only slabs lead to."""
        return self.whole.allocator.caches

    @property
    def listed(self) -> Caches:
        """All caches that lists lead to."""
        return self.machine.settled(read_caches)

    def judged(self, number: int) -> Judged:
        """
        Return everything about one cache.

        :param number: Position in :attr:`caches`.
        """
        found = self._judged.pop(number, None)
        if found is None:
            ledger, findings = self.whole.judge(number)
            moving: List[Finding] = []
            of_pages = of_caches(self.whole, self._of_pages, [number])
            if of_pages or (not self.machine.is_live and any(one.moving for one in findings)):
                told = witnessed(self.machine, [part for part in (of_pages, findings) if part])
                moving = [one for one in told if shelf(one) == "changing"]
                findings = [one for one in told if shelf(one) != "changing"]
            found = Judged(ledger, findings, object_states(ledger), moving)
        self._judged[number] = found
        while len(self._judged) > 1 and sum(j.size for j in self._judged.values()) > _KEPT_BYTES:
            self._judged.popitem(last=False)
        return found

    @cached_property
    def _of_pages(self) -> List[Finding]:
        return judge_pages(self.whole)

    # One slab ------------------------------------------------------------------

    def at(self, address: int) -> Optional[Located]:
        """Return the slab that an address lies in; ``None`` if it is in none."""
        source = self.machine.memory
        address = source.tags.removed_from(address & source.address_mask)
        pfn = (address - source.linear_base) >> source.page_shift
        if not 0 <= pfn < 1 << (52 - source.page_shift):
            return None
        where = find_slab(self.machine, pfn)
        if where.doubt is not None:
            return self.widely_at(address)
        if where.page is None:
            return None
        slab = self._narrowly(where.page).settle()
        # The whole machine may know better how far a slab reaches.
        return slab if slab.is_alone else self.widely_at(address)

    def of_page(self, page: int) -> Optional[Located]:
        """Return the slab whose ``struct slab *`` this is; ``None`` if it is none."""
        fields = self.machine.page
        pfn, beside = divmod(page - fields.vmemmap, fields.size)
        if beside or not 0 <= pfn < 1 << (52 - self.machine.memory.page_shift):
            return None
        where = find_slab(self.machine, pfn)
        if where.doubt is not None:
            return self.widely(page)
        if where.page is not None and where.page != page:
            # A tail: of the slab, or marked as one itself.
            return self.widely(page) if self._marked(page) else None
        return None if where.page is None else self._narrowly(page).settle()

    def widely(self, page: int) -> Optional[Located]:
        """Return the slab of a ``struct slab *`` as the whole machine has it."""
        return self._from_whole(self.whole.index.rows_of_pages, page)

    def widely_at(self, address: int) -> Optional[Located]:
        """Return the slab that an address lies in as the whole machine has it."""
        return self._from_whole(self.whole.index.rows_of_addresses, address)

    def judge_slab(self, page: int) -> Optional[Judged]:
        """Return one slab by a reading of its own; ``None`` if that does not settle it."""
        reading = Reading(self.machine, Scope(slab=page))
        owner = reading.allocator.ownership.cache
        if not len(owner) or owner[0] < 0:
            return None
        ledger, findings = reading.judge(int(owner[0]))
        if reading.doubts(ledger, findings):
            return None
        listed = len(ledger.memberships) != 0
        if not self.machine.is_live and self._pages.is_odd(reading.index, listed):
            return None
        return Judged(ledger, findings, object_states(ledger))

    @cached_property
    def _pages(self) -> SlabPages:
        return SlabPages(self.machine, self.listed)

    def _from_whole(self, rows_of: Callable[[U64], I64], value: int) -> Optional[Located]:
        whole = self.whole
        row = int(rows_of(np.array([value], np.uint64))[0])
        if row < 0:
            return None
        number = int(whole.allocator.ownership.cache[row])
        return Located(self, whole.index, row, whole.allocator.caches, number)

    def _marked(self, page: int) -> bool:
        return bool(slabs_at(self.machine, np.array([page], np.uint64)).marked.any())

    def _narrowly(self, page: int) -> Located:
        index = slabs_at(self.machine, np.array([page], np.uint64))
        number = int(same_cache(index["slab_cache"], self.listed)[0])
        return Located(self, index, 0, self.listed, number)

    # Caches --------------------------------------------------------------------

    def number(self, cache: CacheLike) -> int:
        """
        Return the position of a cache in :attr:`caches`.

        :raises ArgumentError: if there is none, or more than one.
        """
        found = self.numbers(cache)
        if len(found) > 1:
            names = ", ".join(self.caches.names[number] for number in found[:_NAMED])
            more = ", …" if len(found) > _NAMED else ""
            raise ArgumentError(f"{cache} means {len(found)} slab caches: {names}{more}")
        return found[0]

    def numbers(self, cache: CacheLike) -> List[int]:
        """
        Return the positions of the caches that somebody means, at least one.

        :param cache: A pattern, too.
        :raises ArgumentError: if there is none.
        """
        wanted = cache_of(cache)
        return self.among(self.caches, wanted)

    def among(self, caches: Caches, wanted: CacheName) -> List[int]:
        """
        Return the same among some caches.

        :param wanted: A name, a pattern or an address.
        """
        if isinstance(wanted, str):
            aliases = partial(cache_aliases, self.machine)
            return find_names(wanted, caches.names, caches.addresses.tolist(), aliases)
        at = np.flatnonzero(caches.addresses == np.uint64(wanted))
        if not len(at):
            known = known_as(self.machine, wanted)
            raise ArgumentError(f"there is no slab cache at {named(wanted)}{known}")
        return [int(at[0])]


def lookup(machine: Machine, progress: Optional[Progress] = None) -> Lookup:
    """
    Return what questions are asked of.

    A target that does not change is read once. A moving one is read for every
    question.
    """
    if machine.is_live:
        return Lookup(machine, progress=progress)
    found = machine.kept.get(Lookup)
    if not isinstance(found, Lookup):
        found = machine.kept[Lookup] = Lookup(machine, progress=progress)
    return found
