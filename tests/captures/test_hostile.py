# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words that once ended the check in a Python message: now a finding, and the rest is judged."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Dict, Set, Tuple

import pytest
from drgn import offsetof, sizeof
from drgn.helpers.linux.slab import for_each_slab_cache

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.machine import machine
from drgn_slabtype.pages.zones import populated_zones

from ..recipes.overlay import Write, overlay

_HERE = Path(__file__).parent
_TEXT = b"eth0: link becomes ready, 1000 Mbps full duplex, " * 4

_WORDS: Tuple[Tuple[str, Dict[int, str], Set[str]], ...] = (
    # A link of the cache list is the last address there is.
    ("debian-6.18-plain", {0xFFFF8B2AC1043270: "ffffffffffffffff"}, {"cache-list"}),
    # A slab without mark, and no cache that misses one.
    (
        "debian-7-plain",
        {0xFFFFF473C01B7430: "0000ffff", 0xFFFFF473C01C5C28: "2673fe0725ff1b80"},
        {"slab-mark-lost", "slab-objects-wrong"},
    ),
    # Where drgn looks up the direct map.
    ("slab-5.10-plain", {0xFFFFFFFF81D33008: "c00bf70f8288ffff"}, {"machine-wrong"}),
    # The root of the sections is an address of the memory map.
    ("slab-6.1-plain", {0xFFFF88800FF72000: "0f00000000eaffff"}, {"memory-map"}),
    # Sizes of a cache whose slabs have red zones and poison.
    ("slab-6.1-rfc3-plain", {0xFFFF88800088AD90: "08d2030000eaffff"}, {"cache-wrong"}),
    # KFENCE's pool, at the last address there is.
    ("slab-6.1-debug-plain", {0xFFFFFFFF81AC78E0: "ffffffffffffffff"}, {"machine-wrong"}),
    ("debian-6.12-riscv64-plain", {0xFFFFFFFF81CC6170: "0000000000000000"}, {"cache-list"}),
    ("slub-6.12-tiny-plain", {0xFFFF888000141F00: "f8dfffffffffffff"}, {"cache-wrong"}),
)


@pytest.mark.parametrize(("name", "words", "codes"), _WORDS, ids=[one[0] for one in _WORDS])
def test_one_word(name: str, words: Dict[int, str], codes: Set[str]) -> None:
    path = str(_HERE / name / "capture.xz")
    whole = check(open_capture(path))
    prog = open_capture(path)
    overlay(prog, [Write(address, bytes.fromhex(data)) for address, data in words.items()])
    report = check(prog)
    assert {finding.code for finding in report.findings if finding.because is None} == codes
    assert report.totals.caches == whole.totals.caches
    assert report.totals.slabs == whole.totals.slabs
    assert min(report.totals.in_use, report.totals.counted, report.totals.free) >= 0


@pytest.mark.parametrize("name", ["slab-5.10-plain", "slab-6.1-rfc3-plain", "debian-6.1-plain"])
def test_text_over_a_cache(name: str) -> None:
    """Sizes, orders and numbers of objects that no cache has: nothing is made so large."""
    prog = open_capture(str(_HERE / name / "capture.xz"))
    layout = prog.type("struct kmem_cache")
    (cache,) = (one for one in for_each_slab_cache(prog) if one.name.string_() == b"dentry")
    first, last = offsetof(layout, "flags"), offsetof(layout, "name")
    overlay(prog, [Write(cache.value_() + first, _TEXT[: last - first])])
    tracemalloc.start()
    report = check(prog)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "cache-wrong" in {one.code for one in report.findings if one.because is None}
    assert most < 64 << 20


@pytest.mark.parametrize("name", ["debian-6.12-plain", "debian-7.0-plain"])
def test_poison_behind_the_order_of_a_cache(name: str) -> None:
    """Where its objects are is known without: what others have in them is theirs."""
    prog = open_capture(str(_HERE / name / "capture.xz"))
    layout = prog.type("struct kmem_cache")
    (cache,) = (one for one in for_each_slab_cache(prog) if one.name.string_() == b"kmalloc-64")
    first, last = offsetof(layout, "inuse"), offsetof(layout, "name")
    overlay(prog, [Write(cache.value_() + first, b"\x6b" * (last - first))])
    roots = [one for one in check(prog).findings if one.because is None]
    assert [(one.code, one.cache) for one in roots] == [("cache-wrong", "kmalloc-64")]


@pytest.mark.parametrize("name", ["debian-6.12-plain", "debian-7-plain", "slab-6.1-rfc3-plain"])
def test_free_lists_of_a_zone(name: str) -> None:
    """Text over all of them is one root."""
    prog = open_capture(str(_HERE / name / "capture.xz"))
    _, _, zone = max(populated_zones(machine(prog)), key=lambda one: int(one[2].present_pages))
    address, size = zone.free_area.address_, sizeof(zone.free_area.type_)
    assert address is not None
    overlay(prog, [Write(address, (_TEXT * size)[:size])])
    roots = [one for one in check(prog).findings if one.because is None]
    assert [one.code for one in roots] == ["page-free-list"]
