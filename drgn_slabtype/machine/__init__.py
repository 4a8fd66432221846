# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The machine
-----------

:func:`machine` returns the one :class:`Machine` of a program: everything that
does not change while the program is open, found when it is first asked for and
never again. Public functions take a program and ask it for its machine; inside
this package the machine is handed down.

This module is imported into every drgn program that opens a capture, and so
imports numpy only when memory is read.
"""

from __future__ import annotations

from functools import cached_property
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    List,
    Mapping,
    Optional,
    Tuple,
)

from ..arguments import program_of
from .facts import Found

if TYPE_CHECKING:
    from drgn import Object, Program

    from ..findings import Finding
    from ..pagetype.detect import PageTypeLayout
    from .columns import Rows, Structure
    from .cpus import Cpus
    from .memmap import MemoryMap
    from .memory import I64, U64, Memory
    from .nodes import Nodes
    from .offsets import Offsets
    from .page import PageFields
    from .pause import Pause
    from .reads import Spent

_KEY = "slabtype"


class Corrections:
    """Lets drgn's own helpers take a variable for something else than its memory says."""

    def __init__(self, prog: Program) -> None:
        self._prog = prog
        self._known: Dict[str, Object] = {}
        self._registered = False

    def add(self, name: str, value: Object) -> None:
        """Let a variable be *value* from now on."""
        if not self._registered:
            self._prog.register_object_finder(_KEY, self._find, enable_index=0)
            self._registered = True
        self._known[name] = value

    def clear(self) -> None:
        """Let all variables be what their memory says."""
        self._known.clear()

    def _find(self, prog: Program, name: str, flags: object, filename: object) -> Optional[Object]:
        return self._known.get(name)


class Machine(Found):
    """
    What is known of one kernel as long as its program is open.

    :param prog: A Linux kernel program.
    """

    def __init__(self, prog: Program) -> None:
        super().__init__()
        self.prog = prog
        self.opened: Optional[Tuple[str, Optional[str]]] = None
        """Kind and path of the target, if this package opened it."""
        self.btf: Optional[str] = None
        """The sentence that says that types are from the kernel's own BTF, if they are."""
        self.manifest: Optional[Mapping[str, Any]] = None
        """What a capture says of itself; ``None`` for any other target."""
        self.pause: Optional[Pause] = None
        """What is known of a guest that was stopped when it was opened."""
        self.kept: Dict[Any, Any] = {}
        """Readings of memory that does not move, for the next question."""
        self._structures: Dict[str, Structure] = {}
        self._enumerators: Dict[str, Mapping[str, int]] = {}
        self.corrections = Corrections(prog)
        """Variables that are something else than the target's memory says."""

    # Memory --------------------------------------------------------------------

    @cached_property
    def memory(self) -> Memory:
        """Bulk reads, byte order, ranges of addresses."""
        from .memory import Memory

        return Memory(self.prog, is_capture=self.manifest is not None)

    @property
    def is_live(self) -> bool:
        """Whether the memory changes while it is looked at."""
        return self.memory.is_live and not (self.pause is not None and self.pause.holds)

    @property
    def spent(self) -> Spent:
        """What reading has cost so far."""
        from .reads import Spent

        return self.memory.spent if "memory" in vars(self) else Spent(0, 0)

    def rows(self, name: str, addresses: U64, size: Optional[int] = None) -> Rows:
        """
        Read the same structure at many virtual addresses.

        :param name: As in C, ``struct kmem_cache_node``.
        :param size: Bytes of each that exist, where that is less than the whole type.
        :raises LookupError: if the kernel has no such type.
        """
        from .columns import read_rows

        return read_rows(self.memory, self.structure(name), addresses, size)

    # Types -----------------------------------------------------------------------

    def structure(self, name: str) -> Structure:
        """
        Return where the members of a type lie.

        :param name: As in C, ``struct kmem_cache_node``.
        :raises LookupError: if the kernel has no such type.
        """
        found = self._structures.get(name)
        if found is None:
            from .columns import Structure

            found = Structure(self.prog.type(name), self.memory.byteorder)
            self._structures[name] = found
        return found

    def enumerators(self, name: str) -> Mapping[str, int]:
        """
        Return the values of an enumeration, empty if the kernel has none of the name.

        :param name: Its tag: ``pageflags``.
        """
        found = self._enumerators.get(name)
        if found is None:
            from ..pagetype.sources import enumerators

            found = self._enumerators[name] = enumerators(self.prog, name)
        return found

    @cached_property
    def vmcoreinfo(self) -> Mapping[str, str]:
        """VMCOREINFO by its keys, spelled as in the note; empty if there is none."""
        from ..pagetype.sources import vmcoreinfo

        return vmcoreinfo(self.prog)

    # Pages -------------------------------------------------------------------------

    @cached_property
    def layout(self) -> PageTypeLayout:
        """
        How the kernel marks its pages.

        :raises LayoutError: if that is not understood.
        """
        from ..pagetype.detect import detect

        return detect(self.prog, self.vmcoreinfo, self.btf)

    @cached_property
    def page(self) -> PageFields:
        """Where the members of ``struct page`` lie, and the memory map."""
        from .page import page_fields

        return page_fields(self)

    @cached_property
    def memory_map(self) -> MemoryMap:
        """Where the struct pages are, and what of that is damaged."""
        from .memmap import memory_map

        return memory_map(self)

    # CPUs and nodes ------------------------------------------------------------------

    @cached_property
    def possible_cpus(self) -> Cpus:
        """Which CPUs are possible, and which variable says that wrongly."""
        from .cpus import read_cpus

        return read_cpus(self.prog)

    @property
    def cpus(self) -> I64:
        """Numbers of all possible CPUs, offline ones too."""
        return self.possible_cpus.numbers

    @cached_property
    def per_cpu(self) -> Offsets:
        """Where each of :attr:`cpus` has its memory, and which words say that wrongly."""
        from .offsets import read_offsets

        return read_offsets(self)

    @property
    def cpu_offsets(self) -> U64:
        """``__per_cpu_offset`` of each of :attr:`cpus`, as it counts."""
        return self.per_cpu.counted

    @cached_property
    def node_ids(self) -> int:
        """``nr_node_ids``: how many entries of per-node arrays exist."""
        from .nodes import node_ids

        return node_ids(self)

    @property
    def online(self) -> Nodes:
        """Which nodes are online, and what says that wrongly."""
        from .nodes import online_nodes

        return self.settled(online_nodes)

    @property
    def nodes(self) -> List[int]:
        """Numbers of the nodes that are online, but for those that cannot be found."""
        return self.online.numbers

    @cached_property
    def damage(self) -> Tuple[Finding, ...]:
        """What the machine's own variables say wrongly, as roots of what follows."""
        from .told import variable_damage

        return (*variable_damage(self), *self.memory_map.damage)

    def look_again(self) -> None:
        """Let the next question find out anew what may have been damaged since the last one."""
        self.corrections.clear()
        for name in ("memory_map", "damage", "node_ids", "page", "per_cpu"):
            vars(self).pop(name, None)

    @cached_property
    def nodes_shift(self) -> int:
        """NODES_SHIFT: bits of ``page->flags`` that hold the node."""
        from .nodes import nodes_shift

        return nodes_shift(self)

    # Whatever else -----------------------------------------------------------------

    def forget(self) -> None:
        """Forget what was found in memory, for memory that is another from now on."""
        self.kept.clear()
        self.forget_facts()
        self.look_again()
        for name in ("memory", "possible_cpus"):
            vars(self).pop(name, None)


def machine(prog: Program) -> Machine:
    """Return the :class:`Machine` of a program, made once."""
    found = program_of(prog).cache.get(_KEY)
    if found is None:
        found = prog.cache[_KEY] = Machine(prog)
    assert isinstance(found, Machine)
    return found


def is_dump(machine: Machine) -> bool:
    """Return whether a dumper wrote it: neither a running kernel nor a capture."""
    return not machine.is_live and machine.manifest is None


def has_contents(machine: Machine) -> bool:
    """Return whether what users store in their objects is there: most captures leave it out."""
    return machine.manifest is None or bool(machine.manifest.get("contents"))


def page_type_layout(prog: Program) -> PageTypeLayout:
    """
    Return how a kernel marks its pages, decided once per program.

    >>> layout = page_type_layout(prog)
    >>> layout.encoding.name, layout.allocator
    ('rfc-v3', 'SLAB')

    :raises MissingDebugInfoError: if the types needed are not there.
    :raises LayoutError: if the layout is not known, or the debug info
        contradicts VMCOREINFO.
    :raises UnsupportedError: if the kernel is older than Linux 4.18.
    """
    return machine(prog).layout
