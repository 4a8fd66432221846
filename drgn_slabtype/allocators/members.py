# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the members lie that findings name."""

from __future__ import annotations

from typing import Iterable, Iterator

from ..ledger import Suspect
from ..machine import Machine
from ..machine.columns import Rows


def at_member(rows: Rows, row: int, suspects: Iterable[Suspect]) -> Iterator[Suspect]:
    """
    Yield what is wrong with one structure, with the address of the member that each names.

    Where the word is known already, it is that of another structure.

    :param rows: Structures of that kind.
    """
    for one in suspects:
        if one.member is None or one.word is not None or not rows.structure.has(one.member):
            yield one
        else:
            at = int(rows.addresses[row]) + rows.structure.offset(one.member)
            yield one._replace(word=at)


def per_node_offset(machine: Machine, member: str, nid: int) -> int:
    """
    Return where a ``struct kmem_cache`` has its pointer of a node, in bytes.

    :param member: ``node`` or ``barn``.
    """
    layout = machine.structure("struct kmem_cache")
    # Since Linux kernel commit 5ba6bc27b1f9 (in v7.1), per_node[] holds a pair
    # of pointers (barn, node) in place of node[].
    if layout.has("per_node"):
        pair = machine.structure("struct kmem_cache_per_node_ptrs")
        return layout.offset("per_node") + pair.offset(member) + nid * pair.size
    return layout.offset(member) + nid * machine.memory.word_size
