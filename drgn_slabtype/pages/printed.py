# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Flags as the kernel prints them
-------------------------------

``%pGp`` and ``%pGg`` print names from tables of ``struct trace_print_flags``,
each with a mask of one flag or several, in the table's order.
"""

from __future__ import annotations

from typing import Iterator, List, Tuple

from drgn import FaultError
from drgn.helpers.common.format import escape_ascii_string

from ..machine import Machine
from ..regions import Region, region

Table = List[Tuple[int, str]]
_MAX_ENTRIES = 512  # no table has as many
_NAME_BYTES = 32  # more than any flag's name has


def flag_table(machine: Machine, name: str) -> Table:
    """
    Return the masks and names of one of the kernel's tables.

    :param name: ``pageflag_names`` or ``gfpflag_names``.
    :return: Empty if the target does not have the table.
    """
    return machine.fact(_read, name)


def _read(machine: Machine, name: str) -> Table:
    table: Table = []
    try:
        entries = machine.prog[name]
        for number in range(min(entries.type_.length or 0, _MAX_ENTRIES)):
            entry = entries[number]
            if not entry.name:
                break
            text = escape_ascii_string(entry.name.string_(), escape_backslash=True)
            table.append((entry.mask.value_(), text))
    except (FaultError, LookupError):
        return []
    return table


def format_flags(table: Table, value: int) -> str:
    """
    Return the names of flags as the kernel prints them, the rest in hex.

    A name stands for all bits of its mask, which later names do not repeat.
    """
    words = []
    for mask, name in table:
        if not value:
            break
        if value & mask == mask:
            words.append(name)
            value &= ~mask
    if value:
        words.append(f"{value:#x}")
    return "|".join(words)


def regions(machine: Machine) -> Iterator[Region]:
    """Yield the names in the table of page flags."""
    try:
        entries = machine.prog["pageflag_names"]
    except LookupError:
        return
    count = min(entries.type_.length or 0, _MAX_ENTRIES)
    names = [entries[number].name.value_() for number in range(count)]
    yield region("variables", [name for name in names if name], _NAME_BYTES)
