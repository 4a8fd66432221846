# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A target that goes away
-----------------------

A guest whose QEMU ends or that is started again, a file on a disk that fails.
Memory that is not in a target is a :exc:`drgn.FaultError`, which is another matter.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Callable, List, Optional, Tuple

from drgn import FaultError, Object, ProgramFlags

from .shuffled import is_shuffled

if TYPE_CHECKING:
    from . import Machine

_BANNER_BYTES = 64

Boot = Tuple[bytes, ...]
"""What is the same as long as a kernel runs, and hardly ever in another one."""


class OtherKernel(Exception):
    """Another kernel, or none, is where the one was that was looked at."""


def boot(machine: Machine) -> Boot:
    """Read what tells one run of a kernel from another."""
    prog, word = machine.prog, machine.memory.word_size
    finders: Tuple[Tuple[Callable[[], Object], int], ...] = (
        (lambda: prog["linux_banner"], _BANNER_BYTES),
        (lambda: prog["kmem_cache"], word),
    )
    if not is_shuffled(machine):
        # A random number, with CONFIG_STACKPROTECTOR.
        finders = (*finders, (lambda: prog["init_task"].stack_canary, word))
    found: List[bytes] = []
    for find, size in finders:
        with suppress(AttributeError, FaultError, LookupError):
            address = find().address_
            if address is not None:
                found.append(machine.memory.read(address, size))
    return tuple(found)


def confirm_boot(machine: Machine) -> None:
    """
    Make sure that what was read is all of one kernel.

    Whoever asks later has asked :func:`boot` as a fact of the machine before.

    :raises OtherKernel: if it is not.
    """
    before, now = machine.fact(boot), boot(machine)
    if now == before:
        return
    if len(now) < len(before):
        raise OtherKernel("what was there before is missing now")
    raise OtherKernel("another kernel runs there, or the same was started again")


def gone(machine: Machine, error: Exception) -> Optional[str]:
    """
    Return what to say of a target that can no longer be read.

    :param error: What a read of it, or anything else, has raised.
    :return: One line; ``None`` if the error is something else.
    """
    if isinstance(error, FaultError):
        # Of memory that never was there, or of all of it?
        try:
            confirm_boot(machine)
        except Exception as other:
            error = other
        else:
            return None
    # drgn's errors of QEMU's protocol have no class of their own.
    of_protocol = type(error) is Exception and _is_remote(machine)
    if not isinstance(error, (OSError, OtherKernel)) and not of_protocol:
        return None
    reason = error.strerror if isinstance(error, OSError) else str(error)
    why = " ".join((reason or type(error).__name__).split())
    return f"{_name(machine)} can no longer be read: {why[:1].lower()}{why[1:]}"


def _is_remote(machine: Machine) -> bool:
    flags = machine.prog.flags
    return bool(flags & ProgramFlags.IS_LIVE) and not flags & ProgramFlags.IS_LOCAL


def _name(machine: Machine) -> str:
    path = machine.prog.core_dump_path if machine.opened is None else machine.opened[1]
    if _is_remote(machine):
        return f"the guest at {path}" if path else "the guest"
    return path or "the running kernel"
