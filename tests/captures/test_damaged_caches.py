# SPDX-License-Identifier: LGPL-2.1-or-later
"""Members of a cache that must not decide how much is read, and arrays that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np
import pytest
from drgn import FaultError, Program, sizeof
from drgn.helpers.linux.mm import virt_to_phys
from drgn.helpers.linux.slab import for_each_slab_cache

from drgn_slabtype.allocators.caches import read_caches
from drgn_slabtype.allocators.slub.cache import SlubCache, slab_flags
from drgn_slabtype.allocators.slub.layout import SlotLayout, known_parts
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.machine import machine
from drgn_slabtype.pages.survey import survey

from ..recipes.changes import LIST_POISON
from ..recipes.changes import member as member_at
from ..recipes.overlay import Write, overlay
from ..recipes.slab.machine import Machine as Slab
from ..recipes.slub.machine import Machine as Slub

_GARBAGE = 0x6B6B6B6B


def _open(name: str) -> Program:
    return open_capture(str(Path(__file__).parent / name / "capture.xz"))


@pytest.mark.parametrize(
    ("kernel", "mode", "member", "number"),
    [
        ("slab-6.1-plain", "objfreelist", "colour", 2**64 - 1),
        ("slab-5.10-plain", "on-slab", "freelist_size", _GARBAGE),
        ("slab-6.1-debug-plain", "on-slab", "freelist_size", _GARBAGE),
        ("slab-6.1-debug-plain", "objfreelist", "freelist_size", 0),
        ("slab-6.1-debug-plain", "objfreelist", "freelist_size", _GARBAGE),
        ("slab-6.1-debug-plain", "objfreelist", "size", _GARBAGE),
        ("slab-6.1-debug-plain", "objfreelist", "obj_offset", _GARBAGE),
    ],
)
def test_a_damaged_member_of_slab_is_the_root_and_the_rest_is_judged(
    kernel: str, mode: str, member: str, number: int
) -> None:
    prog = _open(kernel)
    machine = Slab(prog)
    cache = next(
        cache for cache in machine.caches if cache.mode == mode and len(machine.slabs_of(cache)) > 3
    )
    _assert_root(prog, cache.name, _write(prog, cache.address, member, number))


@pytest.mark.parametrize(
    ("kernel", "name", "member", "number"),
    [
        ("debian-7-debug", "skbuff_head_cache", "object_size", _GARBAGE),
        # Red zones and tracks, for which there is no room.
        ("debian-6.1-plain", "kmalloc-64", "flags", 0x400 | 0x10000),
    ],
)
def test_a_damaged_member_of_slub_is_the_root_and_the_rest_is_judged(
    kernel: str, name: str, member: str, number: int
) -> None:
    prog = _open(kernel)
    cache = next(cache for cache in Slub(prog).caches if cache.name == name)
    _assert_root(prog, name, _write(prog, cache.address, member, number))


def _write(prog: Program, cache: int, member: str, number: int) -> Write:
    return member_at(prog, "struct kmem_cache", cache, member).write(number)


def _assert_root(prog: Program, name: str, write: Write) -> None:
    overlay(prog, [write])
    report = check(prog)
    roots = [finding for finding in report.findings if finding.because is None]
    assert {(root.code, root.cache) for root in roots} == {("cache-wrong", name)}
    assert all(result.slabs or result.name != name for result in report.caches)


def _cut_out(prog: Program, address: int, size: int) -> None:
    # Memory that the dumper has lost, in both views of it.
    def lost(at: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("not in the dump", at)

    prog.add_memory_segment(address, size, lost, False)
    prog.add_memory_segment(int(virt_to_phys(prog, address)), size, lost, True)


def test_an_array_without_its_entries_is_unreadable_and_the_rest_is_judged() -> None:
    prog = _open("slab-6.1-plain")
    array = next(Slab(prog).spare_arrays())
    _cut_out(prog, array.address + prog.type("struct array_cache").size + 8, 8)
    report = check(prog)
    assert [(one.code, one.cache, one.place, one.cpu) for one in report.unavailable] == [
        ("unreadable", array.cache.name, "cpu array", array.owner)
    ]
    assert report.findings == []


def test_a_slot_without_room_for_the_size_asked_for_is_sound() -> None:
    # As before Linux 6.1, where kmalloc caches with tracks have no such member.
    read = machine(_open("debian-7-debug"))
    caches = read_caches(read)
    cache = SlubCache(caches, caches.names.index("kmalloc-64"), slab_flags(read), 1)
    parts = known_parts(read)
    newer = SlotLayout(parts, cache)
    assert newer.sound
    assert newer.orig_size is not None
    cache.size = newer.orig_size + cache.red_left_pad
    older = SlotLayout(parts._replace(asked=0), cache)
    assert older.sound
    assert (older.orig_size, older.end) == (None, older.limit)


@pytest.mark.parametrize(
    ("kernel", "member", "what"),
    [
        ("slab-6.1-rfc3-plain", "shared", "the shared array"),
        ("slab-5.10-plain", "shared", "the shared array"),
        ("slab-6.1-rfc3-numa", "alien", "the alien arrays"),
    ],
)
def test_arrays_of_another_cache_are_told(kernel: str, member: str, what: str) -> None:
    prog = _open(kernel)
    caches = [one for one in for_each_slab_cache(prog) if one.node[0].member_(member)]
    own, other = (one.node[0].member_(member) for one in (caches[-4], caches[3]))
    damaged = _open(kernel)
    overlay(damaged, [Write(own.address_ or 0, other.value_().to_bytes(8, "little"))])
    (finding,) = check(damaged).findings
    assert (finding.code, finding.word, finding.found) == (
        "container-state",
        own.address_,
        other.value_(),
    )
    assert finding.cache == caches[-4].name.string_().decode()
    assert f"pointer to {what} of node 0 leads to" in finding.message
    assert finding.message.endswith("which is another's as well")


@pytest.mark.parametrize(
    ("kernel", "cache", "member", "off", "findings"),
    [
        # All else of the cache is judged by the size that it says.
        ("slab-6.1-rfc3-plain", "dentry", "size", 8, 1),
        ("slab-5.10-plain", "kmalloc-64", "size", 0xFFFFEA00 - 64, 1),
        ("debian-6.12-plain", "kmalloc-64", "size", 8, 1),
        ("debian-7-debug", "dentry", "size", -288, 1),
        ("slab-6.1-debug-plain", "dentry", "gfporder", 8, 1),
        ("slab-6.1-rfc3-plain", "dentry", "gfporder", 0xFFFFEA00, 1),
        ("slab-6.1-plain", "dentry", "num", -21, 1),
        ("debian-6.12-plain", "dentry", "object_size", 8, None),
        ("debian-6.12-plain", "dentry", "oo.x", 8, None),
        ("debian-5.10-plain", "dentry", "offset", 8, None),
        ("debian-6.12-plain", "dentry", "offset", -96, None),
        ("debian-7-debug", "dentry", "offset", 8, None),
        ("slub-6.1-bare-plain", "kmalloc-64", "offset", 8, None),
        ("debian-6.12-plain", "dentry", "random", 64, None),
    ],
)
def test_the_damaged_member_is_the_root(
    kernel: str, cache: str, member: str, off: int, findings: Optional[int]
) -> None:
    prog = _open(kernel)
    (damaged,) = [one for one in for_each_slab_cache(prog) if one.name.string_() == cache.encode()]
    word = damaged[0].subobject_(member)
    assert word.address_ is not None
    sound = word.value_()
    kept = (sound + off).to_bytes(sizeof(word), "little")
    overlay(prog, [Write(word.address_, kept)])
    report = check(prog)
    (root,) = [one for one in report.findings if one.because is None]
    assert (root.code, root.word, root.cache) == ("cache-wrong", word.address_, cache)
    # Objects of other sizes make the same slots, and several secrets the same chains.
    assert root.expected == sound or (root.expected is None and member in ("object_size", "random"))
    assert findings in (None, len(report.findings))


@pytest.mark.parametrize(
    "kernel", ["slab-6.1-rfc3-plain", "debian-6.12-plain", "debian-5.10-plain"]
)
def test_an_order_is_in_a_slab_whatever_is_in_its_place(kernel: str) -> None:
    prog = _open(kernel)
    found = survey(machine(prog))
    free = found.names.index("buddy")
    pfn = next(
        piece.pfn + int(rows[0])
        for piece in found.pieces
        for rows in [np.flatnonzero(piece.kinds == free)]
        if len(rows)
    )
    (dentry,) = [one for one in for_each_slab_cache(prog) if one.name.string_() == b"dentry"]
    word = dentry.random_seq.address_
    assert word is not None
    elsewhere = machine(prog).memory.linear_base + (pfn << 12) + 0xAA0
    overlay(prog, [Write(word, elsewhere.to_bytes(8, "little"))])
    (finding,) = check(prog).findings
    assert (finding.code, finding.word, finding.found) == ("cache-wrong", word, elsewhere)
    assert "random_seq leads to no object of" in finding.message


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("kernel", ["debian-7.0-plain", "debian-7-plain"])
def test_a_damaged_object_of_the_only_freelist_is_the_root(kernel: str, steps: int) -> None:
    prog = _open(kernel)
    machine = Slub(prog)
    free = {
        cache: [slab for slab in machine.slabs_of(cache) if slab.free] for cache in machine.caches
    }
    cache, (slab,) = next(
        (cache, slabs)
        for cache, slabs in free.items()
        if len(slabs) == 1 and slabs[0].quiet and len(slabs[0].free) > steps + 1
    )
    victim = slab.free[steps]
    overlay(prog, [Write(victim + cache.offset, b"kkkkkkkk")])
    report = check(prog)
    (root,) = (finding for finding in report.findings if finding.because is None)
    assert (root.code, root.cache, root.object) == ("freelist-pointer", cache.name, victim)


def test_a_limit_that_no_array_can_have_is_not_work_in_progress() -> None:
    prog = _open("slab-6.1-rfc3-plain")
    cache = next(cache for cache in Slab(prog).caches if not cache.lived_in)
    spot = cache.spot("limit")
    overlay(prog, [Write(spot.address, b"usb ")])
    (root,) = (finding for finding in check(prog).findings if finding.because is None)
    assert (root.code, root.cache, root.member) == ("container-state", cache.name, "limit")
    assert root.found == int.from_bytes(b"usb ", "little")


@pytest.mark.parametrize("kernel", ["slab-6.1-rfc3-plain", "debian-7-plain"])
def test_a_cache_to_which_its_neighbours_lead_was_not_destroyed(kernel: str) -> None:
    prog = _open(kernel)
    machine = Slab(prog) if kernel.startswith("slab") else Slub(prog)
    caches = [cache for cache in machine.caches if not cache.lived_in]
    cache = next(cache for cache in caches if len(machine.slabs_of(cache)) > 3)
    link = cache.spot("list").address
    overlay(prog, [Write(link, b"".join(word.to_bytes(8, "little") for word in LIST_POISON))])
    found = check(prog).findings
    (root,) = (finding for finding in found if finding.because is None)
    assert (root.code, root.word) == ("cache-list", link)
    assert "cache-destroyed" not in {finding.code for finding in found}
