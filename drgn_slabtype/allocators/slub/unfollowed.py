# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What free objects say of their cache
------------------------------------

Where not one freelist of a cache can be followed to its end, the objects are not to blame,
but where the cache looks for free pointers, or with what it decodes them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, Optional

import numpy as np

from ...codes import SIZE, WORD
from ...ledger import U64, Containers, Ledger, Suspect, Walk
from ...machine.columns import Rows
from ...machine.memory import Memory
from ..members import at_member
from .cache import SlubCache
from .freelists import Encoding, Geometry, decode

_SEVERAL = 3  # freelists that are not damaged alike by chance
_MOST = 64  # that are asked


def damaged_member(
    caches: Rows,
    memory: Memory,
    cache: SlubCache,
    encoding: Encoding,
    ledger: Ledger,
    boxes: Containers,
    heads: U64,
) -> Iterator[Suspect]:
    """
    Yield ``offset`` or ``random`` of a cache if it keeps all its freelists from being followed.

    :param caches: ``struct kmem_cache`` each.
    :param boxes: Freelists as they were followed, those of slabs and of CPUs.
    :param heads: What they begin with; 0 for none.
    """
    hardened = cache.random >= 0
    stopped = (boxes.state == Walk.POINTER) | (boxes.state == Walk.CYCLE)
    # CPUs do not count theirs: in the clear, where what stands elsewhere is often zero, which
    # ends a list, one of a single object says nothing.
    counts = boxes.counted >= 0
    tells = counts | stopped | hardened | (boxes.walked > 1)
    some = ((heads != 0) & tells).nonzero()[0]
    # A word that decodes to an object of its own slab does not do so by chance.
    fewest = 1 if hardened else _SEVERAL
    broken = stopped | (counts & (boxes.walked != boxes.counted))
    if len(some) < fewest or not broken[some].all():
        return
    some, slabs = some[:_MOST], boxes.slab[some[:_MOST]]
    bases, most = ledger.slabs.base[slabs], ledger.slabs.objects[slabs]
    how = Geometry(
        bases,
        most,
        cache.size,
        cache.offset,
        encoding if hardened else Encoding.PLAIN,
        max(cache.random, 0),
        memory.tags,
    )
    inside = how.index_of(np.arange(len(slabs)), heads[some]) >= 0
    if np.count_nonzero(inside) < fewest:
        return
    heads, how = heads[some[inside]], replace(how, base=bases[inside], objects=most[inside])
    yield from at_member(caches, cache.number, _judge(memory, how, heads, hardened))


def _judge(memory: Memory, how: Geometry, heads: U64, hardened: bool) -> Iterator[Suspect]:
    offset = _other_offset(memory, how, heads)
    if offset is not None:
        yield Suspect(
            "cache-wrong",
            f"offset is {how.offset}, and in free objects the next is at {offset}",
            expected=offset,
            found=how.offset,
            member="offset",
            measure=SIZE,
        )
    elif hardened and len(heads) >= _SEVERAL:
        secrets = _secrets(memory, how, heads)
        if len(secrets) and how.random not in secrets:
            yield Suspect(
                "cache-wrong",
                f"random is 0x{how.random:x}, with which no free object leads to another",
                expected=int(secrets[0]) if len(secrets) == 1 else None,
                found=how.random,
                member="random",
                measure=WORD,
            )


def _other_offset(memory: Memory, how: Geometry, heads: U64) -> Optional[int]:
    # The one at which all of these objects lead to another of their slab, or to none. Where
    # that is the cache's own, their lists end later, and for another reason.
    step = memory.word_size
    read = memory.gather(heads, min(how.stride, memory.page_size) // step * step)
    words = read.bytes.view(memory.word).astype(np.uint64)
    where = heads[:, None] + np.arange(words.shape[1], dtype=np.uint64) * np.uint64(step)
    found = decode(how.encoding, words, where, how.random, how.tags)
    of = np.broadcast_to(np.arange(len(heads))[:, None], found.shape)
    leads = (how.index_of(of.reshape(-1), found.reshape(-1)) >= 0).reshape(found.shape)
    good = ((leads | (found == 0)).all(axis=0)) & leads.any(axis=0) & read.ok.all()
    offsets = good.nonzero()[0] * step
    return int(offsets[0]) if len(offsets) == 1 and offsets[0] != how.offset else None


def _secrets(memory: Memory, how: Geometry, heads: U64) -> U64:
    # Those with which all of these objects lead to another of their slab, or to none.
    at = heads + np.uint64(how.offset)
    read = memory.gather(at, memory.word_size)
    words = read.bytes.view(memory.word)[:, 0].astype(np.uint64)
    possible: Optional[U64] = None
    for row in read.ok.nonzero()[0].tolist():
        slots = np.arange(max(int(how.objects[row]), 0), dtype=np.uint64) * np.uint64(how.stride)
        leads_to = np.append(how.base[row] + slots, np.uint64(0))
        secrets = decode(how.encoding, words[row : row + 1], at[row : row + 1], 0) ^ leads_to
        possible = secrets if possible is None else np.intersect1d(possible, secrets)
    return np.zeros(0, np.uint64) if possible is None else possible
