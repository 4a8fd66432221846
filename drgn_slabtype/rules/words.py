# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page_type word of every slab: the slab type, and nothing else."""

from __future__ import annotations

from typing import Iterator

import numpy as np

from ..findings import Finding
from ..ledger import Ledger
from ..pagetype.encoding import ActiveState, Encoding


def judge_words(ledger: Ledger, encoding: Encoding) -> Iterator[Finding]:
    """Yield a finding for each slab of the cache that is not marked as one, or as more."""
    slabs = ledger.slabs
    words = slabs.word.astype(np.uint32)
    damaged = ~slabs.marked
    if encoding.has_slab_type:
        damaged |= encoding.conflict(words)
    if encoding.carries_active:
        damaged |= encoding.active_state(words) != ActiveState.OK
    if ledger.facts.idle_word is not None:
        damaged |= words != ledger.facts.idle_word
    for slab in (damaged & ~slabs.excused).nonzero()[0].tolist():
        word = int(words[slab])
        yield Finding(
            _code(word, bool(slabs.marked[slab]), encoding),
            f"{ledger.facts.name} slab 0x{slabs.page[slab]:x}: page_type word 0x{word:08x}: "
            f"{encoding.explain(word)}",
            cache=ledger.facts.name,
            node=int(slabs.nid[slab]),
            slab=int(slabs.page[slab]),
            expected="slab",
            found=f"0x{word:08x}",
        )


def _code(word: int, marked: bool, encoding: Encoding) -> str:
    if encoding.carries_active:
        state = encoding.active_state(word)
        if state == ActiveState.OVERFLOW:
            return "active-overflow"
        if state == ActiveState.UNDERFLOW:
            return "active-underflow"
    return "type-conflict" if marked else "slab-mark-lost"
