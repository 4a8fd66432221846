# SPDX-License-Identifier: LGPL-2.1-or-later
"""Made-up kernels."""

from __future__ import annotations

from typing import Any, Dict, List, Literal, Optional, Tuple, Union

from drgn import (
    Architecture,
    Object,
    Platform,
    PlatformFlags,
    Program,
    Type,
    TypeKind,
    offsetof,
    sizeof,
)

from drgn_slabtype.pagetype.encoding import ENCODINGS

from .specs import SPECS, Spec
from .types import Types

PHYS_BASE = -(1 << 24)
VMEMMAP = {8: 0xFFFFEA0000000000, 4: 0xF6000000}
PAGE_SIZE = 4096


class Kernel:
    """A made-up kernel with a memory map of :attr:`num_pages` pages."""

    def __init__(
        self, spec: Spec, little: bool = True, bits: int = 64, num_pages: int = 64
    ) -> None:
        self.spec = spec
        self.num_pages = num_pages
        flags = PlatformFlags(0)
        if little:
            flags |= PlatformFlags.IS_LITTLE_ENDIAN
        if bits == 64:
            flags |= PlatformFlags.IS_64_BIT
        arch = {
            (True, 64): Architecture.X86_64,
            (False, 64): Architecture.S390X,
            (True, 32): Architecture.I386,
            (False, 32): Architecture.ARM,
        }[little, bits]
        self.prog = Program(Platform(arch, flags))
        self.little = little
        self.word_size = bits // 8
        self.types = Types(self.prog)
        self._define(spec)
        self._memory: List[Tuple[int, bytearray]] = []
        self.objects: Dict[str, Object] = {}
        """Variables of the kernel by name; add to it as needed."""
        self.prog.register_object_finder("synthetic", self._find_object, enable_index=0)
        self.prog.set_linux_kernel_custom(self.vmcoreinfo(), False)
        self.vmemmap = VMEMMAP[self.word_size]
        self.add_memory(self.vmemmap, sizeof(self.prog.type("struct page")) * num_pages)
        for pfn in range(num_pages):
            self.write_page(pfn, word=0xFFFFFFFF)

    @property
    def encoding(self) -> str:
        """The name of the encoding that detection must find on this machine."""
        if self.spec.halves and self.spec.page_type_first == self.little:
            return "rfc-v1-low"
        return self.spec.encoding

    def vmcoreinfo(self) -> str:
        """Return the VMCOREINFO of the kernel."""
        page = self.prog.type("struct page")
        lines = [
            "OSRELEASE=0.0.0-synthetic",
            f"PAGESIZE={PAGE_SIZE}",
            "SYMBOL(swapper_pg_dir)=1000",
            "SYMBOL(_stext)=1000",
            "KERNELOFFSET=0",
            f"NUMBER(phys_base)={PHYS_BASE}",
            "NUMBER(KERNEL_IMAGE_SIZE)=1073741824",
            "NUMBER(pgtable_l5_enabled)=0",
            f"SIZE(page)={sizeof(page)}",
            f"OFFSET(page._mapcount)={offsetof(page, '_mapcount')}",
            f"NUMBER(PG_head_mask)={1 << self.spec.flags['PG_head']}",
        ]
        numbers = dict(self.spec.numbers)
        if "PG_slab" in self.spec.flags:
            numbers["PG_slab"] = self.spec.flags["PG_slab"]
        lines += [f"NUMBER({name})={value}" for name, value in numbers.items()]
        return "\n".join(lines) + "\n"

    # Types.

    def _define(self, spec: Spec) -> None:
        t = self.types
        t.enum("pageflags", spec.flags)
        if spec.pagetype:
            t.enum("pagetype", spec.pagetype)
        t.enum("compound_dtor_id", {"NULL_COMPOUND_DTOR": 0, "HUGETLB_PAGE_DTOR": 2})
        self.atomic = t.typedef("atomic_t", t.struct(None, ("counter", t.int)))
        self.list_head = t.struct("list_head", ("next", t.pointer), ("prev", t.pointer))
        if spec.subsections:
            t.struct("mem_section_usage", ("subsection_map", t.ulong))
        zone = [("name", t.pointer)]
        if spec.compound == "mask":
            zone.append(("vmemmap_tails", t.pointer))
        t.struct("zone", *zone)
        if spec.allocator == "SLAB":
            t.typedef("freelist_idx_t", t.known["unsigned char"])
        self._define_cache(spec.allocator)
        page = self._define_page(spec)
        dtor = [("_folio_dtor", t.u8)] if spec.dtor == "folio" else []
        second = t.struct(
            None, ("_flags_1", t.ulong), ("_head_1", t.ulong), *dtor, ("_folio_order", t.u8)
        )
        t.struct("folio", ("page", page), (None, second))
        if spec.slab != "page":
            self._define_slab(spec)

    def _define_cache(self, allocator: str) -> None:
        t = self.types
        first: Dict[str, List[Tuple[str, Type]]] = {
            "SLAB": [("cpu_cache", t.pointer), ("num", t.uint), ("gfporder", t.uint)],
            "SLUB": [("cpu_slab", t.pointer), ("offset", t.uint), ("oo", t.uint)],
            "SLOB": [],
        }
        t.struct(
            "kmem_cache", *first[allocator], ("object_size", t.uint), ("size", t.uint),
            ("name", t.pointer), ("list", self.list_head),
        )  # fmt: skip

    def _counters(self) -> Type:
        t = self.types
        bits = t.struct(None, ("inuse", t.uint, 16), ("objects", t.uint, 15), ("frozen", t.uint, 1))
        return t.union(("counters", t.ulong), (None, bits))

    def _halves(self) -> Type:
        t = self.types
        members = [("active", t.u16), ("page_type", t.u16)]
        return t.struct(None, *(reversed(members) if self.spec.page_type_first else members))

    def _define_page(self, spec: Spec) -> Type:
        t = self.types
        flags = t.ulong
        if spec.memdesc:
            flags = t.typedef("memdesc_flags_t", t.struct(None, ("f", t.ulong)))
        tail = "compound_info" if spec.compound == "mask" else spec.compound
        lru = [("lru", self.list_head), ("mapping", t.pointer)]
        dtor = [("compound_dtor", t.u8)] if spec.dtor == "page" else []
        uses = [
            t.struct(None, *lru, ("index", t.ulong), ("private", t.ulong)),
            t.struct(None, (tail, t.ulong), *dtor, ("compound_order", t.u8)),
        ]
        word: List[Tuple[Any, ...]] = [("_mapcount", self.atomic)]
        word.append((None, self._halves()) if spec.halves else ("page_type", t.uint))
        if spec.slab == "page":
            third = t.union(("s_mem", t.pointer), (None, self._counters()))
            uses.append(
                t.struct(
                    None, ("slab_list", self.list_head), ("slab_cache", t.pointer),
                    ("freelist", t.pointer), (None, third),
                )
            )  # fmt: skip
            word.append(("active", t.uint))
        return t.struct(
            "page",
            ("flags", flags),
            (None, t.union(*((None, use) for use in uses))),
            (None, t.union(*word)),
            ("_refcount", self.atomic),
            (spec.memcg, t.ulong),
        )

    def _define_slab(self, spec: Spec) -> None:
        t = self.types
        slab_list, slab_cache = ("slab_list", self.list_head), ("slab_cache", t.pointer)
        order = [slab_list, slab_cache] if spec.slab == "5.17" else [slab_cache, slab_list]
        members: List[Tuple[Any, ...]] = [("__page_flags", t.ulong), *order]
        word: Tuple[Any, ...] = ("__unused", t.uint)
        if spec.allocator == "SLAB" and spec.active == "packed":
            members += [("freelist", t.pointer), ("active", t.u16), ("s_mem_offset", t.u16)]
            if self.word_size == 8:
                members.append(("__unused_1", t.uint))
        elif spec.allocator == "SLAB":
            members += [("freelist", t.pointer), ("s_mem", t.pointer)]
            word = ("page_type" if spec.active == "page_type" else "active", t.uint)
            if spec.halves:
                word = (None, self._halves())
        elif spec.slab == "6.19":
            counters = t.struct(
                "freelist_counters", ("freelist", t.pointer), (None, self._counters())
            )
            members.append((None, counters))
        else:
            members += [("freelist", t.pointer), (None, self._counters())]
        if spec.slab in ("6.10", "6.19"):
            word = ("__page_type", t.uint)
        t.struct("slab", *members, word, ("__page_refcount", self.atomic), ("memcg_data", t.ulong))

    def _find_object(self, prog: Program, name: str, flags: Any, filename: Any) -> Optional[Object]:
        if name in self.objects:
            return self.objects[name]
        for type in self.types.known.values():
            if type.kind is TypeKind.ENUM:
                for enumerator in type.enumerators or ():
                    if enumerator.name == name:
                        return Object(prog, type, value=enumerator.value)
        return None

    # Memory.

    def add_memory(self, address: int, size: int) -> bytearray:
        """Back a range of virtual addresses with zeroes, and return them to be changed."""
        data = bytearray(size)

        def read(start: int, count: int, offset: int, physical: bool) -> bytes:
            return bytes(data[offset : offset + count])

        self.prog.add_memory_segment(address, size, read, False)
        self._memory.append((address, data))
        return data

    def write(self, address: int, value: bytes) -> None:
        """Write bytes."""
        for start, data in self._memory:
            if start <= address and address + len(value) <= start + len(data):
                data[address - start : address - start + len(value)] = value
                return
        raise ValueError(f"nothing at {address:#x}")

    def poke(self, obj: Object, value: int) -> None:
        """Write an integer or pointer, a bit field too, where a reference object is."""
        assert obj.address_ is not None
        width = obj.bit_field_size_
        order: Literal["little", "big"] = "little" if self.little else "big"
        if width is None:
            mask = (1 << 8 * sizeof(obj)) - 1
            self.write(obj.address_, (value & mask).to_bytes(sizeof(obj), order))
            return
        first = obj.bit_offset_ or 0
        size = -(-(first + width) // 8)
        shift = first if self.little else 8 * size - first - width
        old = int.from_bytes(self.prog.read(obj.address_, size), order)
        new = old & ~(((1 << width) - 1) << shift) | (value & ((1 << width) - 1)) << shift
        self.write(obj.address_, new.to_bytes(size, order))

    # The memory map.

    def page(self, pfn: int) -> Object:
        """Return a ``struct page *``."""
        type = self.prog.pointer_type(self.prog.type("struct page"))
        return Object(
            self.prog, type, value=self.vmemmap + pfn * sizeof(self.prog.type("struct page"))
        )

    def slab(self, pfn: int) -> Object:
        """Return a ``struct slab *``, or ``struct page *`` where there is no such type."""
        if self.spec.slab == "page":
            return self.page(pfn)
        type = self.prog.pointer_type(self.prog.type("struct slab"))
        return Object(self.prog, type, value=self.page(pfn).value_())

    def write_page(self, pfn: int, flags: Optional[int] = None, word: Optional[int] = None) -> None:
        """Write the flags and the page type word of a page."""
        page = self.page(pfn)
        if flags is not None:
            self.poke(page.flags.f if self.spec.memdesc else page.flags, flags)
        if word is not None:
            self.poke(page._mapcount.counter, word)

    def make_compound(self, pfn: int, order: int) -> None:
        """Make 2**order pages one compound page."""
        head = self.page(pfn)
        self.write_page(pfn, flags=1 << self.spec.flags["PG_head"])
        value = head.value_() + 1
        size = sizeof(head.type_.type)
        # The mask form needs struct pages of a power-of-two size.
        if self.spec.compound == "mask" and not size & (size - 1):
            value = -(size << order) & ((1 << 8 * self.word_size) - 1) | 1
        for i in range(1, 1 << order):
            tail = self.page(pfn + i)
            self.poke(
                tail.compound_head if self.spec.compound == "compound_head" else tail.compound_info,
                value,
            )

    def make_slab(self, pfn: int, order: int = 0, active: int = 0) -> None:
        """Mark a page or compound page as a slab, with SLAB's active count."""
        if order:
            self.make_compound(pfn, order)
        encoding, spec = ENCODINGS[self.encoding], self.spec
        word = encoding.idle
        if "PG_slab" in spec.flags:
            head = 1 << spec.flags["PG_head"] if order else 0
            self.write_page(pfn, flags=head | 1 << spec.flags["PG_slab"])
        else:
            word = encoding.set(word, "slab")
        if spec.active == "page_type":
            word = encoding.with_active(word, active)
        elif spec.active == "word":
            word = active
        self.write_page(pfn, word=word)
        if spec.active == "packed":
            self.poke(self.slab(pfn).active, active)


def make_kernel(layout: Union[str, Spec], little: bool = True, bits: int = 64) -> Kernel:
    """
    Make up a kernel.

    :param layout: A key of :data:`SPECS`, or a changed one of its values.
    """
    return Kernel(SPECS[layout] if isinstance(layout, str) else layout, little, bits)
