# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages of slabs, and references of all pages.

How many references a slab's page has is the same for every slab of a machine:
one through Linux 6.13, none since commit 9aec2fb0fd5e ("slab: allocate frozen
pages") (in v6.14). The slabs themselves tell which.
"""

from __future__ import annotations

from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from ..codes import WORD
from ..findings import Finding
from ..ledger import I64, Bools
from ..machine.memory import U64
from ..pages.references import Counted, Flagged, Worded
from ..pages.tails import TailWords
from .alike import usual
from .compound import CacheOf
from .pagefindings import PageNames
from .vectors import SAID, Wrong

FlagNames = Callable[[int], Sequence[str]]
"""Returns the names of some of ``page->flags``."""

# So many references somebody may have taken on a slab's page; ocfs2 took some
# while it sent objects over the network.
_PLAUSIBLE = 1024


class SlabWords(NamedTuple):
    """What the head pages of slabs say, as columns: slabs that belong to a cache."""

    page: U64
    """``struct slab *``."""
    refcount: I64
    flags: U64
    """Those that no slab can have; the others are left out."""
    unnamed: U64
    """Bits that are no flag's."""
    vector: U64
    """``obj_cgroups``, ``memcg_data`` or ``obj_exts``."""
    vector_wrong: I64
    """What speaks against it: a :class:`~.vectors.Wrong`, 0 for nothing."""


def usual_references(refcount: I64) -> Optional[int]:
    """
    Return how many references the page of a slab has on this machine.

    ``None`` if fewer than two thirds of the slabs agree, or the number is neither 0 nor 1.
    """
    values, times = np.unique(refcount, return_counts=True)
    if not len(values) or 3 * int(times.max()) < 2 * len(refcount):
        return None
    most = int(values[times.argmax()])
    return most if most in (0, 1) else None


def judge_slab_words(
    words: SlabWords, cache_of: CacheOf, flag_names: FlagNames
) -> Iterator[Finding]:
    """Yield what is wrong with the head pages of slabs."""
    most = usual_references(words.refcount)
    if most is not None:
        for row in np.flatnonzero(words.refcount != most).tolist():
            page, count = int(words.page[row]), int(words.refcount[row])
            cache = cache_of(page)
            # A page without references of its own cannot be referred to.
            taken = most == 1 and 1 < count <= _PLAUSIBLE
            yield Finding(
                "slab-referenced" if taken else "page-refcount",
                f"{cache}: slab 0x{page:x} has refcount {count}; "
                f"{'the other slabs have' if len(words.page) > 1 else 'expected'} {most}",
                cache=cache,
                slab=page,
                expected=most,
                found=count,
            )
    for row in np.flatnonzero(words.flags != 0).tolist():
        page, flags = int(words.page[row]), int(words.flags[row])
        cache, told = cache_of(page), "|".join(flag_names(flags))
        yield Finding(
            "slab-flags-wrong",
            f"{cache}: slab 0x{page:x} has flags 0x{flags:x} ({told}), which no slab can have",
            cache=cache,
            slab=page,
            found=hex(flags),
        )
    yield from _unnamed(words, cache_of)
    for row in np.flatnonzero(words.vector_wrong != 0).tolist():
        page, vector = int(words.page[row]), int(words.vector[row])
        cache = cache_of(page)
        yield Finding(
            "slab-vector-wrong",
            f"{cache}: slab 0x{page:x} has 0x{vector:x} for its vector of object cgroups, which "
            f"{SAID[Wrong(words.vector_wrong[row])]}",
            cache=cache,
            slab=page,
            found=vector,
        )


def _unnamed(words: SlabWords, cache_of: CacheOf) -> Iterator[Finding]:
    # What a page has there it had from the page allocator, as every other.
    most = usual(words.unnamed)
    for row in np.flatnonzero(words.unnamed != np.uint64(most or 0)).tolist():
        if most is not None:
            page, bits = int(words.page[row]), int(words.unnamed[row]) ^ most
            yield Finding(
                "slab-flags-wrong",
                f"{cache_of(page)}: slab 0x{page:x} has bits 0x{bits:x} of its flags other than "
                "all other slabs, which are no flags",
                cache=cache_of(page),
                slab=page,
                found=hex(bits),
            )


def judge_references(
    negative: Counted, held: Counted, names: PageNames, on_list: Bools
) -> Iterator[Finding]:
    """
    Yield the pages with fewer references than none, and tails with any.

    :param on_list: Which of the former are free, on a list of a CPU.
    """
    for row in range(len(negative.pfns)):
        pfn, count = int(negative.pfns[row]), int(negative.counts[row])
        what = "is free, on a list of a CPU, and" if on_list[row] else "is in use and"
        yield _count(
            pfn, names, f"{what} has refcount {count}", count, "pcp" if on_list[row] else None
        )
    for row in range(len(held.pfns)):
        pfn, count = int(held.pfns[row]), int(held.counts[row])
        what = f"is a tail of a compound page and has refcount {count} of its own"
        yield _count(pfn, names, what, count, None)


def _count(pfn: int, names: PageNames, what: str, count: int, place: Optional[str]) -> Finding:
    page = names.page(pfn)
    return Finding(
        "page-refcount",
        f"page 0x{page:x} (PFN {pfn:#x}) {what}",
        page=page,
        place=place,
        expected=None if place is None and count < 0 else 0,
        found=count,
    )


def judge_tail_flags(
    flagged: Flagged, names: PageNames, cache_of: CacheOf, flag_names: FlagNames
) -> List[Finding]:
    """Return the tails of slabs that have flags of pages of users."""
    found: List[Finding] = []
    for pfn, flags, head in zip(*(column.tolist() for column in flagged)):
        page, slab = names.page(pfn), names.page(head)
        cache, told = cache_of(slab), "|".join(flag_names(flags))
        if cache is None:
            continue  # what is marked as slab and is none is judged by its mark
        found.append(
            Finding(
                "slab-flags-wrong",
                f"page 0x{page:x} (PFN {pfn:#x}), tail {pfn - head} of slab 0x{slab:x}, has flags "
                f"0x{flags:x} ({told}), which no page of a slab can have",
                cache=cache,
                slab=slab,
                page=page,
                found=hex(flags),
            )
        )
    return found


def judge_tail_words(worded: Worded, names: PageNames, cache_of: CacheOf) -> Iterator[Finding]:
    """Yield the tails of slabs that count as mapped, or have what may have been a type."""
    for pfn, word, head in zip(*(column.tolist() for column in worded)):
        page, slab = names.page(pfn), names.page(head)
        cache = cache_of(slab)
        if cache is None:
            continue
        yield Finding(
            "page-tail-type",
            f"page 0x{page:x} (PFN {pfn:#x}), tail {pfn - head} of slab 0x{slab:x}, has the word "
            f"0x{word:08x}, which no page of a slab can have",
            cache=cache,
            slab=slab,
            page=page,
            found=f"0x{word:08x}",
        )


def judge_tails(
    found: Sequence[TailWords], names: PageNames, cache_of: CacheOf
) -> Iterator[Finding]:
    """Yield the tails of compound pages that have a word of another page."""
    for member, offset, *columns in found:
        for pfn, head, word, right in zip(*(column.tolist() for column in columns)):
            page, slab = names.page(pfn), names.page(head)
            cache = cache_of(slab)
            of = f"slab 0x{slab:x}" if cache else f"the compound page at PFN {head:#x}"
            yield Finding(
                "page-tail-word",
                f"page 0x{page:x} (PFN {pfn:#x}), tail {pfn - head} of {of}, has 0x{word:x} for "
                f"its {member}, not 0x{right:x}",
                cache=cache,
                slab=slab if cache else None,
                page=page,
                word=page + offset,
                member=member,
                expected=f"0x{right:x}",
                found=f"0x{word:x}",
                measure=WORD,
            )
