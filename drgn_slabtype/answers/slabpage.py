# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Whether the page of one slab is as those of others
---------------------------------------------------

A question about one address reads no more than that slab and a few others, to
know whether the whole machine has to be asked what is wrong with its page.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property, partial
from typing import Dict, Tuple

import numpy as np

from ..allocators import homes_of
from ..allocators.caches import Caches, same_cache
from ..allocators.over import slabs_over
from ..allocators.vectors import vector_words
from ..allocators.whereabouts import find_slab
from ..distinct import distinct
from ..index import SlabIndex, slabs_at
from ..ledger import U64
from ..machine import Machine
from ..pagecheck import Owners, judge_head_pages, object_cgroups
from ..pages.compound import CompoundPages
from ..pages.kpageflags import for_each_block
from ..pages.placed import spans
from ..pages.references import References, bits_of_no_flag, flags_of_users
from ..pages.tails import Tails

_ASKED = 5  # caches whose slabs show what the pages of slabs say
_MOST_PAGES = 1 << 10  # of a slab
_FLAGS = 7  # of the word that leads to a vector

_Said = Tuple[int, int]
# Flags and references of a page, as far as all slabs have the same.


class SlabPages:
    """
    Pages of slabs, one at a time.

    :param caches: Those that lists lead to.
    """

    def __init__(self, machine: Machine, caches: Caches) -> None:
        self._machine = machine
        self._caches = caches

    def is_odd(self, index: SlabIndex, listed: bool) -> bool:
        """
        Return whether anything may be wrong with a page, which the whole machine knows.

        :param index: With the slab in its first row.
        :param listed: Whether it stands on a list of its cache.
        """
        page = int(index.pages[0])
        own = self._said(index).get(page)
        others = Counter(said for at, said in self._witnesses.items() if at != page)
        if own is not None and others and own != others.most_common(1)[0][0]:
            return True
        # Whether it names a zone that it does not lie in.
        if spans(self._machine).outside(index.pfns[:1], index.flags[:1]).any():
            return True
        if not listed and self._is_linked(page):
            return True
        return self._has_odd_tail(index) or self._has_odd_vector(index)

    def _has_odd_tail(self, index: SlabIndex) -> bool:
        # Whether it is no compound page as it should be; not whether its first tails have what
        # those of others have.
        first = int(index.pfns[0])
        count = min(int(index.spans[0]) >> self._machine.memory.page_shift, _MOST_PAGES)
        if count < 2:
            word = np.array([int(index.pages[0]) + self._machine.page.compound], np.uint64)
            links = self._machine.memory.gather(word, self._machine.memory.word_size)
            return bool(links.bytes.view(self._machine.memory.word)[0, 0] & 1)  # PageTail()
        compounds, references = CompoundPages(self._machine), References(self._machine)
        tails = Tails(self._machine)
        for folios, free in for_each_block(self._machine, within=(first, first + count)):
            for one in (compounds, references, tails):
                one.take(folios, free)
        found = compounds.result()
        said = (references.held, references.flagged, references.worded, found.loose)
        return bool(found.wrong) or tails.is_odd or any(len(columns.pfns) for columns in said)

    def _is_linked(self, page: int) -> bool:
        # Whether what comes before and after it on a list leads to it, and is something else.
        memory, at = self._machine.memory, page + self._machine.page.compound
        link, word = np.array([at], np.uint64), np.uint64(memory.word_size)
        pair = memory.gather(link, 2 * memory.word_size)
        after, before = pair.bytes.view(memory.word)[0].astype(np.uint64)
        around = memory.gather(np.array([after + word, before], np.uint64), memory.word_size)
        leads = around.bytes.view(memory.word)[:, 0] == link
        return bool(pair.ok[0] and after != link[0] and around.ok.all() and leads.all())

    @cached_property
    def _witnesses(self) -> Dict[int, _Said]:
        # What the slabs say that some caches lie in, in as many slabs as may be.
        memory = self._machine.memory
        apart = max(len(self._caches) // _ASKED, 1)
        starts = self._caches.addresses[::apart][:_ASKED] - np.uint64(memory.linear_base)
        found = (
            find_slab(self._machine, pfn)
            for pfn in (starts >> np.uint64(memory.page_shift)).tolist()
        )
        pages = [where.page for where in found if where.page is not None]
        said = self._said(slabs_at(self._machine, np.array(pages, np.uint64)))
        return {page: said[page] for page in pages if page in said}

    def _said(self, index: SlabIndex) -> Dict[int, _Said]:
        told = np.uint64(flags_of_users(self._machine) | bits_of_no_flag(self._machine))
        said = zip((index.flags & told).tolist(), index.refcounts.tolist())
        return dict(zip(index.pages.tolist(), said))

    def _has_odd_vector(self, index: SlabIndex) -> bool:
        own, word = index.pages[:1], vector_words(index)[:1]
        if not word.any():
            return False
        owners = self._owners(own, word & ~np.uint64(_FLAGS))
        row = owners.index.rows_of_pages(own)
        entries = [some.reshape(-1) for _, some in object_cgroups(self._machine, owners, row)]
        if entries:
            owners = self._owners(owners.index.pages, *entries)
        return any(True for _ in judge_head_pages(self._machine, owners, int(own[0])))

    def _owners(self, pages: U64, *addresses: U64) -> Owners:
        # Of some slabs, and of those that some addresses lie in.
        machine, caches = self._machine, self._caches
        leads = distinct(np.concatenate(addresses))
        leads = leads[machine.memory.in_direct_map(leads)]
        heads = slabs_over(slabs_at(machine, pages), leads)
        index = slabs_at(machine, distinct(np.append(pages, heads.heads[heads.marked])))
        cache = same_cache(index["slab_cache"], caches)
        return Owners(index, caches, cache, partial(homes_of, index, caches, cache))
