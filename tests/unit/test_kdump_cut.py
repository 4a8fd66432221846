# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kdump files that end too early, or whose numbers lie: told in one line, never SIGBUS."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Callable, Set

import pytest
from drgn import FaultError, Program

from drgn_slabtype.errors import TargetError
from drgn_slabtype.files.kdump import KdumpError, KdumpFile, Lost
from drgn_slabtype.target import TargetOptions, open_target

from ..synthetic.kdump_files import BLOCK, PARTS, cuts, flattened, kdump, page

_WHOLE = kdump()


def _lost(data: bytes) -> Lost:
    return KdumpFile(io.BytesIO(data)).lost()


def _refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(TargetError) as caught:
        open_target(TargetOptions(core=str(path), default_symbols=False))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _readable(path: Path, data: bytes) -> Set[int]:
    # Page frames that drgn reads from a mended file; none of the others can be read.
    mended = io.BytesIO()
    KdumpFile(io.BytesIO(data)).mend(mended)
    path.write_bytes(mended.getvalue())
    prog = Program()
    prog.set_core_dump(str(path))
    found = set()
    for pfn in range(64):
        try:
            assert prog.read(pfn * BLOCK, BLOCK, True) == page(pfn)
        except FaultError:
            continue
        found.add(pfn)
    return found


@pytest.mark.parametrize("wrap", [bytes, flattened], ids=["plain", "flattened"])
def test_whole_file_lacks_nothing(wrap: Callable[[bytes], bytes], tmp_path: Path) -> None:
    assert _lost(wrap(_WHOLE)) == Lost(0, 48, False)
    assert "truncated" not in _refusal(tmp_path / "vmcore", wrap(_WHOLE))


@pytest.mark.parametrize("size", list(cuts(len(_WHOLE))))
def test_cut_is_told_in_one_line(tmp_path: Path, size: int) -> None:
    message = _refusal(tmp_path / "vmcore", _WHOLE[:size])
    if size >= 8:
        assert "truncated" in message
    names = [name for name, (start, end) in PARTS.items() if max(start, 8) <= size < end]
    if names in (["header"], ["bitmaps"], ["sub header"]):
        assert f"truncated in its {names[0]}: it has {size} bytes" in message


@pytest.mark.parametrize("size", range(5000, len(flattened(_WHOLE)) - 1100, 1021))
def test_cut_stream_is_told_in_one_line(tmp_path: Path, size: int) -> None:
    assert "truncated" in _refusal(tmp_path / "vmcore", flattened(_WHOLE)[:size])


@pytest.mark.parametrize("wrap", [bytes, flattened], ids=["plain", "flattened"])
def test_pages_before_the_cut_can_be_read(wrap: Callable[[bytes], bytes], tmp_path: Path) -> None:
    every = list(range(16, 64))
    data = wrap(_WHOLE)
    for size in range(len(data) - 600, len(data), 77):
        lost = _lost(data[:size])
        assert lost.cut
        assert (wrap is flattened) or 0 < lost.pages < 48
        assert sorted(_readable(tmp_path / "mended", data[:size])) == every[: 48 - lost.pages]


def test_pages_that_were_never_written_are_lost(tmp_path: Path) -> None:
    # ENOSPC: makedumpfile leaves their descriptors empty and says so in the header.
    data = bytearray(_WHOLE)
    data[424] |= 8
    start = PARTS["descriptors"][0]
    data[start + 24 * 40 : start + 24 * 48] = bytes(24 * 8)
    assert str(_lost(bytes(data))) == (
        "incomplete, as its dumper says: 8 of 48 pages are not in the file"
    )
    assert _readable(tmp_path / "mended", bytes(data)) == set(range(16, 56))


def test_one_file_of_a_split_dump(tmp_path: Path) -> None:
    data = kdump(split=(16, 40))
    assert _lost(data) == Lost(24, 48, False, elsewhere=24)
    assert "makedumpfile --reassemble" in str(_lost(data))
    assert _readable(tmp_path / "mended", data) == set(range(16, 40))


@pytest.mark.parametrize("order", "<>")
def test_both_byte_orders(order: str) -> None:
    assert _lost(kdump(order=order)) == Lost(0, 48, False)


def test_no_number_of_the_file_is_believed(tmp_path: Path) -> None:
    # Any word of the headers, of the bitmaps and of the descriptors, whatever it says.
    chance = random.Random(6)
    interesting = (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, BLOCK, 0x00FFF000)
    for _ in range(400):
        data = bytearray(_WHOLE)
        for _ in range(chance.randint(1, 4)):
            at = chance.choice([*range(420, 464, 4), *range(BLOCK, BLOCK + 104, 4)] * 3)
            if chance.random() < 0.3:
                at = chance.randrange(BLOCK * 3, BLOCK * 5 + 24 * 48, 4)
            number = chance.choice([*interesting, chance.getrandbits(32)])
            data[at : at + 4] = number.to_bytes(4, "little")
        try:
            lost = _lost(bytes(data))
        except KdumpError:
            lost = None
        _refusal(tmp_path / "vmcore", bytes(data))
        assert lost is None or 0 <= lost.pages <= lost.of
