# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is in a function, as far as stacks tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import pytest
from drgn import Object, Symbol, SymbolBinding, SymbolKind

from drgn_slabtype.machine import machine
from drgn_slabtype.machine import stacks as of_stacks
from drgn_slabtype.machine.architecture import of_name
from drgn_slabtype.machine.stacks import Call, Functions, Stacks, Unwinder, runs_user
from drgn_slabtype.machine.tasks import Area, Task, TaskList
from tests.direct_map import LINEAR, make_mapped_kernel
from tests.synthetic.kernel import Kernel

_TEXT = 0xFFFFFFFF81000000
_STACK = LINEAR + (1 << 20)
_SIZE = 1 << 14
_TASK = LINEAR + (2 << 20)
_NAMES = {"__slab_free", "new_slab", "kmem_cache_free"}
_SYMBOLS = [
    ("kmem_cache_free", 0x0, 0x100),
    ("__slab_free", 0x100, 0x80),
    ("vfs_read", 0x200, 0x100),
    ("do_exit", 0x300, 0x100),
    ("__slab_free.cold", 0x900, 0x10),
]


class Frame(NamedTuple):
    """One frame of a made-up stack trace."""

    name: str
    pc: int
    sp: int
    function_name: Optional[str] = "known"

    def symbol(self) -> Symbol:
        for name, start, size in _SYMBOLS:
            if _TEXT + start < self.pc <= _TEXT + start + size:
                return Symbol(name, _TEXT + start, size, SymbolBinding.GLOBAL, SymbolKind.FUNC)
        raise LookupError("no symbol")


def _kernel() -> Kernel:
    kernel = make_mapped_kernel()
    symbols = [
        Symbol(name, _TEXT + start, size, SymbolBinding.GLOBAL, SymbolKind.FUNC)
        for name, start, size in _SYMBOLS
    ]

    def find(prog: object, name: Optional[str], address: object, one: bool) -> List[Symbol]:
        if address is None:
            ends = {"_stext": _TEXT, "_etext": _TEXT + 0x1000}
            if name in ends:
                return [Symbol(str(name), ends[name], 0, SymbolBinding.GLOBAL, SymbolKind.FUNC)]
            return symbols if name is None else []
        return []

    kernel.prog.register_symbol_finder("made-up", find, enable_index=0)
    kernel.add_memory(_STACK, _SIZE)
    return kernel


@pytest.fixture
def stacks() -> Unwinder:
    kernel = _kernel()
    of = machine(kernel.prog)
    tasks = TaskList(of)
    task = Object(kernel.prog, kernel.types.pointer, value=_TASK)
    tasks._by_stack = {_STACK: Task(task, _TASK, Area(_STACK, _STACK + _SIZE), None, False)}
    return Unwinder(of, _NAMES, tasks)


@pytest.mark.parametrize(
    ("offset", "where"),
    [
        (0x100, "kmem_cache_free+0x100"),  # behind a call that never returns
        (0x101, "__slab_free+0x1"),
        (0x180, "__slab_free+0x80"),
        (0x905, "__slab_free.cold+0x5"),
        (0x301, "do_exit+0x1"),
        (0x181, None),
        (0x250, None),
        (0x911, None),
    ],
)
def test_addresses_in_functions_and_their_split_parts(offset: int, where: Optional[str]) -> None:
    functions = Functions(machine(_kernel().prog), _NAMES)
    found = functions.among(np.array([0, _TEXT + offset], np.uint64))
    assert [(at, place) for at, _, place in found] == ([(1, where)] if where else [])


def test_without_symbols_nothing_can_be_told() -> None:
    told = Stacks(machine(make_mapped_kernel().prog), _NAMES)
    assert told.gaps == ["the functions of the allocators have no symbols here"]


def test_what_cannot_be_followed_is_a_gap() -> None:
    # There is no list of tasks in this kernel, and no run queue.
    stacks = Stacks(machine(_kernel().prog), _NAMES)
    assert "what CPU 0 runs is not known" in stacks.gaps
    assert "the list of tasks cannot be followed" in stacks.gaps
    assert stacks.calls == []


def _unwind(stacks: Unwinder, frames: Sequence[Frame]) -> object:
    return stacks.unwound(frames, "CPU 0")


_FREE = Frame("__slab_free", _TEXT + 0x120, _STACK + 0x2000)
_CALL = Call("CPU 0", "__slab_free", "__slab_free+0x20", True)
_USER = Frame("0x401000", 0x401000, 0x7FFD00000000)
_BOTTOM = Frame("vfs_read", _TEXT + 0x210, _STACK + _SIZE - 0xA8)
_MIDDLE = Frame("vfs_read", _TEXT + 0x210, _STACK + 0x2100)
_EXIT = Frame("do_exit", _TEXT + 0x310, _STACK + 0x2080)


def test_unwinding_that_reaches_user_mode_is_whole(stacks: Unwinder) -> None:
    assert _unwind(stacks, [_FREE, _MIDDLE, _USER, _FREE]) == (True, [_CALL])


def test_unwinding_that_reaches_the_top_of_the_stack_is_whole(stacks: Unwinder) -> None:
    assert _unwind(stacks, [_FREE, _BOTTOM]) == (True, [_CALL])


def test_unwinding_that_stops_in_the_middle_is_not(stacks: Unwinder) -> None:
    assert _unwind(stacks, [_FREE, _MIDDLE]) == (False, [_CALL])


def test_work_of_a_dying_task_counts_but_not_what_it_died_in(stacks: Unwinder) -> None:
    assert _unwind(stacks, [_FREE, _EXIT, _BOTTOM]) == (True, [_CALL])
    assert _unwind(stacks, [_MIDDLE, _EXIT, _FREE, _BOTTOM]) == (True, [])


def test_name_without_debug_info_is_not_exact(stacks: Unwinder) -> None:
    frame = _FREE._replace(name="__slab_free.cold", pc=_TEXT + 0x905, function_name=None)
    call = Call("CPU 0", "__slab_free", "__slab_free.cold+0x5", False)
    assert _unwind(stacks, [frame, _BOTTOM]) == (True, [call])


def test_beyond_code_without_debug_info_nothing_is_certain(stacks: Unwinder) -> None:
    module = Frame("0xffffffffc0001000", 0xFFFFFFFFC0001000, _STACK + 0x2040, None)
    assert _unwind(stacks, [_FREE, module, _USER]) == (False, [_CALL])
    assert _unwind(stacks, [module, _FREE, _BOTTOM]) == (False, [])


def test_without_any_debug_info_only_registers_are_certain(stacks: Unwinder) -> None:
    entry = Frame("vfs_read", _TEXT + 0x210, 0x7FFD00000000, None)
    assert _unwind(stacks, [entry]) == (True, [])
    assert _unwind(stacks, [_USER]) == (True, [])
    unknown = _MIDDLE._replace(function_name=None)
    assert _unwind(stacks, [unknown, _USER]) == (False, [])


def _search(stacks: Unwinder, *words: int) -> List[str]:
    return [str(call) for call in stacks.searched(np.array(words, np.uint64), "pid 7 (x)")]


def test_searching_finds_return_addresses_in_order(stacks: Unwinder) -> None:
    words = [_STACK + 8, _TEXT + 0x120, 0, _TEXT + 0x210, _TEXT + 0x40, _TEXT + 0x120]
    assert _search(stacks, *words) == [
        "pid 7 (x): __slab_free+0x20",
        "pid 7 (x): kmem_cache_free+0x40",
    ]


def test_searching_ends_where_a_task_died(stacks: Unwinder) -> None:
    assert _search(stacks, _TEXT + 0x310, _TEXT + 0x120) == []


def test_words_of_a_stack_with_a_hole_are_not_all(stacks: Unwinder) -> None:
    words, whole = stacks.words(Area(_STACK + 0x1004, _STACK + _SIZE))
    assert (len(words), whole) == ((_SIZE - 0x1008) // 8, True)
    words, whole = stacks.words(Area(_STACK + _SIZE - 0x1000, _STACK + _SIZE + 0x1000))
    assert (len(words), whole) == (0x1000 // 8, False)
    words, whole = stacks.words(Area(_STACK - 0x1000, _STACK + _SIZE))
    assert (len(words), whole) == (0, False)


def test_no_stack_is_read_without_bound(stacks: Unwinder) -> None:
    words, whole = stacks.words(Area(_STACK, _STACK + (1 << 40)))
    assert not whole
    assert len(words) <= (1 << 16) // 8


def test_stack_below_an_interrupt_tells_whose_it_is(stacks: Unwinder) -> None:
    interrupt = Frame("vfs_read", _TEXT + 0x210, LINEAR + (5 << 20))
    owner = stacks.owner([interrupt, _MIDDLE])
    assert owner is not None
    assert owner.address == _TASK
    assert stacks.owner([interrupt]) is None


def test_cpu_that_has_just_entered_the_kernel_has_nothing_on_its_stack() -> None:
    # arm64 stops in vectors(), where the stack pointer is behind the stack's last byte.
    of, own = Stacks.__new__(Stacks), Area(_STACK, _STACK + _SIZE)
    assert of._areas(0, own.end, own) == []
    assert of._areas(0, own.end - 16, own) == [Area(own.end - 16, own.end)]


class State(NamedTuple):
    """The registers of a CPU that runs something."""

    name: str
    mask: Dict[str, int]
    pc: int = 0x3FFFF40DE88
    sp: int = 0x3FFC36FA358

    def registers(self) -> Dict[str, int]:
        return self.mask


_PROBLEM_STATE = {"pswm": 0x0705100180000000}
_KERNEL = {"pswm": 0x0404C00180000000}


def test_only_its_psw_says_that_a_cpu_of_s390x_runs_a_user() -> None:
    architecture = of_name("S390X")
    assert runs_user(architecture, State("0x1000ce8", _PROBLEM_STATE))
    assert not runs_user(architecture, State("ext_int_handler", _KERNEL))
    assert not runs_user(architecture, State("ext_int_handler", {}))
    assert not runs_user(of_name("X86_64"), State("0x1000ce8", _PROBLEM_STATE))


@pytest.mark.parametrize(
    ("frame", "gap"),
    [
        (State("0x1000ce8", _PROBLEM_STATE), False),
        (State("ext_int_handler", _KERNEL), False),
        (State("__slab_free", _KERNEL), True),
    ],
    ids=["user", "entry", "kernel"],
)
def test_cpu_with_the_stack_of_a_user(
    monkeypatch: pytest.MonkeyPatch, stacks: Unwinder, frame: State, gap: bool
) -> None:
    of = Stacks.__new__(Stacks)
    of.calls, of.gaps = [], []
    of._unwinder, of._machine = stacks, machine(_kernel().prog)
    monkeypatch.setattr(of_stacks, "of_program", lambda prog: of_name("S390X"))
    monkeypatch.setattr(stacks, "unwound", lambda trace, who: (False, []))
    trace: Any = [frame]
    of._cpu(0, trace, Area(_STACK, _STACK + _SIZE), "CPU 0")
    assert of.gaps == (["CPU 0 is on a stack at 0x3ffc36fa358 that is not known"] if gap else [])


def test_error_without_a_class_costs_one_stack() -> None:
    # As drgn raises it for a kdump file that has no notes of CPUs.
    def fails(task: object) -> None:
        raise Exception("Key has no value")

    prog: Any = SimpleNamespace(stack_trace=fails)
    with pytest.raises(LookupError, match="Key has no value"):
        of_stacks._stack_trace(prog, prog)
