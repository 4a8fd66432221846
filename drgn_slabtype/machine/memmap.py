# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where the memory map is
-----------------------

With SPARSEMEM_VMEMMAP the struct pages of all sections are one virtual array,
and every section repeats where it begins (``section_mem_map``). What a section
says is believed as far as the others, the kernel's own variable and the memory
itself bear it out: a damaged word costs nothing, the roots that are not in a
dump cost what cannot be found without them.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice
from typing import TYPE_CHECKING, Callable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Object, Program, TypeKind
from drgn.helpers.linux.list import list_for_each_entry, list_for_each_entry_reverse

from ..arguments import named
from ..codes import Measure
from ..findings import Finding
from .architecture import of_program
from .columns import numbers_at
from .directmap import LINEAR_BYTES
from .memory import U64, Bools

if TYPE_CHECKING:
    from . import Machine

I64 = npt.NDArray[np.int64]

_HAS_MEM_MAP = 2  # SECTION_HAS_MEM_MAP
MAP_FLAGS = np.uint64(0xFFF)
"""More bits than any kernel has flags in ``section_mem_map``; the map is aligned to far more."""

_MOST_SECTIONS = 1 << 20
_MOST_PAGES = 1 << 32
_MOST_ROOTS = 1024
_MOST_PROBES = 4096
_PROBE_BYTES = 256 << 20  # without a slab in them
_PROBE_PAGES = 512
_MOST_ORDERS = 11  # that a slab may have
_MAP_ALIGNMENT = 1 << 20  # bytes


class MemoryMap(NamedTuple):
    """The virtual array of struct pages."""

    vmemmap: int
    """``struct page *`` of page frame 0."""
    ranges: Optional[List[Tuple[int, int]]]
    """Ranges [start, end) of page frames, where drgn cannot tell them; else ``None``."""
    damage: Tuple[Finding, ...]
    """What of it is damaged or not in the target."""


class _Sections(NamedTuple):
    # All that may exist, whatever their words say.
    addresses: U64
    words: U64
    ok: Bools
    pages: int
    highest: Optional[int]


_NO_SECTIONS = _Sections(
    np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.bool_), 1, None
)


def memory_map(machine: Machine) -> MemoryMap:
    """
    Find the memory map.

    :raises LookupError: if the kernel has no virtual memory map.
    :raises FaultError: if nothing in the target tells where it is.
    """
    prog = machine.prog
    told: Optional[int] = None
    fault: Optional[Exception] = None
    damage: Tuple[Finding, ...] = ()
    try:
        sections = _read_sections(machine)
    except LookupError:  # FLATMEM has no sections
        sections = None
    except FaultError as error:
        sections, fault, damage = None, error, _lost_table(machine)
    try:
        told = _ask_drgn(machine, sections)
    except FaultError as error:
        fault = error
    except LookupError as error:
        # drgn finds none where no section says that it is present.
        if not _has_vmemmap(prog):
            raise
        fault = error
    vmemmap = told
    if sections is not None or told is None:
        vmemmap = _vote(machine, told, sections or _NO_SECTIONS)
    if vmemmap is None:
        raise FaultError(f"the memory map is nowhere to be found: {fault}", 0)
    if vmemmap != told:
        machine.corrections.add("vmemmap", Object(prog, "struct page *", vmemmap))
    if sections is None:
        return MemoryMap(vmemmap, _up_to_last(machine) if damage else None, damage)
    return _judge(machine, vmemmap, told == vmemmap, sections)


def _up_to_last(machine: Machine) -> List[Tuple[int, int]]:
    # All pages that there can be, where no section says which there are.
    last = _number(machine.prog, "max_pfn") or 0
    if not 0 < last <= _MOST_PAGES:
        raise FaultError("neither mem_section nor max_pfn tells which pages there are", 0)
    return [(0, last)]


def _ask_drgn(machine: Machine, sections: Optional[_Sections]) -> int:
    # drgn takes the first section that is present, of all that an address could be in: where
    # none is, it reads millions of roots (riscv64: 4 194 304).
    prog = machine.prog
    if sections is not None and _has_vmemmap(prog):
        present = (sections.words & np.uint64(_HAS_MEM_MAP)) != 0
        if not (present.any() if len(present) else _has_roots(machine)):
            raise FaultError("no section is present", 0)
    return int(prog["vmemmap"].value_())


def _has_roots(machine: Machine) -> bool:
    # Whether one of the first roots leads anywhere, where nobody says how many sections there are.
    if machine.prog["mem_section"].type_.unaliased_kind() == TypeKind.ARRAY:
        return True
    source = machine.memory
    numbers = np.arange(_MOST_ROOTS, dtype=np.uint64)
    per_root = np.uint64(machine.prog["SECTIONS_PER_ROOT"].value_())
    gathered = source.gather(_slots(machine, numbers * per_root), source.word_size)
    return bool(gathered.bytes[gathered.ok].any())


def _lost_table(machine: Machine) -> Tuple[Finding, ...]:
    # What is said where the variable leads to no table of sections.
    table = machine.prog["mem_section"]
    where = _number(machine.prog, "mem_section")
    if where is None or table.address_ is None:
        return (Finding("unreadable", "mem_section is not in the target", place="mem_section"),)
    if machine.memory.is_kernel_address(np.array([where], np.uint64))[0]:
        what = f"mem_section leads to 0x{where:x}, which is not in the target"
        return (Finding("unreadable", what, place="mem_section", found=where),)
    what = f"mem_section is 0x{where:x}, which is no address of the kernel's"
    at = int(table.address_)
    return (Finding("memory-map", what, place="mem_section", found=where, word=at, id=1),)


def _has_vmemmap(prog: Program) -> bool:
    try:
        prog["vmemmap_populate"]
    except LookupError:
        return False
    return True


def _read_sections(machine: Machine) -> _Sections:
    prog = machine.prog
    pages = 1 << (int(prog["SECTION_SIZE_BITS"]) - machine.memory.page_shift)
    highest, last = (_number(prog, name) for name in ("__highest_present_section_nr", "max_pfn"))
    numbers = (0 if highest is None else highest + 1, 0 if last is None else -(-last // pages))
    count = max((number for number in numbers if number <= _MOST_SECTIONS), default=0)
    addresses = section_addresses(machine, np.arange(count, dtype=np.uint64))
    rows = machine.rows("struct mem_section", addresses)
    return _Sections(addresses, rows["section_mem_map"], rows.ok, pages, highest)


def _number(prog: Program, name: str) -> Optional[int]:
    try:
        return int(prog[name])
    except (FaultError, LookupError):
        return None


def section_addresses(machine: Machine, sections: U64) -> U64:
    """Return the ``struct mem_section *`` of each section number, bad ones for missing roots."""
    source, size = machine.memory, np.uint64(machine.structure("struct mem_section").size)
    table = machine.prog["mem_section"]
    per_root = np.uint64(machine.prog["SECTIONS_PER_ROOT"].value_())
    index = sections % per_root
    if table.type_.unaliased_kind() == TypeKind.ARRAY:
        # Without SPARSEMEM_EXTREME the sections are the variable itself.
        assert table.address_ is not None
        return np.uint64(table.address_) + sections * size
    slots = _slots(machine, sections)
    gathered = source.gather(slots, source.word_size)
    roots = gathered.bytes.view(source.word)[:, 0].astype(np.uint64)
    found = np.where(roots != 0, roots + index * size, 0)
    # Of a root that is not in the target, the slot: that is not there either.
    return np.where(gathered.ok, found, slots)


def _slots(machine: Machine, sections: U64) -> U64:
    # Where it says where a section's struct mem_section is.
    table, width = machine.prog["mem_section"], np.uint64(machine.memory.word_size)
    per_root = np.uint64(machine.prog["SECTIONS_PER_ROOT"].value_())
    return np.uint64(table.value_()) + sections // per_root * width


def _vote(machine: Machine, told: Optional[int], sections: _Sections) -> Optional[int]:
    present = (sections.words & np.uint64(_HAS_MEM_MAP)) != 0
    votes = Counter((sections.words & ~MAP_FLAGS)[present].tolist())
    own = _number(machine.prog, "vmemmap_base") or 0
    start = _exported(machine)
    # One section alone may be off by little, and leads to struct pages as well.
    borne_out = _is_there if sum(votes.values()) > 1 else _leads_to_caches
    if told is not None and len(votes) == 1 and told in votes and borne_out(machine, told):
        return told
    candidates = [own, start, _moved(machine, start), *(value for value, _ in votes.most_common(8))]
    candidates += [
        value for value in (told, *of_program(machine.prog).memory_map) if value is not None
    ]
    # Two that say the same, then any one that the memory bears out.
    counted = Counter({**votes})
    counted.update(value for value in (own, start) if value)
    for value, times in counted.most_common(8):
        if times > 1 and value in candidates and _is_there(machine, value):
            return value
    likely = [
        value
        for value in chain(candidates, _near_slabs(machine))
        if value and _is_there(machine, value)
    ]
    # A pointer that is off by little leads to struct pages as well, to wrong ones.
    sure = (value for value in likely if _leads_to_caches(machine, value))
    return next(chain(sure, likely), told)


def _exported(machine: Machine) -> int:
    # Where the kernel says that the map of its memory begins; 0 if it does not.
    try:
        return int(machine.vmcoreinfo.get("NUMBER(VMEMMAP_START)", "0"), 0) & 0xFFFFFFFFFFFFFFFF
    except ValueError:
        return 0


def _moved(machine: Machine, start: int) -> int:
    # arm64 exports where the map of the lowest page of memory lies.
    lowest = _number(machine.prog, "memstart_addr")
    if lowest is None:
        return 0
    size = machine.structure("struct page").size
    return (start - (lowest >> machine.memory.page_shift) * size) & 0xFFFFFFFFFFFFFFFF


def _near_slabs(machine: Machine) -> Iterator[int]:
    # x86-64 begins the map at a multiple of 1 GiB, and the struct pages of the
    # first 16 GiB lie behind it; slabs on a list tell where some are.
    prog, base = machine.prog, machine.memory.linear_base
    head = prog["slab_caches"].address_of_()
    # A list that is broken is known from both its ends.
    for each in (list_for_each_entry, list_for_each_entry_reverse):
        try:
            for cache in islice(each("struct kmem_cache", head, "list"), _MOST_PROBES):
                yield from _maps_of_node(cache, base)
                yield from _maps_of_slab(machine, cache)
        except (FaultError, OverflowError):
            continue


def _first_node(cache: Object) -> Object:
    return cache.node[0] if hasattr(cache, "node") else cache.per_node[0].node


def _maps_of_node(cache: Object, base: int) -> Iterator[int]:
    try:
        node = _first_node(cache)
        for name in ("partial", "slabs_full", "slabs_partial"):
            if node.type_.type.has_member(name):
                link = node.member_(name).next.value_()
                # An empty list leads to itself, in the direct map.
                if not base <= link < base + LINEAR_BYTES:
                    yield link >> 30 << 30
    except (AttributeError, FaultError, LookupError, OverflowError):
        return


def _maps_of_slab(machine: Machine, cache: Object) -> Iterator[int]:
    # Anywhere else it begins at a multiple of 1 MiB; where a slab's objects lie tells
    # which page its struct page is, but for the order.
    memory, page = machine.memory, machine.structure("struct page")
    slab = machine.structure(f"struct {machine.layout.slab_struct}")
    if not slab.has("slab_list") or not slab.has("freelist"):
        return
    try:
        node = _first_node(cache)
        name = "partial" if node.type_.type.has_member("partial") else "slabs_partial"
        link = node.member_(name).next.value_()
        if link == node.member_(name).address_:
            return
        start = link - slab.offset("slab_list")
        freelist = memory.read_word(start + slab.offset("freelist"))
    except (AttributeError, FaultError, LookupError, OverflowError):
        return
    pfn = (freelist - memory.linear_base) >> memory.page_shift
    for order in range(_MOST_ORDERS if pfn > 0 and freelist else 0):
        found = start - (pfn >> order << order) * page.size
        if found > 0 and found % _MAP_ALIGNMENT == 0:
            yield found


def _leads_to_caches(machine: Machine, vmemmap: int) -> bool:
    # Whether a cache lies in a slab of the cache of caches, by the struct pages there.
    prog, memory, size = machine.prog, machine.memory, machine.structure("struct page").size
    slab = machine.structure(f"struct {machine.layout.slab_struct}")
    for name in ("next", "prev"):
        try:
            link, owner = prog["slab_caches"].member_(name).value_(), prog["kmem_cache"].value_()
            pfn = (link - memory.linear_base) >> memory.page_shift
            for order in range(_MOST_ORDERS):
                head = vmemmap + (pfn >> order << order) * size
                if memory.read_word(head + slab.offset("slab_cache")) == owner:
                    return True
        except (FaultError, LookupError, OverflowError, ValueError):
            continue
    return False


def _is_there(machine: Machine, vmemmap: int) -> bool:
    # Whether a page that the kernel uses has its struct page there.
    if vmemmap & int(MAP_FLAGS):
        return False
    prog, memory, size = machine.prog, machine.memory, machine.structure("struct page").size
    users: Tuple[Callable[[], Object], ...] = (
        lambda: prog["slab_caches"].next,
        lambda: prog["slab_caches"].prev,
        lambda: prog["node_data"][0],
        lambda: prog["saved_command_line"],
    )
    for user in users:
        try:
            pfn = (user().value_() - memory.linear_base) >> memory.page_shift
            raw = memory.read(vmemmap + pfn * size, size)
        except (FaultError, LookupError, OverflowError, ValueError):
            continue
        if raw.count(0) < len(raw):
            return True
    return False


def _judge(machine: Machine, vmemmap: int, trusted: bool, sections: _Sections) -> MemoryMap:
    addresses, words, ok, pages, highest = sections
    maps = words & ~MAP_FLAGS
    has_map = (words & np.uint64(_HAS_MEM_MAP)) != 0
    good = ok & has_map & (maps == np.uint64(vmemmap))
    # Whoever takes a section away leaves the map of NULL.
    wrong = ok & (has_map != (maps == np.uint64(vmemmap)))
    lost = ~ok & (addresses != 0)
    nowhere = lost & _nowhere(machine, addresses)
    wrong, lost = wrong | nowhere, lost & ~nowhere
    doubtful = np.flatnonzero(~good)
    if len(doubtful) > _MOST_PROBES:
        doubtful = np.flatnonzero(wrong | lost)[:_MOST_PROBES]
    left, searched = _PROBE_BYTES, 0
    for number in doubtful.tolist():
        if left < 0:
            break
        searched += 1
        step = _PROBE_PAGES if lost[number] else pages
        found, cost = _holds_slabs(machine, vmemmap, number * pages, pages, step)
        if found:
            good[number] = True
            wrong[number] |= not lost[number]
        else:
            left -= cost
    damage = tuple(_findings(machine, sections, wrong, lost, good, vmemmap))
    if searched < len(doubtful):
        damage += (_unsearched(len(words), len(doubtful) - searched),)
    last = int(np.flatnonzero(good)[-1]) if good.any() else -1
    if not damage and trusted and highest == last:
        return MemoryMap(vmemmap, None, ())
    return MemoryMap(vmemmap, list(_ranges(good, pages)), damage)


def _nowhere(machine: Machine, addresses: U64) -> Bools:
    # Where no section can be that is in a table of its own: those lie in the direct map.
    if machine.prog["mem_section"].type_.unaliased_kind() == TypeKind.ARRAY:
        return np.zeros(len(addresses), np.bool_)
    inside = machine.memory.is_kernel_address(addresses) & machine.memory.in_direct_map(addresses)
    found: Bools = ~inside | (addresses % np.uint64(machine.memory.word_size) != 0)
    return found


def _holds_slabs(
    machine: Machine, vmemmap: int, pfn: int, pages: int, step: int
) -> Tuple[bool, int]:
    # Struct pages that lie around where there is no section are those of no slab. And how
    # many bytes had to be read to know it.
    layout, memory = machine.layout, machine.memory
    size, begin = machine.structure("struct page").size, _exported(machine)
    word = machine.structure("struct page").offset("_mapcount")
    cost = 0
    for start in range(pfn, pfn + pages, step):
        if vmemmap + start * size < begin:
            continue  # before the lowest page lies what has nothing to do with the map (riscv64)
        try:
            data = memory.read(vmemmap + start * size, step * size)
        except (FaultError, OverflowError):
            continue
        cost += len(data)
        raw = np.frombuffer(data, np.uint8).reshape(-1, size)
        words = numbers_at(raw, word, np.dtype(f"{memory.byteorder}u4"))
        flags = numbers_at(raw, 0, memory.word).astype(np.uint64)
        if layout.is_slab(flags, words.astype(np.uint32)).any():
            return True, cost
    return False, cost


def _findings(
    machine: Machine, sections: _Sections, wrong: Bools, lost: Bools, good: Bools, vmemmap: int
) -> Iterator[Finding]:
    words, highest = sections.words, sections.highest
    rows = np.flatnonzero(wrong)
    if len(rows):
        yield _wrong_section(machine, sections, rows, vmemmap)
    last = int(np.flatnonzero(good)[-1]) if good.any() else 0
    # It stays as it is when memory is taken away.
    if highest is not None and not last <= highest <= _MOST_SECTIONS:
        yield Finding(
            "machine-wrong",
            f"__highest_present_section_nr is {highest}, the last section there is {last}",
            place="__highest_present_section_nr",
            expected=last,
            found=highest,
            measure=Measure("index", "sections"),
            id=2,
        )
    count = int(np.count_nonzero(lost))
    if count:
        yield Finding(
            "unreadable",
            f"mem_section: {count} of {len(words)} sections are not in the target; "
            "their struct pages are taken for there where they can be read",
            place="mem_section",
            expected=len(words),
            found=len(words) - count,
            measure=Measure("count", "sections"),
            id=3,
        )


def _wrong_section(
    machine: Machine, sections: _Sections, rows: npt.NDArray[np.intp], vmemmap: int
) -> Finding:
    # What is said of the first of those that are wrong.
    first, table = int(rows[0]), machine.prog["mem_section"]
    at, found = int(sections.addresses[first]), int(sections.words[first])
    what = f"section {first} at 0x{at:x} has the word 0x{found:x}"
    if at == 0 or not sections.ok[first]:
        slot = _slots(machine, rows[:1].astype(np.uint64))
        if _nowhere(machine, slot)[0]:
            found, at = int(table.value_()), int(table.address_ or 0)
        else:
            found, at = at, int(slot[0])
            what = f"the root of section {first} at 0x{at:x} is {named(found)}"
    more = f", and {len(rows) - 1} others are wrong as well" if len(rows) > 1 else ""
    what = f"mem_section: {what} instead of the memory map 0x{vmemmap:x}{more}"
    if at == table.address_:
        what = f"mem_section is {named(found)}, where no table of sections can be"
    return Finding(
        "memory-map",
        what,
        place="mem_section",
        expected=vmemmap,
        found=found,
        word=at,
        id=1,
    )


def _unsearched(sections: int, number: int) -> Finding:
    what = f"mem_section: {number} of {sections} sections were not searched for slabs"
    return Finding(
        "unreadable",
        what,
        place="mem_section",
        expected=sections,
        found=sections - number,
        measure=Measure("count", "sections"),
        id=8,
    )


def _ranges(good: Bools, pages: int) -> Iterator[Tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    for start, end in edges.reshape(-1, 2).tolist():
        yield start * pages, end * pages
