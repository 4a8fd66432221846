# SPDX-License-Identifier: LGPL-2.1-or-later
"""What debugging promises about the bytes of slabs, damaged or not understood."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, List

import pytest
from drgn import Program, offsetof

from drgn_slabtype.allocators.slub import layout
from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Finding

from ..recipes.overlay import Write, overlay
from ..recipes.slub.machine import Machine

_DEBUGGED = Path(__file__).parent / "debian-7-debug" / "capture.xz"


def _opened(*patches: str) -> Program:
    # Each patch is ADDRESS=BYTES, in hex and in the order of memory.
    prog = open_capture(str(_DEBUGGED))
    writes = [patch.split("=") for patch in patches]
    overlay(prog, [Write(int(address, 16), bytes.fromhex(data)) for address, data in writes])
    return prog


def _found(*patches: str) -> List[Finding]:
    return check(_opened(*patches)).findings


def test_poison_overwritten_in_three_places() -> None:
    (finding,) = _found(
        "ffff88a1c60d8a04=08", "ffff88a1c60d8a28=00e05d81ffffffff", "ffff88a1c60d8a80=deadbeef"
    )
    assert [(one.address & 0xFFF, one.size, one.found) for one in finding.ranges] == [
        (0xA04, 1, "08"),
        (0xA28, 8, "00 e0 5d 81 ff ff ff ff"),
        (0xA80, 4, "de ad be ef"),
    ]
    told = "\n".join(finding.details)
    assert "kkk" not in told
    assert "0xffffffff815de000" in told
    assert "0xffff88a1c60d8a80: de ad be ef" in told


@pytest.mark.parametrize("before", [b"", b"\x11" * 8])
def test_list_head_in_a_freed_object(before: bytes) -> None:
    link = "685e40c1a188ffff"
    at = 0xFFFF88A1C60D8A28
    (finding,) = _found(f"{at - len(before):x}={before.hex()}{link}{link}")
    assert (
        f"0x{at:x}: an empty list head that points to 0xffff88a1c1405e68: "
        "object 27 of dentry slab 0xfffffb42c0050100 (in use)"
    ) in finding.details
    assert not any("over and over" in line for line in finding.details)


def test_list_head_that_points_to_itself() -> None:
    link = "288a0dc6a188ffff"
    (finding,) = _found(f"ffff88a1c60d8a28={link}{link}")
    assert "0xffff88a1c60d8a28: an empty list head that points to itself" in finding.details


def test_red_zone_of_an_object_the_allocator_lives_in() -> None:
    (finding,) = _found("ffff88a1c1042ba0=41414141")
    assert (finding.code, finding.cache, finding.object, finding.place) == (
        "redzone",
        "kmem_cache",
        0xFFFF88A1C1042AC0,
        "right red zone",
    )


def _asked() -> Any:
    # An object larger than what was asked for, of the cache with the fewest.
    machine = Machine(open_capture(str(_DEBUGGED)))
    larger: List[Any] = []
    for slab in machine.all_slabs():
        if {"KMALLOC", "STORE_USER", "RED_ZONE"} <= slab.cache.flags:
            at = slab.cache.behind_pointer + 64
            for item in slab.used():
                asked = machine.prog.read_u32(item.address + at)
                if asked < slab.cache.object_size:
                    larger.append((item, asked))
    few = Counter(item.cache.name for item, _ in larger)
    return min(larger, key=lambda found: few[found[0].cache.name]), few


def test_no_object_hides_itself_in_a_cache_with_few() -> None:
    (item, asked), few = _asked()
    assert few[item.cache.name] < 10
    (finding,) = _found(f"{item.address + asked:x}=00")
    assert (finding.code, finding.object, finding.place) == (
        "redzone",
        item.address,
        "red zone after the size asked for",
    )


def test_layout_that_does_not_add_up_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the kernel kept 16 bytes behind each object that nobody knows.
    def known(*arguments: Any) -> layout.Parts:
        parts = typed(*arguments)
        return parts._replace(track=parts.track - 8)

    typed = layout._typed_parts
    monkeypatch.setattr(layout, "_typed_parts", known)
    report = check(_opened("ffff88a1c60d8a04=08"))
    assert report.findings == []
    assert report.exit_status == 3
    (told,) = report.unavailable
    assert (told.code, told.cache) == ("not-understood", None)
    assert "slots of " in told.message
    assert "more caches" in told.message


def _behind_pointer(held_by_the_allocator: bool) -> Any:
    # An object in use with its free pointer behind it, and with a track.
    machine = Machine(open_capture(str(_DEBUGGED)))
    for slab in machine.all_slabs():
        cache = slab.cache
        if {"KMALLOC", "STORE_USER"} <= cache.flags and cache.offset >= cache.inuse:
            for item in slab.used():
                if ("allocator" in slab_object(machine.prog, item.address).places) == (
                    held_by_the_allocator
                ):
                    return item
    raise AssertionError("there is none")


@pytest.mark.parametrize("own", [False, True])
def test_pointer_behind_an_object_in_use_is_damaged_as_a_whole(own: bool) -> None:
    # Which of several it was, nobody knows: not how much of it is as it was.
    item = _behind_pointer(own)
    at = item.address + item.cache.offset
    held = item.machine.prog.read(at, 8)
    (finding,) = _found(f"{at:x}={held[:3].hex()}00deadbeef")
    assert (finding.code, finding.object) == ("padding", item.address)
    (one,) = finding.ranges
    assert (one.address, one.size) == (at, 8)
    assert one.expected == finding.expected == "NULL or an object of its slab"
    assert one.found == f"{held[:3].hex(' ')} 00 de ad be ef"
    assert finding.message.endswith("de ad be ef, not NULL or an object of its slab")


def test_caller_of_an_allocation_is_damaged_as_a_whole() -> None:
    item = _behind_pointer(False)
    prog = item.machine.prog
    at = item.address + item.cache.behind_pointer + offsetof(prog.type("struct track"), "addr")
    (finding,) = _found(f"{at + 6:x}=dead")
    (one,) = finding.ranges
    assert (finding.code, one.address, one.size) == ("track", at, 8)
    assert one.expected == "an address in the kernel"
    assert one.found == prog.read(at, 6).hex(" ") + " de ad"
