# SPDX-License-Identifier: LGPL-2.1-or-later
"""Structures whose members lie elsewhere than debug info says, on made-up kernels."""

from __future__ import annotations

import numpy as np
import pytest
from drgn import Object

from drgn_slabtype.answers.tracks import task_name
from drgn_slabtype.machine import machine
from drgn_slabtype.machine.gone import boot
from drgn_slabtype.machine.shuffled import is_shuffled
from drgn_slabtype.machine.tasks import TaskList, Tasks, spell_task
from tests.direct_map import LINEAR, make_mapped_kernel
from tests.synthetic.kernel import Kernel

_TASK = LINEAR + (2 << 20)


def _kernel(name_at: int) -> Kernel:
    kernel = make_mapped_kernel()
    memory = kernel.add_memory(_TASK, 4096)
    t = kernel.types
    task = t.struct(
        "task_struct",
        ("stack", t.pointer),
        ("comm", t.array(t.known["char"], 16)),
        ("pid", t.int),
        ("stack_canary", t.ulong),
    )
    memory[name_at : name_at + 10] = b"swapper/0\0"
    kernel.objects["init_task"] = Object(kernel.prog, task, address=_TASK)
    return kernel


@pytest.mark.parametrize(("name_at", "expected"), [(8, False), (24, True), (512, False)])
def test_name_of_the_first_task_tells(name_at: int, expected: bool) -> None:
    # A first task without its name anywhere is damaged, or none.
    assert is_shuffled(machine(_kernel(name_at).prog)) is expected


def test_without_a_first_task_nothing_is_shuffled() -> None:
    assert not is_shuffled(machine(make_mapped_kernel().prog))


def test_nothing_is_told_of_shuffled_tasks() -> None:
    sound, shuffled = (machine(_kernel(at).prog) for at in (8, 24))
    assert len(boot(shuffled)) == len(boot(sound)) - 1
    task = sound.prog["init_task"].address_of_(), shuffled.prog["init_task"].address_of_()
    assert [spell_task(one) for one in task] == ["pid 0 (swapper/0)", "a task"]
    assert task_name(shuffled, 1) is None
    # No stack is where a task says: for a sound kernel that is no task.
    address = np.array([_TASK], np.uint64)
    assert [Tasks(one).are(address).tolist() for one in (sound, shuffled)] == [[False], [True]]
    assert TaskList(shuffled).gaps == ["the debug info is wrong about tasks (RANDSTRUCT)"]
