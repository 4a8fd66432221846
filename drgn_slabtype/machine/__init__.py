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
    Callable,
    Dict,
    Mapping,
    Optional,
    Tuple,
    TypeVar,
)

if TYPE_CHECKING:
    from drgn import Object, Program

    from ..findings import Finding
    from ..pagetype.detect import PageTypeLayout
    from .columns import Rows, Structure
    from .memmap import MemoryMap
    from .memory import U64, Memory
    from .page import PageFields
    from .percpu import I64

_Found = TypeVar("_Found")
_KEY = "slabtype"


class Machine:
    """
    What is known of one kernel as long as its program is open.

    :param prog: A Linux kernel program.
    """

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.opened: Optional[Tuple[str, Optional[str]]] = None
        """Kind and path of the target, if this package opened it."""
        self.btf: Optional[str] = None
        """The sentence that says that types are from the kernel's own BTF, if they are."""
        self.manifest: Optional[Mapping[str, Any]] = None
        """What a capture says of itself; ``None`` for any other target."""
        self.kept: Dict[Any, Any] = {}
        """Readings of memory that does not move, for the next question."""
        self._structures: Dict[str, Structure] = {}
        self._enumerators: Dict[str, Mapping[str, int]] = {}
        self._facts: Dict[Any, Any] = {}
        self._corrected: Dict[str, Object] = {}

    # Memory --------------------------------------------------------------------

    @cached_property
    def memory(self) -> Memory:
        """Bulk reads, byte order, ranges of addresses."""
        from .memory import Memory

        return Memory(self.prog, is_capture=self.manifest is not None)

    @property
    def has_contents(self) -> bool:
        """Whether what users store in their objects is there, which most captures leave out."""
        return self.manifest is None or bool(self.manifest.get("contents"))

    @property
    def is_live(self) -> bool:
        """Whether the memory changes while it is looked at."""
        return self.memory.is_live

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
    def cpus(self) -> I64:
        """Numbers of all possible CPUs, offline ones too."""
        from .percpu import possible_cpus

        return possible_cpus(self.prog)

    @cached_property
    def cpu_offsets(self) -> U64:
        """``__per_cpu_offset`` of each of :attr:`cpus`."""
        from .percpu import cpu_offsets

        return cpu_offsets(self)

    @cached_property
    def node_ids(self) -> int:
        """``nr_node_ids``: how many entries of per-node arrays exist."""
        from .told import node_ids

        return node_ids(self)

    @cached_property
    def damage(self) -> Tuple[Finding, ...]:
        """What the machine's own variables say wrongly, as roots of what follows."""
        from .told import variable_damage

        return (*variable_damage(self), *self.memory_map.damage)

    @cached_property
    def nodes_shift(self) -> int:
        """NODES_SHIFT: bits of ``page->flags`` that hold the node."""
        # struct kmem_cache ends in an array of MAX_NUMNODES entries.
        cache = self.structure("struct kmem_cache")
        for name in ("per_node", "node"):
            if cache.has(name):
                length = cache.type.member(name).type.length
                return int(length).bit_length() - 1 if length else 0
        return 0

    def correct(self, name: str, value: Object) -> None:
        """Let drgn's own helpers take a variable for something else than its memory says."""
        if not self._corrected:
            self.prog.register_object_finder(_KEY, self._find_corrected, enable_index=0)
        self._corrected[name] = value

    def _find_corrected(
        self, prog: Program, name: str, flags: object, filename: object
    ) -> Optional[Object]:
        return self._corrected.get(name)

    # Whatever else -----------------------------------------------------------------

    def fact(self, find: Callable[..., _Found], *arguments: Any) -> _Found:
        """
        Return what a function finds out about the machine, found once.

        For what follows from its types and symbols.

        :param find: Called with the machine and the arguments.
        """
        key = (find, *arguments)
        if key not in self._facts:
            self._facts[key] = find(self, *arguments)
        found: _Found = self._facts[key]
        return found

    def settled(self, find: Callable[..., _Found], *arguments: Any) -> _Found:
        """Return what a function finds in the machine's memory, once if that does not move."""
        return find(self, *arguments) if self.is_live else self.fact(find, *arguments)


def machine(prog: Program) -> Machine:
    """Return the :class:`Machine` of a program, made once."""
    found = prog.cache.get(_KEY)
    if found is None:
        found = prog.cache[_KEY] = Machine(prog)
    assert isinstance(found, Machine)
    return found


def page_type_layout(prog: Program) -> PageTypeLayout:
    """
    Return how a kernel marks its pages, decided once per program.

    >>> page_type_layout(prog).encoding.name
    'top-byte'

    :raises MissingDebugInfoError: if the types needed are not there.
    :raises LayoutError: if the layout is not known, or the debug info
        contradicts VMCOREINFO.
    :raises UnsupportedError: if the kernel is older than Linux 4.18.
    """
    return machine(prog).layout
