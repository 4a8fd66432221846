# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a lock was held, on kernels of every kind."""

from __future__ import annotations

from typing import Dict, List, Tuple

import numpy as np
import pytest
from drgn import Object, Type

from drgn_slabtype.machine import machine
from drgn_slabtype.machine.locks import held, is_held
from tests.direct_map import LINEAR, make_mapped_kernel
from tests.synthetic.kernel import Kernel
from tests.synthetic.types import Types

_TASK = 0xFFFF888001234000
_NODE = LINEAR + (1 << 20)


def _raw(t: Types) -> Type:
    queued = t.typedef("arch_spinlock_t", t.struct("qspinlock", ("val", t.uint)))
    return t.typedef("raw_spinlock_t", t.struct("raw_spinlock", ("raw_lock", queued)))


def _spinning(t: Types) -> Type:
    return t.typedef("spinlock_t", t.struct("spinlock", ("rlock", _raw(t).type)))


def _sleeping(t: Types) -> Type:
    mutex = t.struct(
        "rt_mutex_base", ("wait_lock", _raw(t)), ("waiters", t.ulong), ("owner", t.pointer)
    )
    return t.typedef("spinlock_t", t.struct("spinlock", ("lock", mutex)))


def _alone(t: Types) -> Type:
    # Without CONFIG_SMP.
    nothing = t.typedef("arch_spinlock_t", t.struct("arch_spinlock"))
    raw = t.struct("raw_spinlock", ("raw_lock", nothing))
    return t.typedef("spinlock_t", t.struct("spinlock", ("rlock", raw)))


_KINDS = {"raw": _raw, "spinning": _spinning, "sleeping": _sleeping, "alone": _alone}


def _node(kind: str, values: Dict[str, int]) -> Tuple[Kernel, Object]:
    # A node whose lock is followed by a counter.
    kernel = make_mapped_kernel()
    kernel.add_memory(_NODE, 4096)
    t = kernel.types
    type = t.struct("made_up_node", ("list_lock", _KINDS[kind](t)), ("nr_partial", t.ulong))
    node = Object(kernel.prog, type, address=_NODE)
    for path, value in {"nr_partial": 5, **values}.items():
        member = node
        for name in path.split("."):
            member = member.member_(name)
        kernel.poke(member, value)
    return kernel, node


def _held(kind: str, values: Dict[str, int]) -> bool:
    kernel, node = _node(kind, values)
    rows = machine(kernel.prog).rows("struct made_up_node", np.array([_NODE], np.uint64))
    found: List[bool] = held(rows, "list_lock").tolist()
    alone = is_held(node.list_lock)
    assert found == [alone]
    return alone


@pytest.mark.parametrize("kind", _KINDS)
def test_free_lock_is_not_held(kind: str) -> None:
    assert not _held(kind, {})


@pytest.mark.parametrize(
    ("kind", "word"),
    [("raw", "list_lock.raw_lock.val"), ("spinning", "list_lock.rlock.raw_lock.val")],
)
def test_queued_spinlock_is_held_unless_it_is_zero(kind: str, word: str) -> None:
    assert _held(kind, {word: 1})


@pytest.mark.parametrize(("owner", "expected"), [(0, False), (1, False), (_TASK | 1, True)])
def test_sleeping_lock_is_held_by_its_owner_alone(owner: int, expected: bool) -> None:
    # The lock of the waiters is another; bit 0 says that there are some.
    values = {"list_lock.lock.wait_lock.raw_lock.val": 1, "list_lock.lock.owner": owner}
    assert _held("sleeping", values) == expected
