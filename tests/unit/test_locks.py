# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a lock was free, held or none at all, on kernels of every kind."""

from __future__ import annotations

from typing import Callable, Dict, List, Tuple

import numpy as np
import pytest
from drgn import Architecture, Object, Platform, PlatformFlags, Program, Type

from drgn_slabtype.machine import machine
from drgn_slabtype.machine.cpus import Cpus
from drgn_slabtype.machine.locks import LockStates, lock_state, lock_states
from drgn_slabtype.machine.spinwords import SpinFormat, spin_format
from tests.direct_map import LINEAR, make_mapped_kernel
from tests.synthetic.kernel import Kernel
from tests.synthetic.types import Types

_TASK = LINEAR + (2 << 20)
_DEAD = _TASK + 0x800  # memory that looks like no task
_NODE = LINEAR + (1 << 20)
_TEXT = int.from_bytes(b"list", "little")
_MAGIC = {"list_lock.rlock.magic": 0xDEAD4EAD}
_FREE = {"list_lock.rlock.owner_cpu": 0xFFFFFFFF, "list_lock.rlock.owner": (1 << 64) - 1}


def _raw(t: Types) -> Type:
    queued = t.typedef("arch_spinlock_t", t.struct("qspinlock", ("val", t.uint)))
    return t.typedef("raw_spinlock_t", t.struct("raw_spinlock", ("raw_lock", queued)))


def _spinning(t: Types) -> Type:
    return t.typedef("spinlock_t", t.struct("spinlock", ("rlock", _raw(t).type)))


def _debugged(t: Types) -> Type:
    # A lock class map lies behind the word, as with lockdep.
    queued = t.typedef("arch_spinlock_t", t.struct("qspinlock", ("val", t.uint)))
    raw = t.struct(
        "raw_spinlock", ("raw_lock", queued), ("magic", t.uint), ("owner_cpu", t.uint),
        ("owner", t.pointer), ("dep_map", t.struct("lockdep_map", ("key", t.pointer))),
    )  # fmt: skip
    return t.typedef("spinlock_t", t.struct("spinlock", ("rlock", raw)))


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


def _local(t: Types) -> Type:
    return t.typedef("local_lock_t", t.struct("local_lock"))


def _local_try(t: Types) -> Type:
    lock = t.struct("local_trylock", ("owner", t.pointer), ("acquired", t.u8))
    return t.typedef("local_trylock_t", lock)


_KINDS: Dict[str, Callable[[Types], Type]] = {
    "raw": _raw,
    "spinning": _spinning,
    "debugged": _debugged,
    "sleeping": _sleeping,
    "alone": _alone,
    "local": _local,
    "local try": _local_try,
}


def _node(kind: str, values: Dict[str, int], cpus: int = 4) -> Tuple[Kernel, Object]:
    # A node whose lock is followed by a counter, and a task.
    kernel = make_mapped_kernel()
    kernel.add_memory(_NODE, 4096)
    kernel.add_memory(_TASK, 8192)
    t = kernel.types
    task = t.struct("task_struct", ("stack", t.pointer), ("pid", t.int))
    kernel.poke(Object(kernel.prog, task, address=_TASK).stack, LINEAR + (3 << 20))
    machine(kernel.prog).__dict__["possible_cpus"] = Cpus(np.arange(cpus, dtype=np.int64))
    type = t.struct("made_up_node", ("list_lock", _KINDS[kind](t)), ("nr_partial", t.ulong))
    node = Object(kernel.prog, type, address=_NODE)
    for path, value in {"nr_partial": 5, **values}.items():
        member = node
        for name in path.split("."):
            member = member.member_(name)
        kernel.poke(member, value)
    return kernel, node


def _states(kind: str, values: Dict[str, int], cpus: int = 4) -> LockStates:
    kernel, _ = _node(kind, values, cpus)
    of = machine(kernel.prog)
    rows = of.rows("struct made_up_node", np.array([_NODE], np.uint64))
    return lock_states(of, rows, "list_lock")


def _spell(states: LockStates) -> str:
    assert not (states.wrong & states.held).any()
    return "wrong" if states.wrong[0] else "held" if states.held[0] else "free"


@pytest.mark.parametrize(
    ("kind", "values"),
    [(kind, {**_MAGIC, **_FREE} if kind == "debugged" else {}) for kind in _KINDS],
)
def test_free_lock_is_not_held(kind: str, values: Dict[str, int]) -> None:
    assert _spell(_states(kind, values)) == "free"


@pytest.mark.parametrize(
    ("kind", "word"),
    [("raw", "list_lock.raw_lock.val"), ("spinning", "list_lock.rlock.raw_lock.val")],
)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, "held"),
        (3, "held"),  # a paravirtual waiter sleeps
        (0x101, "held"),
        (1 << 18 | 1, "held"),
        (4 << 18 | 3 << 16 | 1, "held"),
        (0x100, "free"),  # given back, not yet taken
        (2 << 18, "free"),
        (2, "wrong"),
        (0xFF, "wrong"),
        (0x201, "wrong"),
        (5 << 18 | 1, "wrong"),  # CPU 4 of 4
        (1 << 16 | 1, "wrong"),  # one of the nodes of no CPU
        (_TEXT, "wrong"),
        (0x6B6B6B6B, "wrong"),
        (0xDEAD4EAD, "wrong"),
        (0xFFFFFFFF, "wrong"),
    ],
)
def test_queued_spinlock(kind: str, word: str, value: int, expected: str) -> None:
    states = _states(kind, {word: value})
    assert _spell(states) == expected
    found = states.wrong_word(0)
    assert (found is not None) == (expected == "wrong")
    if found is not None:
        assert (found.address, found.found) == (_NODE, value)
        assert found.member in word


def test_queued_spinlock_tells_who_waits() -> None:
    assert _states("raw", {"list_lock.raw_lock.val": 3 << 18 | 1}).waiter.tolist() == [2]


def test_one_lock_says_the_same_alone() -> None:
    _, node = _node("spinning", {"list_lock.rlock.raw_lock.val": _TEXT})
    assert lock_state(node.list_lock).wrong.tolist() == [True]


def test_lock_that_cannot_be_read_is_free() -> None:
    kernel, _ = _node("debugged", {})
    of = machine(kernel.prog)
    rows = of.rows("struct made_up_node", np.array([LINEAR + (9 << 20)], np.uint64))
    assert _spell(lock_states(of, rows, "list_lock")) == "free"


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        (0, "free"),
        (1, "free"),  # somebody waits, and nobody has it yet
        (_TASK, "held"),
        (_TASK | 1, "held"),
        (_DEAD, "wrong"),
        (_TEXT, "wrong"),
        (_TASK | 2, "wrong"),
        (0x6B6B6B6B6B6B6B6B, "wrong"),
    ],
)
def test_sleeping_lock_is_held_by_its_owner_alone(owner: int, expected: str) -> None:
    # The lock of the waiters is another.
    values = {"list_lock.lock.wait_lock.raw_lock.val": 1, "list_lock.lock.owner": owner}
    states = _states("sleeping", values)
    assert _spell(states) == expected
    if expected == "held":
        assert states.task.tolist() == [_TASK]


def test_sleeping_lock_with_a_wrong_lock_of_its_waiters_is_wrong() -> None:
    values = {"list_lock.lock.wait_lock.raw_lock.val": _TEXT, "list_lock.lock.owner": _TASK}
    assert _spell(_states("sleeping", values)) == "wrong"


def _debug(word: int, cpu: int = 0xFFFFFFFF, owner: int = (1 << 64) - 1) -> Dict[str, int]:
    inside = "list_lock.rlock."
    return {
        **_MAGIC,
        f"{inside}raw_lock.val": word,
        f"{inside}owner_cpu": cpu,
        f"{inside}owner": owner,
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (_debug(1, 2, _TASK), "held"),
        (_debug(1), "held"),  # just taken, or being given back
        (_debug(1, 2), "held"),
        ({**_debug(0), "list_lock.rlock.magic": 0xDEAD4EAF}, "wrong"),
        ({**_debug(1, 2, _TASK), "list_lock.rlock.magic": 0}, "wrong"),
        (_debug(0, 2), "wrong"),
        (_debug(0, 2, _TASK), "wrong"),
        (_debug(0, 0xFFFFFFFF, _TASK), "wrong"),
        (_debug(1, 0xFFFFFFFF, _TASK), "wrong"),
        (_debug(1, 4, _TASK), "wrong"),
        (_debug(1, 2, _DEAD), "wrong"),
        (_debug(1, 2, 0), "wrong"),
        (_debug(_TEXT, 2, _TASK), "wrong"),
    ],
)
def test_debugged_spinlock(values: Dict[str, int], expected: str) -> None:
    states = _states("debugged", values)
    assert _spell(states) == expected


def test_debugged_spinlock_tells_who_holds_it() -> None:
    states = _states("debugged", _debug(1, 2, _TASK))
    assert (states.cpu.tolist(), states.task.tolist()) == ([2], [_TASK])


@pytest.mark.parametrize(
    ("acquired", "owner", "expected"),
    [
        (1, 0, "held"),
        (1, _TASK, "held"),
        (0, _TASK, "wrong"),
        (2, 0, "wrong"),
        (0x74, 0, "wrong"),
        (1, _DEAD, "wrong"),
    ],
)
def test_local_lock_that_can_be_tried(acquired: int, owner: int, expected: str) -> None:
    values = {"list_lock.acquired": acquired, "list_lock.owner": owner}
    assert _spell(_states("local try", values)) == expected


def test_lock_of_no_known_kind_is_refused() -> None:
    _KINDS["other"] = lambda t: t.struct("other_lock", ("count", t.uint))
    with pytest.raises(LookupError, match="no known lock"):
        _states("other", {})
    del _KINDS["other"]


# Words of other formats.


def _format(arch: Architecture, member: str, tag: str = "") -> SpinFormat:
    platform = Platform(arch, PlatformFlags.IS_LITTLE_ENDIAN | PlatformFlags.IS_64_BIT)
    prog = Program(platform)
    t = Types(prog)
    half, byte = t.known["unsigned short"], t.known["unsigned char"]
    kinds = {
        "qspinlock": [("val", t.uint)],
        "ppc qspinlock": [("locked", half), ("reserved", prog.array_type(byte, 2))],
        "ticket": [("owner", half), ("next", half)],
        "atomic": [("counter", t.int)],
        "slock": [("slock", t.uint)],
        "lock": [("lock", t.int)],
    }
    type = t.struct(tag or None, *kinds[member])
    of = machine(prog)
    of.__dict__["possible_cpus"] = Cpus(np.arange(4, dtype=np.int64))
    return spin_format(of, type)


def _read(format: SpinFormat, word: int) -> str:
    cpus = np.arange(4, dtype=np.int64)
    found = format.read(np.array([word], np.uint64), cpus)
    if found.wrong[0]:
        assert not found.held[0]
        return "wrong"
    if not found.held[0]:
        return "free"
    return "held" if found.cpu[0] < 0 else f"held by {found.cpu[0]}"


_FORMATS: List[Tuple[Architecture, str, str, str, Dict[int, str]]] = [
    (
        Architecture.AARCH64,
        "ticket",
        "",
        "ticket",
        {0: "free", 0x00010001: "free", 0x00020001: "held", 0x00050001: "held",
         0x00060001: "wrong", 0x0001FFFF: "held", 0xFFFF0001: "wrong", _TEXT: "wrong"},
    ),
    (
        Architecture.RISCV64,
        "atomic",
        "",
        "ticket",
        {0: "free", 0x00020001: "held", _TEXT: "wrong"},
    ),
    (
        Architecture.RISCV64,
        "qspinlock",
        "qspinlock",
        "queued or ticket",
        {0: "free", 1: "held", 0x00010001: "free", 0x00020001: "held", _TEXT: "wrong"},
    ),
    (
        Architecture.PPC64,
        "ppc qspinlock",
        "qspinlock",
        "ppc64 queued",
        {0: "free", 1: "held by 0", 7: "held by 3", 0x8007: "held by 3", 9: "wrong",
         6: "wrong", 4 << 17 | 1 << 16 | 1: "held by 0", 5 << 17 | 1: "wrong",
         0x10000: "free", _TEXT: "wrong"},
    ),
    (
        Architecture.PPC64,
        "slock",
        "",
        "ppc64 token",
        {0: "free", 0x80000000: "held by 0", 0x80000003: "held by 3", 0x80000004: "wrong",
         1: "wrong", _TEXT: "wrong"},
    ),
    (
        Architecture.S390X,
        "lock",
        "",
        "s390x",
        {0: "free", 1: "held by 0", 4: "held by 3", 5: "wrong", 0x00100001: "held by 0",
         0x00400000: "free", 0x00030004: "held by 3", 0x000C0001: "wrong",
         0x00500001: "wrong", _TEXT: "wrong"},
    ),
    (Architecture.AARCH64, "lock", "", "unknown", {0: "free", 1: "held", _TEXT: "held"}),
]  # fmt: skip


@pytest.mark.parametrize(("arch", "member", "tag", "name", "words"), _FORMATS)
def test_format_of_another_architecture(
    arch: Architecture, member: str, tag: str, name: str, words: Dict[int, str]
) -> None:
    format = _format(arch, member, tag)
    assert format.name == name
    assert {word: _read(format, word) for word in words} == words


def test_lock_without_smp_is_free_when_it_is_one() -> None:
    format = _format(Architecture.X86_64, "slock")
    assert format.name == "one CPU"
    words = {1: "free", 0: "held", 2: "wrong", _TEXT: "wrong"}
    assert {word: _read(format, word) for word in words} == words


def test_queued_spinlock_of_16_thousand_cpus_has_its_tail_lower() -> None:
    kernel = make_mapped_kernel()
    t = kernel.types
    words = kernel.prog.array_type(t.ulong, 1 << 8)
    t.struct("cpumask", ("bits", words))
    format = spin_format(machine(kernel.prog), t.struct("qspinlock", ("val", t.uint)))
    tail = {1: "held", 4 << 11 | 3 << 9 | 0x101: "held", 5 << 11 | 1: "wrong", 1 << 18: "wrong"}
    assert {word: _read(format, word) for word in tail} == tail
