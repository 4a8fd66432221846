# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What variables tell of the machine
----------------------------------

Some say what others say as well. Where one is contradicted it is the finding, and
what the others say counts.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Iterator, List, Optional, Sequence

from drgn import FaultError, Object
from drgn.helpers.linux.nodemask import for_each_online_node

from ..codes import ADDRESS, Measure
from ..errors import ArgumentError
from ..findings import Finding
from .cpus import cpu_damage
from .kfence import kfence_pool
from .offsets import offset_damage

if TYPE_CHECKING:
    from . import Machine

_NODES = Measure("count", "nodes")
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
_INT = 4  # bytes; what is read of an array says the same elsewhere


def node_ids(machine: Machine) -> int:
    """
    Return how many entries of per-node arrays exist; 1 without NUMA.

    This is ``nr_node_ids``, unless two other places agree on another number:
    ``node_states[N_POSSIBLE]``, from which the kernel takes it, and ``node_data[]``.
    """
    try:
        told = machine.fact(_variable)
    except LookupError:
        return 1
    except FaultError:
        told = 0  # the others tell
    most = max(1 << machine.nodes_shift, 1)
    others = [number for number in _others(machine) if 0 < number <= most]
    if 0 < told <= most and (told in others or len(set(others)) != 1):
        return told
    number = max(others, default=1)
    machine.corrections.add("nr_node_ids", Object(machine.prog, "unsigned int", number))
    return number


def online_nodes(machine: Machine) -> List[int]:
    """
    Return the numbers of the nodes that are online.

    Where ``node_states`` is not in the target, they are those of which ``node_data[]``
    names the ``struct pglist_data``, or all there can be.
    """
    number = machine.node_ids
    try:
        return list(for_each_online_node(machine.prog))
    except FaultError:
        pass
    try:
        return [nid for nid, node in enumerate(machine.prog["node_data"]) if node.value_()]
    except (FaultError, LookupError, TypeError):
        return list(range(number))


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
    if number in there:
        return
    told = ", ".join(map(str, there))
    if len(there) > 1 and there[-1] - there[0] == len(there) - 1:
        told = f"{there[0]} to {there[-1]}"
    are = "is" if len(there) == 1 else "are"
    raise ArgumentError(f"there is no {what} {number}: there {are} {told}")


def nodes_shift(machine: Machine) -> int:
    """Return NODES_SHIFT: how many bits of ``page->flags`` hold the node."""
    # struct kmem_cache ends in an array of MAX_NUMNODES entries.
    cache = machine.structure("struct kmem_cache")
    for name in ("per_node", "node"):
        if cache.has(name):
            length = cache.type.member(name).type.length
            return int(length).bit_length() - 1 if length else 0
    return 0


def variable_damage(machine: Machine) -> Iterator[Finding]:
    """Yield a finding for each variable that is contradicted."""
    memory = machine.memory
    last = _number(machine, "max_pfn")
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
                f"{name} is 0x{pointer:x}, which is not in the direct map "
                f"from 0x{memory.linear_base:x} on",
                place=name,
                found=pointer,
                measure=ADDRESS,
                id=id,
            )
    told = _told(machine)
    if told is not None and told != machine.node_ids:
        yield Finding(
            "machine-wrong",
            f"nr_node_ids is {told}, of a machine with {machine.node_ids} nodes",
            place="nr_node_ids",
            expected=machine.node_ids,
            found=told,
            measure=_NODES,
            id=4,
        )
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
    if name == "__kfence_pool":
        what = f"{name} is 0x{found or 0:x}, where its objects are at 0x{pool.start:x}"
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


def _told(machine: Machine) -> Optional[int]:
    try:
        # The variable, whatever drgn was told since.
        return machine.fact(_variable)
    except (FaultError, LookupError):
        return None


def _number(machine: Machine, name: str) -> Optional[int]:
    try:
        return int(machine.prog[name])
    except (FaultError, LookupError):
        return None


def _variable(machine: Machine) -> int:
    return int(machine.prog["nr_node_ids"])


def _others(machine: Machine) -> List[int]:
    prog, found = machine.prog, []
    try:
        words = prog["node_states"][0].bits
        bits = 8 * machine.memory.word_size
        mask = sum(int(word) << bits * number for number, word in enumerate(words))
        found.append(mask.bit_length())
    except (AttributeError, FaultError, LookupError, TypeError):
        pass
    try:
        places = [number for number, node in enumerate(prog["node_data"]) if node.value_()]
        found.append(places[-1] + 1 if places else 0)
    except (FaultError, LookupError, TypeError):
        pass
    return found
