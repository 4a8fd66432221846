# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What variables tell of the machine
----------------------------------

Some say what others say as well. Where one is contradicted it is the finding, and
what the others say counts.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Callable, Iterator, NamedTuple, Optional, Sequence, Tuple

from drgn import FaultError, Object

from ..arguments import at_least, is_pointer, named
from ..codes import ADDRESS, Measure
from ..errors import ArgumentError
from ..findings import Finding
from .cpus import cpu_damage
from .kfence import kfence_pool
from .nodes import node_damage
from .offsets import offset_damage

if TYPE_CHECKING:
    from . import Machine

# What describes the machine, but for mem_section, of which memmap.py tells.
_NEEDED = (
    "nr_node_ids",
    "node_states",
    "node_data",
    "nr_cpu_ids",
    "__cpu_possible_mask",
    "__per_cpu_offset",
    "__highest_present_section_nr",
    "__kfence_pool",
    "kfence_metadata",
)
_LOST_ID = 1 << 16
_ALIKE = 2  # pointers that are not damaged alike by chance
_MOST_MEMORY = 1 << 56  # bytes, of any architecture
_INT = 4  # bytes; what is read of an array says the same elsewhere


def require_cpu(machine: Machine, cpu: int) -> None:
    """
    Complain about a CPU that cannot exist.

    :raises ArgumentError: if there is none of this number.
    """
    _require("CPU", cpu, machine.cpus.tolist())


def require_node(machine: Machine, node: int) -> None:
    """
    Complain about a NUMA node that is not online.

    :raises ArgumentError: if there is none of this number.
    """
    try:
        there = list(machine.nodes)
    except LookupError:
        there = list(range(machine.node_ids))
    _require("node", node, there)


def _require(what: str, number: int, there: Sequence[int]) -> None:
    if is_pointer(number):
        at_least(what, number)
    if number in there:
        return
    told = ", ".join(map(str, there))
    if len(there) > 1 and there[-1] - there[0] == len(there) - 1:
        told = f"{there[0]} to {there[-1]}"
    are = "is" if len(there) == 1 else "are"
    raise ArgumentError(f"there is no {what} {number}: there {are} {told}")


class Last(NamedTuple):
    """``max_pfn``: behind all memory that there was at boot."""

    told: Optional[int]
    """What it is; ``None`` if it is not in the target."""
    counted: Optional[int]
    """What counts: the end of the memory map, where it is contradicted."""


def last_page(machine: Machine) -> Last:
    """Return ``max_pfn``, by what was allocated at boot."""
    told, memory = _number(machine, "max_pfn"), machine.memory
    if told is None:
        return Last(None, None)
    early = []
    finders: Tuple[Callable[[], Object], ...] = (
        lambda: machine.prog["saved_command_line"],
        lambda: machine.prog["mem_section"],
        lambda: next(node for node in machine.prog["node_data"] if node),
    )
    for find in finders:
        with suppress(FaultError, LookupError, StopIteration, TypeError):
            early.append(int(find()))
    most = _MOST_MEMORY >> memory.page_shift
    pages = [(one - memory.linear_base) >> memory.page_shift for one in early]
    if told < most and sum(told <= page < most for page in pages) < _ALIKE:
        return Last(told, told)
    known = _number(machine, "__highest_present_section_nr")
    ends = [end for _, end in machine.memory_map.ranges or ()]
    if not ends and known is not None:
        ends = [(known + 1) << int(machine.prog["SECTION_SIZE_BITS"]) >> memory.page_shift]
    return Last(told, max([*ends, *(page + 1 for page in pages if page < most)]))


def variable_damage(machine: Machine) -> Iterator[Finding]:
    """Yield a finding for each variable that is contradicted."""
    memory = machine.memory
    told, last = machine.settled(last_page)
    if told != last:
        yield Finding(
            "machine-wrong",
            f"max_pfn is {told}, where memory ends before PFN {last:#x}",
            place="max_pfn",
            found=told,
            measure=Measure("index", "pages"),
            id=9,
        )
    astray = []
    for id, name in enumerate(("saved_command_line", "__kfence_pool"), 5):
        # Both are allocated as pages or by memblock; without KFENCE there is no pool.
        pointer = _number(machine, name)
        if pointer is None or last is None or (pointer == 0 and name == "__kfence_pool"):
            continue
        if not 0 <= pointer - memory.linear_base < last << memory.page_shift:
            astray.append(name)
            yield Finding(
                "machine-wrong",
                f"{name} is {named(pointer)}, which is not in the direct map "
                f"from 0x{memory.linear_base:x} on",
                place=name,
                found=pointer,
                measure=ADDRESS,
                id=id,
            )
    yield from node_damage(machine)
    yield from (one for one in _contradicted_pool(machine) if one.place not in astray)
    yield from cpu_damage(machine)
    yield from offset_damage(machine)
    yield from _lost(machine)


def _contradicted_pool(machine: Machine) -> Iterator[Finding]:
    pool = machine.settled(kfence_pool)
    name, found = pool.contradicted, None
    if not name:
        return
    with suppress(TypeError):  # an array is no number
        found = _number(machine, name)
    what = f"kfence_metadata is of no object of the pool at 0x{pool.start:x}, which has some"
    if name == "__kfence_pool" and not pool.start:
        what = f"{name} is {named(found or 0)}, where there is no pool"
    elif name == "__kfence_pool":
        what = f"{name} is {named(found or 0)}, where its objects are at 0x{pool.start:x}"
    yield Finding(
        "machine-wrong",
        what,
        place=name,
        expected=pool.start if name == "__kfence_pool" else None,
        found=found,
        measure=ADDRESS,
        id=7,
    )


def _lost(machine: Machine) -> Iterator[Finding]:
    # Others may stand in for a variable; that it is missing is said in any case.
    for id, name in enumerate(_NEEDED, _LOST_ID):
        try:
            machine.prog.read(machine.prog.symbol(name).address, _INT)
        except FaultError:
            yield Finding("unreadable", f"{name} is not in the target", place=name, id=id)
        except LookupError:
            continue  # this kernel has none


def _number(machine: Machine, name: str) -> Optional[int]:
    try:
        return int(machine.prog[name])
    except (FaultError, LookupError):
        return None
