# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps in which many pages are missing, here and there: nobody is accused of what is not there."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest
from drgn import FaultError, Program

from drgn_slabtype.allocators.caches import read_caches
from drgn_slabtype.allocators.whereabouts import missing_caches
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.machine import machine
from drgn_slabtype.machine.directmap import LINEAR_BYTES
from drgn_slabtype.pages.scan import page_ranges

from ..counting import read_through

_HERE = Path(__file__).parent
_CAPTURES = sorted(path.parent for path in _HERE.glob("*/manifest.json"))

_MUCH = 0.2


def _sieved(path: Path, share: float, seed: int) -> Program:
    # A program of whose memory pages are missing, the same by whatever address they are read.
    whole, prog = open_capture(str(path)), open_capture(str(path))
    memory = machine(whole).memory
    base, shift = memory.linear_base, memory.page_shift

    def is_gone(address: int) -> bool:
        place = address - base if 0 <= address - base < LINEAR_BYTES else address
        return crc32(f"{seed} {place >> shift}".encode()) < share * (1 << 32)

    def read(address: int, size: int, offset: int, physical: bool) -> bytes:
        for page in range(address >> shift, (address + size - 1 >> shift) + 1):
            if is_gone(page << shift):
                raise FaultError("not there", page << shift)
        data: bytes = whole.read(address, size, physical)
        return data

    read_through(prog, path, read)
    return prog


def _is_refused(prog: Program) -> bool:
    # Where nothing is left that tells where memory is mapped, nothing is found.
    try:
        return not page_ranges(machine(prog))
    except FaultError:
        return True


@pytest.mark.parametrize("share", [0.01, 0.05, _MUCH])
@pytest.mark.parametrize("folder", _CAPTURES, ids=lambda folder: folder.name)
def test_nothing_is_accused(folder: Path, share: float) -> None:
    prog = _sieved(folder / "capture.xz", share, 3)
    if _is_refused(prog):
        assert share == _MUCH
        return
    report = check(prog)
    assert [one.message for one in report.findings] == []
    assert report.exit_status == 3


@pytest.mark.parametrize("name", ["debian-7-numa", "debian-7-plain", "slab-6.1-rfc3-plain"])
def test_cache_that_ends_at_the_last_node_is_there(name: str) -> None:
    # The type has room for as many nodes as there can be; the kernel makes as many as there are.
    kernel = machine(open_capture(str(_HERE / name / "capture.xz")))
    assert not missing_caches(kernel, read_caches(kernel).addresses).any()
