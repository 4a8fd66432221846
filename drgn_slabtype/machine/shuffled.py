# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Structures whose members are elsewhere
--------------------------------------

With ``CONFIG_RANDSTRUCT`` the compiler puts the members of some structures in a
random order: tasks, files, inodes, mappings; none of the allocators'. GCC does so
after it has written down where they lie, so that its debug info has the order of
the source; Clang before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn import FaultError, sizeof

if TYPE_CHECKING:
    from . import Machine

_FIRST_TASK = b"swapper"  # INIT_TASK_COMM

SAID = (
    "the compiler has put members of tasks, files, inodes and mappings in another order than the "
    "debug info says (RANDSTRUCT): nothing is told of these"
)
"""What that means for who asks."""


def is_shuffled(machine: Machine) -> bool:
    """
    Return whether debug info is wrong about the structures that a compiler shuffles.

    The name of the first task tells: it is in ``init_task``, and not where debug info
    says. Of a capture, which has no tasks, nothing does.
    """
    return machine.fact(_is_shuffled)


def _is_shuffled(machine: Machine) -> bool:
    try:
        task = machine.prog["init_task"]
        name = task.comm.address_
        raw = machine.memory.read(task.address_, sizeof(task))
    except (AttributeError, FaultError, LookupError):
        return False
    return _FIRST_TASK in raw and not raw[name - task.address_ :].startswith(_FIRST_TASK)
