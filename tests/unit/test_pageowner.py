# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who allocated a page, on made-up kernels of each release."""

from __future__ import annotations

import struct
from typing import Any, Dict, List

import pytest
from drgn import Object, Symbol, SymbolBinding, SymbolKind

from drgn_slabtype.pages.owner import PageOwner, owner_lines, page_owner
from tests.direct_map import make_mapped_kernel
from tests.synthetic.kernel import Kernel

SECTIONS, EXT, DEPOT, TEXT, STRINGS = (0xFFFF888000100000 + n * 0x10000 for n in range(5))
EXT_SIZE, OFFSET, PFN = 128, 8, 5
# What each release added to struct page_owner.
RELEASES: Dict[str, List[str]] = {
    "5.10": [],
    "5.11": ["ts_nsec", "pid"],
    "5.13": ["ts_nsec", "free_ts_nsec", "pid"],
    "5.18": ["ts_nsec", "free_ts_nsec", "comm", "pid", "tgid"],
    "6.10": ["ts_nsec", "free_ts_nsec", "comm", "pid", "tgid", "free_pid", "free_tgid"],
}
VALUES: Dict[str, Any] = {
    "order": 3,
    "last_migrate_reason": -1,
    "gfp_mask": 0xCC0 | 0x10,
    "ts_nsec": 5_000_000_123,
    "free_ts_nsec": 7,
    "pid": 42,
    "tgid": 41,
    "free_pid": 2,
    "free_tgid": 1,
}


def _text(kernel: Kernel, place: int, texts: List[str]) -> Object:
    # An array of strings.
    at, pointers = place + 0x800, []
    for text in texts:
        kernel.write(at, text.encode() + b"\0")
        pointers.append(at)
        at += len(text) + 1
    kernel.write(place, struct.pack(f"<{len(pointers)}Q", *pointers))
    char = kernel.prog.pointer_type(kernel.types.known["char"])
    return Object(kernel.prog, kernel.types.array(char, len(texts)), address=place)


def make_kernel(release: str = "6.10", enabled: int = 1, has_ext: bool = True) -> Kernel:
    """Return a kernel whose page 5 has been allocated, with a stack of two functions."""
    kernel = make_mapped_kernel()
    prog, t, objects = kernel.prog, kernel.types, kernel.objects
    for place in (SECTIONS, DEPOT, STRINGS):
        kernel.add_memory(place, 0x4000)
    if has_ext:
        kernel.add_memory(EXT, 64 * EXT_SIZE)

    t.struct("page_ext", ("flags", t.ulong))
    t.enum("page_ext_flags", {"PAGE_EXT_OWNER": 0, "PAGE_EXT_OWNER_ALLOCATED": 1})
    key = t.struct("static_key", ("enabled", kernel.atomic))
    t.struct("static_key_false", ("key", key))
    value = {"key": {"enabled": {"counter": enabled}}}
    objects["page_owner_inited"] = Object(prog, t.known["struct static_key_false"], value=value)
    ops = t.struct("page_ext_operations", ("offset", t.ulong), ("size", t.ulong))
    objects["page_owner_ops"] = Object(prog, ops, value={"offset": OFFSET, "size": 80})
    objects["page_ext_size"] = Object(prog, t.ulong, value=EXT_SIZE)
    section = t.struct("mem_section", ("section_mem_map", t.ulong), ("page_ext", t.pointer))
    objects["mem_section"] = Object(prog, t.array(section, 1), address=SECTIONS)
    objects["SECTIONS_PER_ROOT"] = Object(prog, t.ulong, value=1)
    objects["SECTION_SIZE_BITS"] = Object(prog, t.int, value=18)  # 64 pages
    kernel.write(SECTIONS, struct.pack("<QQ", 0, EXT))

    kinds = {
        "comm": t.array(t.known["char"], 16),
        "ts_nsec": t.ulong,
        "free_ts_nsec": t.ulong,
    }
    depot = t.typedef("depot_stack_handle_t", t.uint)
    owner = t.struct(
        "page_owner",
        ("order", t.u16),
        ("last_migrate_reason", t.typedef("short", prog.int_type("short", 2, True))),
        ("gfp_mask", t.uint),
        ("handle", depot),
        ("free_handle", depot),
        *((name, kinds.get(name, t.int)) for name in RELEASES[release]),
    )
    _make_depot(kernel)
    _make_names(kernel)
    if has_ext:
        place = EXT + PFN * EXT_SIZE
        kernel.write(place, struct.pack("<Q", 3))
        record = Object(prog, owner, address=place + OFFSET)
        for name, number in {**VALUES, "handle": 1}.items():
            if hasattr(record, name):
                kernel.poke(getattr(record, name), number)
        if "comm" in RELEASES[release]:
            kernel.write(record.comm.address_, b"lab\x1b\0")
    return kernel


def _make_depot(kernel: Kernel) -> None:
    prog, t = kernel.prog, kernel.types
    bits = t.struct(None, ("pool_index", t.uint, 21), ("offset", t.uint, 10), ("valid", t.uint, 1))
    parts = prog.union_type("handle_parts", 4, [*t.union(("handle", t.uint), (None, bits)).members])
    t.known["union handle_parts"] = parts
    record = t.struct(
        "stack_record", ("size", t.uint), ("handle", parts), ("entries", t.array(t.ulong, 4))
    )
    assert record.size == 40
    pools = t.array(t.pointer, 2)
    kernel.objects["stack_pools"] = Object(prog, pools, address=DEPOT + 0x1000)
    kernel.write(DEPOT + 0x1000, struct.pack("<QQ", 0, DEPOT))
    kernel.write(DEPOT, struct.pack("<II4Q", 2, 1, TEXT + 0x12, TEXT + 0x105, 0, 0))
    symbols = [
        Symbol(name, address, 0x80, SymbolBinding.GLOBAL, SymbolKind.FUNC)
        for name, address in (("post_alloc_hook", TEXT), ("prep_new_page", TEXT + 0x100))
    ]

    def find(prog: Any, name: Any, address: Any, one: bool) -> List[Symbol]:
        if address is None:
            return []
        return [s for s in symbols if s.address <= address < s.address + s.size]

    prog.register_symbol_finder("synthetic", find, enable_index=0)


def _make_names(kernel: Kernel) -> None:
    prog, t, objects = kernel.prog, kernel.types, kernel.objects
    types = ["Unmovable", "Movable", "Reclaimable"]
    objects["migratetype_names"] = _text(kernel, STRINGS, types)
    objects["migrate_reason_names"] = _text(kernel, STRINGS + 0x1000, ["compaction"])
    char = prog.pointer_type(t.known["char"])
    entry = t.struct("trace_print_flags", ("mask", t.ulong), ("name", char))
    names = _text(kernel, STRINGS + 0x2000, ["GFP_KERNEL", "__GFP_IO"])
    table = struct.pack("<QQQQQQ", 0xCC0, names[0].value_(), 0x40, names[1].value_(), 0, 0)
    kernel.write(STRINGS + 0x3000, table)
    objects["gfpflag_names"] = Object(prog, t.array(entry, 3), address=STRINGS + 0x3000)


def _owner(kernel: Kernel) -> PageOwner:
    owner = page_owner(kernel.page(PFN))
    assert isinstance(owner, PageOwner), owner
    return owner


@pytest.mark.parametrize("release", RELEASES)
def test_owner_of_each_release(release: str) -> None:
    owner = _owner(make_kernel(release))
    assert (owner.allocated, owner.order, owner.gfp_mask) == (True, 3, 0xCD0)
    assert (owner.gfp, owner.migratetype) == ("GFP_KERNEL|0x10", "Reclaimable")
    assert owner.stack == ("post_alloc_hook+0x12", "prep_new_page+0x5")
    assert (owner.free_stack, owner.has_free_stack) == ((), False)
    for name in ("ts_nsec", "free_ts_nsec", "pid", "tgid", "free_pid", "free_tgid"):
        expected = VALUES[name] if name in RELEASES[release] else None
        assert getattr(owner, name) == expected
    # Names are data: nothing of them reaches a terminal as it is.
    assert owner.comm == ("lab\\x1b" if "comm" in RELEASES[release] else None)


@pytest.mark.parametrize(
    ("release", "line"),
    [
        ("5.10", ""),
        ("5.11", ", pid 42, ts 5000000123"),
        ("5.13", ", pid 42, ts 5000000123, free_ts 7"),
        ("5.18", ", pid 42, tgid 41 (lab\\x1b), ts 5000000123, free_ts 7"),
    ],
)
def test_lines_of_dump_page(release: str, line: str) -> None:
    assert list(owner_lines(_owner(make_kernel(release)))) == [
        "page_owner tracks the page as allocated",
        "page last allocated via order 3, migratetype Reclaimable, "
        f"gfp_mask 0xcd0(GFP_KERNEL|0x10){line}",
        " post_alloc_hook+0x12",
        " prep_new_page+0x5",
        "page_owner free stack trace missing",
    ]


@pytest.mark.parametrize(
    ("release", "freed"), [("5.18", "page last free "), ("6.10", "page last free pid 2 tgid 1 ")]
)
def test_a_page_that_was_freed_and_moved(release: str, freed: str) -> None:
    kernel = make_kernel(release)
    place = EXT + PFN * EXT_SIZE
    kernel.write(place, struct.pack("<Q", 1))
    record = Object(kernel.prog, "struct page_owner", address=place + OFFSET)
    kernel.poke(record.free_handle, 1)
    kernel.poke(record.last_migrate_reason, 0)
    lines = list(owner_lines(_owner(kernel)))
    assert lines[0] == "page_owner tracks the page as freed"
    assert lines[4:] == [
        f"{freed}stack trace:",
        " post_alloc_hook+0x12",
        " prep_new_page+0x5",
        "page has been migrated, last migrate reason: compaction",
    ]


def test_nothing_where_the_kernel_keeps_nothing() -> None:
    assert page_owner(make_kernel(enabled=0).page(PFN)) is None
    assert page_owner(make_mapped_kernel().page(PFN)) is None
    assert list(owner_lines(None)) == []


def test_what_is_missing_is_said() -> None:
    never = page_owner(make_kernel().page(PFN + 1))
    assert never == "page_owner info is not present (never set?)"
    missing = page_owner(make_kernel(has_ext=False).page(PFN))
    assert isinstance(missing, str)
    assert missing.startswith("page_owner info is not in the target: ")
    assert list(owner_lines(missing)) == [missing]


@pytest.mark.parametrize("pointer", [0, EXT | 1])
def test_section_without_page_ext(pointer: int) -> None:
    # Never there, or being taken offline.
    kernel = make_kernel()
    kernel.write(SECTIONS + 8, struct.pack("<Q", pointer))
    assert page_owner(kernel.page(PFN)) == "There is not page extension available."


def test_handle_that_leads_nowhere_is_no_stack() -> None:
    kernel = make_kernel()
    record = Object(kernel.prog, "struct page_owner", address=EXT + PFN * EXT_SIZE + OFFSET)
    kernel.poke(record.handle, 0x7FFFFFFF)
    owner = _owner(kernel)
    assert (owner.stack, owner.has_stack) == ((), True)
    assert list(owner_lines(owner))[2] == " (not in the target)"


def test_unknown_layout_is_named() -> None:
    kernel = make_kernel()
    del kernel.objects["page_ext_size"]
    told = page_owner(kernel.page(PFN))
    assert isinstance(told, str)
    assert "not understood" in told
    assert "page_ext_size" in told


def test_number_beyond_the_names_is_a_number() -> None:
    kernel = make_kernel()
    record = Object(kernel.prog, "struct page_owner", address=EXT + PFN * EXT_SIZE + OFFSET)
    kernel.poke(record.last_migrate_reason, 9)
    assert _owner(kernel).migrate_reason == "9"
