# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One page
--------

What the kernel would print about it, and what a person asks next.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Annotated, Dict, List, Optional, Tuple

import numpy as np
from drgn import FaultError, IntegerLike, Object, Program
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.mm import pfn_to_page

from ..allocators.vectors import vectors
from ..arguments import address_of, is_null
from ..errors import ArgumentError, TargetError
from ..machine import Machine, machine
from ..machine.kfence import kfence_pool
from ..machine.shuffled import is_shuffled
from ..machine.symbols import symbol_at
from ..machine.translation import physical_address
from ..pages.dump import dump_page, flag_words, section_number
from ..pages.flagnames import flag_names
from ..pages.folios import UNTYPED, Folios
from ..pages.kinds import MEANINGS, TAIL, KindFinder
from ..pages.kpageflags import stable_page_flags
from ..pages.mapcount import block_counts
from ..pages.owner import PageOwner, page_owner
from ..pages.scan import no_pages, page_ranges
from ..pages.sections import online_ranges
from ..pages.single import free_block, one_page
from ..pages.survey import survey
from ..pages.zones import zone_bits, zone_names
from ..records import Record
from ..shapes import HIDDEN, Address, Hex, Word
from ..strays import judge_machine
from .describe import describe
from .lookup import lookup
from .memcg import page_memcg, slab_memcg
from .names import known_as
from .proven import shelf
from .states import ObjectState

_SYMBOLS = {
    ObjectState.IN_USE: "#",
    ObjectState.FREE: ".",
    ObjectState.WAITING: "w",
    ObjectState.UNKNOWN: "?",
}


@dataclass(frozen=True)
class SlabOfPage(Record):
    """The slab that a page belongs to."""

    slab: Address
    """``struct slab *``"""
    cache: Optional[str]
    """Name of the slab cache; ``None`` if it is of none."""
    slab_cache: Optional[Address]
    """``struct kmem_cache *``"""
    objects: int = 0
    """Objects of the slab."""
    counted: int = 0
    """Objects in use by the kernel's own count."""
    map: str = ""
    """A character for each object: ``#`` in use, ``.`` free, ``w`` waiting, ``?`` unknown."""
    free: Dict[str, int] = field(default_factory=dict)
    """Free and waiting objects by the place that records them."""
    findings: Tuple[str, ...] = ()
    """What the check says about this slab."""
    guarded: Optional[str] = None
    """What KFENCE has there, if the page belongs to its pool and to no slab."""
    stride: Annotated[int, HIDDEN] = 0
    """Bytes from one object to the next."""


@dataclass(frozen=True)
class PageInfo(Record):
    """What is known about one page; what does not apply is ``None`` or empty."""

    pfn: int
    """Page frame number."""
    page: Address
    """``struct page *``"""
    physical: Address
    """Physical address."""
    dump: List[str]
    """What ``dump_page()`` would print."""
    kind: str
    """As in the census."""
    meaning: str
    """What such pages are, in a few words."""
    word: Word
    """The page_type word of the page itself."""
    word_meaning: str
    """The same for people."""
    types: Tuple[str, ...]
    """Types of the page itself."""
    head: int
    """Page frame number of the head page; that of the page if it is no tail."""
    order: int
    """Order of the compound page."""
    flags: Hex
    """``page->flags`` of the page itself."""
    flag_names: Tuple[str, ...]
    """Names of those that are set."""
    kpageflags: Hex
    """Word of ``/proc/kpageflags``."""
    kpageflags_names: Tuple[str, ...]
    """Names of the bits that are set in it."""
    refcount: int
    """References to the page."""
    mapcount: int
    """Number of ``/proc/kpagecount``."""
    node: int
    """NUMA node."""
    zone: str
    """Name of the zone."""
    section: Optional[int]
    """Number of the memory section; ``None`` where there are none."""
    online: bool
    """Whether it belongs to memory that is in use."""
    mapping: Optional[str] = None
    """What ``page->mapping`` leads to, in words."""
    buddy: Optional[Tuple[int, int]] = None
    """First page frame and order of the free block the page lies in."""
    slab: Optional[SlabOfPage] = None
    """The slab it belongs to, if it does."""
    memcg: Optional[str] = None
    """Memory cgroup the page or its objects are charged to."""
    owner: Optional[PageOwner] = None
    """Who allocated it and freed it last, if the kernel keeps that."""
    owner_missing: Optional[str] = None
    """Why that is not known, although the kernel keeps it."""
    findings: Tuple[str, ...] = ()
    """What the check says of this page; of a slab, ``slab`` has it."""


def page_info(prog: Program, which: IntegerLike) -> PageInfo:
    """
    Return everything about one page.

    >>> info = page_info(prog, 0x98f)
    >>> info.kind, info.slab.cache, info.slab.objects, info.slab.counted
    ('slab', 'kmalloc-64', 64, 16)

    :param which: A page frame number, a virtual address, or ``struct page *``.
    :raises ArgumentError: if there is no such page.
    :raises TargetError: if it is not in the target.
    """
    if is_null(which):
        raise ArgumentError("NULL is no page")
    with machine(prog).moment():
        pfn = find_pfn(machine(prog), address_of(which))
        page = pfn_to_page(prog, pfn)
        try:
            return _info(machine(prog), pfn, page)
        except FaultError as e:
            raise TargetError(f"the struct page of PFN {pfn:#x} is not in the target: {e}") from e


def find_pfn(machine: Machine, value: int) -> int:
    """
    Return the page frame that a number means.

    :param value: A page frame number, a virtual address, or ``struct page *``.
    :raises ArgumentError: if there is no such page.
    """
    value &= (1 << 8 * machine.memory.word_size) - 1
    pfn, said = _meant(machine, value)
    if any(start <= pfn < end for start, end in page_ranges(machine)):
        return pfn
    if known := known_as(machine, value):
        raise ArgumentError(f"0x{value:x} is no page{known}")
    raise ArgumentError(no_pages(machine, said))


def _meant(machine: Machine, value: int) -> Tuple[int, str]:
    source, size = machine.memory, machine.page.size
    vmemmap, last = machine.memory_map.vmemmap, max(end for _, end in page_ranges(machine))
    # Where the direct map begins at 0 (s390x), a number of a page is an address, too:
    # one in the first pages, which hold no struct page and no slab.
    is_address = source.is_kernel_address(np.array([value], np.uint64))[0]
    if not is_address or (source.linear_base == 0 and value < last):
        return value, f"PFN {value:#x}"
    if vmemmap <= value < vmemmap + last * size:
        pfn, beyond = divmod(value - vmemmap, size)
        if beyond:
            raise ArgumentError(
                f"0x{value:x} is in the memory map but no struct page; "
                f"that of PFN {pfn:#x} is 0x{value - beyond:x}"
            )
        return pfn, f"PFN {pfn:#x}"
    if source.linear_base <= value < source.linear_base + (last << source.page_shift):
        pfn = (value - source.linear_base) >> source.page_shift
        return pfn, f"PFN {pfn:#x}"
    # Kernel image, vmalloc and the like: the page tables know.
    try:
        physical = physical_address(machine, value)
    except (FaultError, LookupError):
        raise ArgumentError(
            f"0x{value:x} is not mapped, or its page tables are not there"
            + known_as(machine, value)
        ) from None
    return physical >> source.page_shift, f"0x{value:x}, physical 0x{physical:x},"


def _info(machine: Machine, pfn: int, page: Object) -> PageInfo:
    layout, encoding = machine.layout, machine.layout.encoding
    folios, row = one_page(page)
    head = int(folios.head[row])
    word, flags = int(folios.words[row]), int(folios.flags[row])
    bits = zone_bits(machine)
    node, zone = bits.split(int(bits.place(np.uint64(flags))))
    large = bool(folios.tails[row]) or bool(int(folios.flags[head]) >> layout.head_flag & 1)
    types = encoding.types_of(word)
    if layout.slab_flag is not None and folios.slab()[row]:
        types = (*types, "slab")
    block = free_block(page)
    kernel_flags = stable_page_flags(page)
    kind = _kind(machine, folios, head, block is not None)
    slab = _slab(machine, folios, head) if kind == "slab" else None
    owner = page_owner(page)
    refcount = int(folios.column(folios.where.refcount, 4)[head])
    return PageInfo(
        pfn=pfn,
        page=page.value_(),
        physical=pfn << machine.memory.page_shift,
        dump=dump_page(page),
        kind=kind,
        meaning=MEANINGS.get(kind, "a page type of this kernel"),
        word=word,
        word_meaning=_word_meaning(folios, head, row),
        types=types,
        head=int(folios.pfns[head]),
        order=int(folios.orders(np.array([head]))[0]) if large else 0,
        flags=flags,
        flag_names=flag_words(machine, flags),
        kpageflags=kernel_flags,
        kpageflags_names=flag_names(kernel_flags),
        refcount=refcount - (1 << 32) if refcount >> 31 else refcount,
        mapcount=int(block_counts(folios)[row]),
        node=node,
        zone=zone_names(machine).get((node, zone), f"zone {zone}"),
        section=section_number(machine, pfn),
        online=any(start <= pfn < end for start, end in online_ranges(machine)),
        mapping=_mapping(machine, folios, head),
        buddy=block,
        slab=slab,
        memcg=_memcg(machine, folios, head, slab),
        owner=owner if isinstance(owner, PageOwner) else None,
        owner_missing=owner if isinstance(owner, str) else None,
        findings=_findings(machine, folios, row, block is not None) if slab is None else (),
    )


def _findings(machine: Machine, folios: Folios, row: int, free: bool) -> Tuple[str, ...]:
    # The memory map is looked through only if the page is not as nearly all are.
    if machine.is_live or not _is_odd(machine, folios, row, free):
        return ()
    page = machine.page.vmemmap + int(folios.pfns[row]) * machine.page.size
    return tuple(
        finding.message
        for finding in judge_machine(lookup(machine).whole)
        if finding.page == page and shelf(finding) == "findings"
    )


def _is_odd(machine: Machine, folios: Folios, row: int, free: bool) -> bool:
    encoding, word = machine.layout.encoding, int(folios.words[row])
    count = int(folios.column(folios.where.refcount, 4)[row])
    buddy = encoding.is_type(word, "buddy")
    if not free:
        typed = encoding.types_of(word) and block_counts(folios)[row]
        return bool(count >> 31 or buddy or typed or (folios.tails[row] and count))
    fields = machine.structure("struct page")
    members = [name for name in ("mapping", "memcg_data", "mem_cgroup") if fields.has(name)]
    held = any(int(fields.column(folios.raw[row][None, :], name)[0]) for name in members)
    odd = word not in (int(UNTYPED), encoding.set(int(UNTYPED), "buddy"))
    flags = flag_words(machine, int(folios.flags[row]))
    return bool(held or odd or count or folios.tails[row] or flags)


def _kind(machine: Machine, folios: Folios, head: int, free: bool) -> str:
    # As the census has it.
    if free:
        return "buddy"
    pfn = int(folios.pfns[head])
    own, row = one_page(pfn_to_page(machine.prog, pfn))
    finder = KindFinder(machine, [(pfn - row, pfn - row + len(own))])
    finder.take(own.block)
    finder.finish()
    name = finder.names[int(finder.kinds[row]) & ~int(TAIL)]
    if name != "pcp":
        return name
    # Only the lists of all CPUs tell, and so only a look at all pages.
    found = survey(machine)
    piece = next(piece for piece in found.pieces if piece.pfn <= pfn < piece.end)
    return found.names[int(piece.kinds[pfn - piece.pfn]) & ~int(TAIL)]


def _word_meaning(folios: Folios, head: int, row: int) -> str:
    encoding, layout = folios.layout.encoding, folios.layout
    word = int(folios.words[row])
    if row == head and layout.active == "word" and folios.slab()[row]:
        return f"slab, by its flag; active {word}"
    meaning = encoding.explain(word)
    if row != head:
        told = encoding.explain(int(folios.words[head]))
        return f"{meaning}; a tail, whose head has 0x{int(folios.words[head]):08x}: {told}"
    return meaning


def _mapping(machine: Machine, folios: Folios, head: int) -> Optional[str]:
    value = int(folios.long(folios.where.mapping)[head])
    if not value or folios.slab()[head] or value >> 47 == 0:
        return None
    if value & 3 == 1:
        return f"anonymous, anon_vma 0x{value - 1:x}"
    if value & 3 == 3:
        return f"merged by KSM, stable node 0x{value - 3:x}"
    if value & 3 == 2:
        return f"movable page of a driver, 0x{value - 2:x}"
    text = f"address_space 0x{value:x}"
    if is_shuffled(machine):
        return f"{text}, whose members are in another order than the debug info says"
    mapping = Object(machine.prog, "struct address_space *", value)
    with contextlib.suppress(AttributeError, FaultError, LookupError):
        operations = mapping.a_ops.value_()
        with contextlib.suppress(LookupError):
            text += f", {symbol_at(machine, operations).name}"
        inode = mapping.host.read_()
        if inode:
            name = escape_ascii_string(inode.i_sb.s_type.name.string_(), escape_backslash=True)
            text += f", inode {inode.i_ino.value_()} of {name}"
    return text


def _memcg(
    machine: Machine, folios: Folios, head: int, slab: Optional[SlabOfPage]
) -> Optional[str]:
    page = machine.structure("struct page")
    name = next((name for name in ("memcg_data", "mem_cgroup") if page.has(name)), None)
    value = int(page.column(folios.raw[head][None, :], name)[0]) if name else 0
    if slab is not None:
        start, step = vectors(machine, np.array([slab.slab], np.uint64), slab.stride)
        return slab_memcg(machine, value, slab.objects, (int(start[0]), int(step[0])))
    return page_memcg(machine, value)


def _slab(machine: Machine, folios: Folios, head: int) -> SlabOfPage:
    vmemmap = machine.memory_map.vmemmap
    address = vmemmap + int(folios.pfns[head]) * folios.where.size
    reading, source = lookup(machine), machine.memory
    start = source.phys_to_virt(folios.pfns[head : head + 1] << np.uint64(source.page_shift))
    if machine.settled(kfence_pool).contains(start)[0]:
        info = describe(reading, int(start[0]))
        told = f"{info.meaning}, {info.state}" if info.state else info.meaning
        return SlabOfPage(address, info.cache, info.slab_cache, guarded=told)
    located = reading.of_page(address)
    if located is None or located.number < 0:
        return SlabOfPage(address, None, None)
    judged = located.judged
    facts, slabs = judged.ledger.facts, judged.ledger.slabs
    at = np.flatnonzero(slabs.page == np.uint64(address))
    if not len(at):
        return SlabOfPage(address, facts.name, facts.address)
    objects = judged.objects.take(judged.objects.slab == at[0])
    places: Dict[str, int] = {}
    for found in objects:
        if found.place is not None and found.state != ObjectState.IN_USE.spelled:
            places[found.place] = places.get(found.place, 0) + 1
    return SlabOfPage(
        address,
        facts.name,
        facts.address,
        objects=len(objects),
        counted=int(slabs.counted[at[0]]),
        map="".join(_SYMBOLS[ObjectState(state)] for state in objects.state.tolist()),
        free=places,
        findings=tuple(f.message for f in judged.findings if f.slab == address),
        stride=facts.stride,
    )
