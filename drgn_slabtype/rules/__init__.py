# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Rules
-----

Each module judges one family of statements about a
:class:`~drgn_slabtype.ledger.Ledger` and yields findings. No rule knows which
allocator filled the ledger, and none reads memory. What a cache is made of stands
in no ledger: :mod:`.members` judges it by plain values, for the allocators.
"""

from __future__ import annotations

from typing import Iterator, List

from ..findings import Finding
from ..ledger import Ledger
from ..pagetype.encoding import Encoding
from . import blame, claims, containers, content, counts, geometry, lists, words


def judge(ledger: Ledger, encoding: Encoding) -> List[Finding]:
    """
    Return what is wrong with one cache, consequences bound to their roots.

    :param encoding: How the kernel encodes page types.
    """
    return blame.settle(_judge(ledger, encoding), ledger)


def _judge(ledger: Ledger, encoding: Encoding) -> Iterator[Finding]:
    yield from words.judge_words(ledger, encoding)
    yield from geometry.judge_geometry(ledger)
    yield from claims.judge_claims(ledger)
    yield from containers.judge_containers(ledger)
    yield from counts.judge_counts(ledger)
    yield from lists.judge_lists(ledger)
    yield from content.judge_content(ledger)
