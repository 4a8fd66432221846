# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the per-CPU allocator has given out is what pointers of caches lead to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import pytest
from drgn import Program, offsetof

from drgn_slabtype.allocators.caches import read_caches
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Finding
from drgn_slabtype.machine import chunks
from drgn_slabtype.machine import machine as machine_of

from ..recipes.overlay import Write, overlay
from ..recipes.suites import suite_of
from . import two_caches

_HERE = Path(__file__).parent / "percpu"
_KERNELS = ("slab-6.1-rfc3", "debian-6.12")
_PAGE = 4096


def _open(name: str) -> Program:
    return open_capture(str(_HERE / f"{name}.xz"))


def _member(prog: Program) -> str:
    cache = prog.type("struct kmem_cache")
    return "cpu_cache" if cache.has_member("cpu_cache") else "cpu_slab"


def _roots(prog: Program) -> List[Finding]:
    return [finding for finding in check(prog).findings if finding.because is None]


@pytest.mark.parametrize("name", _KERNELS)
def test_every_sound_pointer_has_been_given_out(name: str) -> None:
    prog = _open(name)
    machine = machine_of(prog)
    assert machine.fact(chunks._chunks)
    pointers = machine.settled(read_caches).rows[_member(prog)]
    assert len(pointers) > 90
    assert not chunks.never_given_out(machine, pointers, 8).any()
    assert check(prog).findings == []


@pytest.mark.parametrize("bit", [12, 16, 20, 22])
@pytest.mark.parametrize("name", _KERNELS)
def test_a_wrong_bit_is_one_root_and_names_the_pointer(name: str, bit: int) -> None:
    clean = _open(name)
    one: Any = two_caches(suite_of(clean).open(clean))[0]
    member = _member(clean)
    at = one.address + offsetof(clean.type("struct kmem_cache"), member)
    wrong = clean.read_u64(at) ^ 1 << bit
    prog = _open(name)
    overlay(prog, [Write(at, wrong.to_bytes(8, "little"))])
    (root,) = _roots(prog)
    # One of them leads to what another cache has.
    code = "cache-wrong" if (name, bit) == ("debian-6.12", 12) else "container-state"
    assert (root.code, root.word, root.found) == (code, at, wrong)


@pytest.mark.parametrize("map", ["alloc_map", "bound_map"])
@pytest.mark.parametrize("name", _KERNELS)
def test_a_map_that_a_dumper_has_left_out_accuses_nobody(name: str, map: str) -> None:
    clean = _open(name)
    machine = machine_of(clean)
    # That of the first chunk lies beside the chunk itself.
    last = list(chunks._all_chunks(machine, chunks._lists(machine)))[-1]
    start = int(getattr(last, map)) // _PAGE * _PAGE
    assert start != int(last) // _PAGE * _PAGE
    prog = _open(name)
    overlay(prog, [Write(start, bytes(_PAGE))])
    blank = machine_of(prog)
    found = blank.fact(chunks._chunks)
    assert found
    assert not found[-1].told.all()
    pointers = blank.settled(read_caches).rows[_member(prog)]
    assert not chunks.never_given_out(blank, pointers, 8).any()
    assert check(prog).findings == []
