# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which CPUs there can be
-----------------------

``__cpu_possible_mask`` and ``nr_cpu_ids`` are written once, at boot: the number is
one more than the last CPU of the mask (``setup_nr_cpu_ids()``). All CPUs that are
present are possible, and all that are online are present. Where one of the two is
contradicted by the other and by these it is the finding, and what the others say counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, NamedTuple, Optional

import numpy as np
from drgn import FaultError, Program, sizeof

from ..codes import Measure
from ..findings import Finding
from .masks import mask_of, numbers_in
from .memory import I64

if TYPE_CHECKING:
    from . import Machine

_FIRST_ID = 1 << 10
_POSSIBLE = "__cpu_possible_mask"
_MOST_CPUS = 1 << 16
_MOST_NAMED = 4  # CPUs in one line
_WORD = 1 << 64


class Wrong(NamedTuple):
    """A variable that is contradicted."""

    name: str
    """``nr_cpu_ids`` or ``__cpu_possible_mask``."""
    why: str
    """As a sentence goes on after its name."""
    found: int
    """What it is; a mask as one number."""
    right: int
    """What it must be by the others."""


class Cpus(NamedTuple):
    """The CPUs that are possible."""

    numbers: I64
    """Numbers of all of them, offline ones too: shape (CPUs,)."""
    wrong: Optional[Wrong] = None
    """Which of the variables is contradicted, if one is."""


def read_cpus(prog: Program) -> Cpus:
    """
    Return the CPUs that are possible; one, if the kernel has no mask of them.

    Where their mask or its length is not in the target, what else there is tells.
    """
    # The masks are variables since Linux kernel commit c4c54dd1caf1 ("kernel/cpu.c:
    # change type of cpu_possible_bits and friends") (in v4.5).
    possible, present, online = (
        _mask(prog, name) for name in (_POSSIBLE, "__cpu_present_mask", "__cpu_online_mask")
    )
    # What both say; one of them alone may be damaged.
    there = (present or online or 0) & (online or present or 0)
    number, most = _number(prog), _bits(prog)
    sane = number is not None and max(there.bit_length(), 1) <= number <= most
    below = (1 << number) - 1 if sane and number is not None else (1 << most) - 1
    if possible is None:
        return Cpus(_numbers(there or (below if sane else 1)))
    lost = there & ~possible
    if lost or not possible:
        right = (possible | there) & below if sane else there
        if not right:
            return Cpus(np.zeros(1, np.int64))
        why = f"lacks {_named(lost)}" if lost else "is empty"
        return Cpus(_numbers(right), Wrong(_POSSIBLE, why, possible, right))
    last = possible.bit_length()
    if number is None or last == number:
        return Cpus(_numbers(possible))
    beyond = possible & ~below
    if sane and beyond and there.bit_length() == number:
        why = f"has {_named(beyond)}, where nr_cpu_ids is {number}"
        return Cpus(_numbers(possible & below), Wrong(_POSSIBLE, why, possible, possible & below))
    why = f"is {number}, where the last possible CPU is {last - 1}"
    return Cpus(_numbers(possible), Wrong("nr_cpu_ids", why, number, last))


def cpu_damage(machine: Machine) -> Iterator[Finding]:
    """Yield a finding for the variable that is contradicted."""
    wrong = machine.possible_cpus.wrong
    if wrong is None:
        return
    mask = wrong.name == _POSSIBLE
    # Words of a mask that are longer are not told as one.
    short = max(wrong.found, wrong.right) < _WORD
    yield Finding(
        "machine-wrong",
        f"{wrong.name} {wrong.why}",
        place=wrong.name,
        expected=wrong.right if short else None,
        found=wrong.found if short else None,
        measure=Measure("word") if mask else Measure("count", "CPUs"),
        id=_FIRST_ID,
    )


def _mask(prog: Program, name: str) -> Optional[int]:
    try:
        return mask_of(prog[name].bits)
    except (FaultError, LookupError):
        return None


def _number(prog: Program) -> Optional[int]:
    try:
        return int(prog["nr_cpu_ids"])
    except (FaultError, LookupError):  # with CONFIG_FORCE_NR_CPUS it is no variable
        return None


def _bits(prog: Program) -> int:
    # CONFIG_NR_CPUS, rounded up to words; any number where nothing tells.
    try:
        return 8 * sizeof(prog[_POSSIBLE])
    except LookupError:
        return _MOST_CPUS


def _numbers(mask: int) -> I64:
    return np.array(numbers_in(mask), np.int64)


def _named(mask: int) -> str:
    cpus = numbers_in(mask)
    some = ", ".join(map(str, cpus[:_MOST_NAMED]))
    more = ", …" if len(cpus) > _MOST_NAMED else ""
    return f"CPU{'s' if len(cpus) > 1 else ''} {some}{more}"
