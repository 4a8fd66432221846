# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What dump_page() prints
-----------------------

The lines that the kernel of the target would print about a page, in the form
of its release. Pointers are shown as they are, where a kernel prints hashes.
"""

from __future__ import annotations

import contextlib
from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np
from drgn import FaultError, Object, container_of
from drgn.helpers.common.format import escape_ascii_string

from ..arguments import structure_of
from ..machine import Machine, machine
from ..machine.columns import Structure
from ..machine.memory import U8
from ..machine.shuffled import is_shuffled
from .blocks import migrate_type, migrate_types
from .mapcount import block_counts
from .owner import owner_lines, page_owner
from .printed import Table, flag_table
from .single import one_page
from .zones import zone_bits

# Above them is ENTIRELY_MAPPED, COMPOUND_MAPPED in Linux 6.2.
_PAGES_MAPPED = (1 << 23) - 1
_NAME_LENGTH = 63  # what is printed of the name of a file


def dump_page(page: Object) -> List[str]:
    """
    Return what ``dump_page()`` would print, line by line.

    >>> page = virt_to_page(0xffff88800098f000)
    >>> dump_page(page)[1]
    'flags: 0x0(node=0|zone=0)'

    :param page: ``struct page *``
    :raises ArgumentError: if *page* is no page.
    :raises ~drgn.FaultError: if the page is not in the dump.
    """
    at = structure_of(page, "page", "folio", "slab")
    return list(_Dump(Object(page.prog_, "struct page *", at)).lines())


class _Dump:
    def __init__(self, page: Object) -> None:
        self.machine = machine(page.prog_)
        self.page = page
        self.folios, self.row = one_page(page)
        self.head = int(self.folios.head[self.row])
        self.word_size = self.machine.memory.word_size
        folio: Optional[Structure] = None
        with contextlib.suppress(LookupError):
            folio = self.machine.structure("struct folio")
        # Since Linux kernel commit 05c5323b2a34 ("mm: track mapcount of large
        # folios in single value") (in v6.10).
        self.is_new = folio is not None and folio.has("_large_mapcount")
        self.folio = folio

    def lines(self) -> Iterator[str]:
        folios, row, head = self.folios, self.row, self.head
        refcount = _signed(int(folios.column(folios.where.refcount, 4)[head]))
        mapping = int(folios.long(folios.where.mapping)[head])
        name = "page: " if self.is_new else f"page:{self.page.value_():016x} "
        shown = self._mapping(mapping)
        yield (
            f"{name}refcount:{refcount} mapcount:{self._mapcount()} mapping:{shown:016x} "
            f"index:{self._index():#x} pfn:{int(folios.pfns[row]):#x}"
        )
        large = bool(folios.tails[row]) or self._is_head()
        if large:
            yield self._large()
        memcg = self._memcg("memcg_data", head)
        if memcg:
            yield f"memcg:{memcg:x}"
        flags = int(folios.flags[head])
        # The kernel does not ask whether it is a slab, whose words are other things.
        kind = "ksm " if mapping & 3 == 3 else "anon " if mapping & 1 else ""
        if shown and not kind:
            yield _mapping_text(self.machine, shown)
        yield f"{kind}flags: {page_flags_text(self.machine, flags)}{self._cma()}"
        yield from self._page_type()
        yield from self._hex("raw", folios.raw[row])
        if self.is_new and large:
            after = min(head + 1, len(folios.raw) - 1)
            yield from self._hex("head", np.concatenate([folios.raw[head], folios.raw[after]]))
        elif head != row:
            yield from self._hex("head", folios.raw[head])
        # Before Linux kernel commit bcfe06bf2622 ("mm: memcontrol: Use helpers to
        # read page's memcg data") (in v5.11), of the page itself.
        memcg = self._memcg("mem_cgroup", row)
        if memcg:
            yield f"page->mem_cgroup:{memcg:x}"
        yield from owner_lines(page_owner(self.page))

    def _index(self) -> int:
        folios, head = self.folios, self.head
        pages = self.machine.structure("struct page")
        name = next((n for n in ("__folio_index", "index") if pages.has(n)), None)
        # page_to_pgoff() goes to the head if CONFIG_TRANSPARENT_HUGEPAGE is on; later
        # kernels always do.
        alone = not self.is_new and "transparent_hugepage_flags" not in self.machine.prog
        of = self.row if alone and not folios.hugetlb(np.array([head]))[0] else head
        index = int(pages.column(folios.raw[of][None, :], name)[0]) if name else 0
        if self._scales_index() and folios.hugetlb(np.array([head]))[0] and self._is_head():
            index <<= int(folios.orders(np.array([head]))[0])
        return index + int(folios.pfns[self.row]) - int(folios.pfns[of])

    def _scales_index(self) -> bool:
        # Before Linux kernel commit a08c7193e4f1 ("mm/filemap: remove hugetlb
        # special casing in filemap.c") (in v6.7), the index of a HugeTLB page
        # counted huge pages. Where there are no symbols, the destructor tells
        # all but Linux 6.6.
        if self.folios.where.hugetlb_dtor_value is not None:
            return True
        try:
            self.machine.prog.symbol("hugetlb_basepage_index")
        except LookupError:
            return False
        return True

    def _mapping(self, mapping: int) -> int:
        # page_mapping() of a slab or of anonymous memory is NULL; since Linux
        # kernel commit 68f2736a8583 ("mm: Convert all PageMovable users to
        # movable_operations") (in v6.0), that of a movable page of a driver too.
        if self.folios.slab()[self.head] or mapping & 1:
            return 0
        if mapping & 2:
            try:
                self.machine.prog.type("struct movable_operations")
            except LookupError:
                return mapping & ~3
            return 0
        return mapping

    def _is_head(self) -> bool:
        flags = int(self.folios.flags[self.head])
        return bool(flags >> self.folios.layout.head_flag & 1)

    def _mapcount(self) -> int:
        folios, row = self.folios, self.row
        word, encoding = int(folios.words[row]), folios.layout.encoding
        own = 0 if encoding.has_type(word) else _signed((word + 1) & 0xFFFFFFFF)
        if self.is_new:
            # Since Linux 6.10, that of the page alone.
            return own
        count = _signed(int(block_counts(folios)[row]))
        # Before Linux kernel commit d99e3140a4d3 ("mm: turn folio_test_hugetlb
        # into a PageType") (in v6.9), a type was printed as the count it would be.
        is_slab = bool(folios.slab()[self.head])
        if encoding.has_type(word) and not is_slab and "hugetlb" not in encoding.types:
            count += _signed((word + 1) & 0xFFFFFFFF)
        return count

    def _large(self) -> str:
        folios, where = self.folios, self.folios.where
        heads = np.array([self.head])

        def count(offset: Optional[int], start: int = 1) -> int:
            if offset is None:
                return 0
            return _signed(int(folios.of_heads(heads, offset, 4)[0])) + start

        order = int(folios.orders(heads)[0])
        entire = count(where.entire_mapcount)
        address = (
            self.page.value_()
            - (int(folios.pfns[self.row]) - int(folios.pfns[self.head])) * where.size
        )
        mapped = count(where.pages_mapped, 0) & _PAGES_MAPPED
        pins = self._pincount()
        pinned = count(pins, 0)
        if self.is_new:
            mapcount = count(where.large_mapcount)
            return (
                f"head: order:{order} mapcount:{mapcount} entire_mapcount:{entire} "
                f"nr_pages_mapped:{mapped} pincount:{pinned}"
            )
        if where.pages_mapped is not None:
            return (
                f"head:{address:016x} order:{order} entire_mapcount:{entire} "
                f"nr_pages_mapped:{mapped} pincount:{pinned}"
            )
        text = f"head:{address:016x} order:{order} compound_mapcount:{entire}"
        # A folio of two pages has no second tail page.
        if pins is None or (order == 1 and pins >= 2 * where.size):
            return text
        return f"{text} compound_pincount:{pinned}"

    def _pincount(self) -> Optional[int]:
        # Where the folio counts its pins.
        if self.folio is not None and self.folio.has("_pincount"):
            return int(self.folio.offset("_pincount"))
        page = self.machine.structure("struct page")
        if page.has("compound_pincount"):
            return page.size + page.offset("compound_pincount")
        # In the second tail page before Linux 5.18.
        name = "hpage_pinned_refcount"
        return 2 * page.size + page.offset(name) if page.has(name) else None

    def _memcg(self, name: str, row: int) -> int:
        page = self.machine.structure("struct page")
        if not page.has(name):
            return 0
        return int(page.column(self.folios.raw[row][None, :], name)[0])

    def _cma(self) -> str:
        # In an area that drivers get contiguous memory from.
        cma = migrate_types(self.machine).get("MIGRATE_CMA")
        if cma is None:
            return ""
        with contextlib.suppress(FaultError):  # captures have no blocks
            if migrate_type(self.machine, int(self.folios.pfns[self.row])) == cma:
                return " CMA"
        return ""

    def _page_type(self) -> Iterator[str]:
        # Since "mm/debug: use %pGt to display page_type in dump_page()" (in
        # v6.4), for all pages; since Linux kernel commit 8f790d0c7cfe ("mm:
        # improve dumping of mapcount and page_type") (in v6.10), for those
        # with a type. Linux 6.4 has the destructor in struct folio.
        encoding, word = self.folios.layout.encoding, int(self.folios.words[self.head])
        prints = self.folio is not None and (
            self.is_new or self.folio.has("_folio_dtor") or self.folio.has("_flags_1")
        )
        if self.is_new and not encoding.has_type(word):
            return
        if prints and not self.machine.structure("struct page").has("compound_mapcount"):
            yield f"page_type: {encoding.text(word)}"

    def _hex(self, label: str, raw: U8) -> Iterator[str]:
        words = np.ascontiguousarray(raw).view(self.machine.memory.word).tolist()
        per_line = 32 // self.word_size
        for start in range(0, len(words), per_line):
            cut = words[start : start + per_line]
            yield f"{label}: {' '.join(f'{word:0{2 * self.word_size}x}' for word in cut)}"


def _mapping_text(machine: Machine, address: int) -> str:
    # As dump_mapping() has it; a kernel that cannot read the memory says so,
    # and a dump that lacks it means something else.
    if is_shuffled(machine):
        return f"aops: address_space 0x{address:x} is shuffled"
    mapping = Object(machine.prog, "struct address_space *", address)
    try:
        text = f"aops:{_symbol(machine, mapping.a_ops.value_())}"
        inode = mapping.host.read_()
        if not inode:
            return text
        text += f" ino:{inode.i_ino.value_():x}"
        first = inode.i_dentry.first.read_()
        if not first:
            return text
        # In newer kernels the union has no name.
        nested = machine.prog.type("struct dentry").has_member("d_u")
        dentry = container_of(first, "struct dentry", "d_u.d_alias" if nested else "d_alias")
        name = dentry.d_name.name.string_()[:_NAME_LENGTH]
    except (AttributeError, FaultError, LookupError):
        # Captures lack the types too.
        return f"aops: address_space 0x{address:x} is not in the target"
    shown = escape_ascii_string(name, escape_backslash=True)
    return f'{text} dentry name{"(?)" if _prints_places(machine) else ""}:"{shown}"'


def _symbol(machine: Machine, address: int) -> str:
    try:
        return machine.prog.symbol(address).name
    except LookupError:
        return f"0x{address:x}"


def _signed(value: int) -> int:
    # A number of 32 bits, or of 64 that extends one.
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def flag_words(machine: Machine, flags: int) -> Tuple[str, ...]:
    """
    Return the names of the flags of a page, as the kernel prints them.

    :param flags: ``page->flags``.
    """
    return tuple(name for mask, name in _page_flags(machine) if flags & mask == mask)


def _page_flags(machine: Machine) -> Table:
    # The kernel's own table, which has its own order; or else the enumerators,
    # of which the first of a value is the name.
    names = flag_table(machine, "pageflag_names")
    if names:
        return names
    seen: Dict[int, str] = {}
    for name, bit in machine.enumerators("pageflags").items():
        if name.startswith("PG_"):
            seen.setdefault(1 << bit, name[len("PG_") :])
    return list(seen.items())


def page_flags_text(machine: Machine, flags: int) -> str:
    """
    Return the flags of a page as ``%pGp`` prints them since Linux 5.12.

    :param flags: ``page->flags``, with node and zone in its upper bits.
    """
    parts = list(flag_words(machine, flags))
    bits = zone_bits(machine)
    node, zone = bits.split(int(bits.place(np.uint64(flags))))
    if machine.nodes_shift:
        parts.append(f"node={node}")
    if bits.zone_width:
        parts.append(f"zone={zone}")
    if not _prints_places(machine):
        return f"{flags:#x}({'|'.join(flag_words(machine, flags))})"
    # What lies below the zone, if it fits there, is the CPU and process that
    # touched the page last.
    width = _last_cpupid_width(machine)
    if width:
        value = flags >> (bits.shift - width) & ((1 << width) - 1)
        parts.append(f"lastcpupid={value:#x}")
    return f"{flags:#x}({'|'.join(parts)})"


def _prints_places(machine: Machine) -> bool:
    # Since Linux 5.12; the next trace of that time is struct folio (in v5.16).
    try:
        machine.prog.type("struct folio")
    except LookupError:
        return False
    return True


def _last_cpupid_width(machine: Machine) -> int:
    # LAST_CPUPID_SHIFT: 8 bits of the process and as many as the CPUs need, or
    # nothing if struct page has a member for it, or without NUMA balancing.
    page = machine.structure("struct page")
    try:
        cpus = machine.prog["__per_cpu_offset"].type_.length or 1
        machine.prog["sysctl_numa_balancing_mode"]
    except LookupError:
        return 0
    width = 8 + max(cpus - 1, 0).bit_length()
    used = machine.enumerators("pageflags").get("__NR_PAGEFLAGS", 32)
    fits = width <= zone_bits(machine).shift - used
    return 0 if page.has("_last_cpupid") or not fits else width


def section_number(machine: Machine, pfn: int) -> Optional[int]:
    """Return the number of the section of memory a page frame is in; ``None`` without any."""
    try:
        return pfn >> (int(machine.prog["SECTION_SIZE_BITS"]) - machine.memory.page_shift)
    except LookupError:
        return None
