# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files drgn is given are read by drgn itself."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Dict, List, Tuple

import pytest
from drgn import Architecture, FaultError, Platform, PlatformFlags, Program, ProgramFlags
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.capture.elf import (
    NO_PHYSICAL_ADDRESS,
    NOTE_NAME,
    NOTE_TYPE,
    START_BYTES,
    Note,
    Segment,
    elf_format,
    elf_machine,
    payload_size,
)
from drgn_slabtype.capture.segments import SegmentWriter
from drgn_slabtype.errors import UnsupportedError
from drgn_slabtype.regions import Ranges, Region, merge, region

PAGE = 4096
LINEAR = 0xFFFF888000000000
LINEAR_END = LINEAR + (1 << 32)
PLATFORMS = {
    "x86-64": Platform(Architecture.X86_64),
    "s390x": Platform(Architecture.S390X),
    "i386": Platform(Architecture.I386),
    "big-endian arm": Platform(Architecture.ARM, PlatformFlags(0)),
}


def vmcoreinfo(release: str = "6.1.0-test") -> bytes:
    lines = [f"OSRELEASE={release}", f"PAGESIZE={PAGE}", "SYMBOL(swapper_pg_dir)=ffffffff82a10000"]
    return ("\n".join(lines) + "\n").encode()


def physical(address: int) -> int:
    return address - LINEAR if LINEAR <= address < LINEAR_END else NO_PHYSICAL_ADDRESS


def build(
    platform: Platform, segments: List[Segment], data: bytes, payload: bytes = b"{}"
) -> bytes:
    notes = [Note(NOTE_NAME, NOTE_TYPE, payload), Note(b"VMCOREINFO", 0, vmcoreinfo())]
    return elf_format(platform).head(elf_machine(platform), notes, segments) + data


def load(path: Path, file: bytes) -> Program:
    path.write_bytes(file)
    prog = Program()
    prog.set_core_dump(str(path))
    return prog


@pytest.mark.parametrize("name", PLATFORMS)
def test_drgn_reads_what_was_written(name: str, tmp_path: Path) -> None:
    platform = PLATFORMS[name]
    at = 0xC0001000
    file = build(platform, [Segment(at, 0x1000, 0, 5, 8)], b"hello")
    prog = load(tmp_path / "core", file)
    assert prog.platform == platform
    assert prog.flags & ProgramFlags.IS_LINUX_KERNEL
    assert prog["UTS_RELEASE"].string_() == b"6.1.0-test"
    assert prog["VMCOREINFO"].string_() == vmcoreinfo()
    assert prog.read(at, 8) == b"hello\0\0\0"
    assert prog.read(0x1002, 3, True) == b"llo"


def test_memory_outside_the_direct_map_has_no_physical_address(tmp_path: Path) -> None:
    prog = load(
        tmp_path / "core",
        build(PLATFORMS["x86-64"], [Segment(LINEAR, NO_PHYSICAL_ADDRESS, 0, 4, 4)], b"abcd"),
    )
    assert prog.read(LINEAR, 4) == b"abcd"
    for address in (0, 2**64 - 4):
        with pytest.raises(FaultError):
            prog.read(address, 4, True)


def test_memory_that_was_not_captured_is_a_fault(tmp_path: Path) -> None:
    prog = load(
        tmp_path / "core", build(PLATFORMS["x86-64"], [Segment(LINEAR, 0, 0, 4, 4)], b"abcd")
    )
    for address in (0, LINEAR - 1, LINEAR + 1):
        with pytest.raises(FaultError):
            prog.read(address, 4)


def test_more_segments_than_the_header_can_count(tmp_path: Path) -> None:
    number = 70000
    segments = [Segment(LINEAR + 2 * i, 2 * i, i, 1, 1) for i in range(number)]
    data = bytes(i % 251 for i in range(number))
    prog = load(tmp_path / "core", build(PLATFORMS["x86-64"], segments, data))
    for i in (0, 65533, 65534, 65535, number - 1):
        assert prog.read(LINEAR + 2 * i, 1) == data[i : i + 1]


@pytest.mark.parametrize("name", PLATFORMS)
@pytest.mark.parametrize("payload", [b"", b"{}", b'{"types": []}'])
def test_payload_is_found_in_the_first_bytes(name: str, payload: bytes) -> None:
    file = build(PLATFORMS[name], [Segment(0xC0000000, 0, 0, 0, PAGE)], b"", payload)
    found = payload_size(file[:START_BYTES])
    assert found is not None
    offset, size = found
    assert file[offset : offset + size] == payload


def test_other_files_are_no_captures() -> None:
    file = build(PLATFORMS["x86-64"], [], bytes(200))
    broken: Dict[str, bytes] = {
        "empty": b"",
        "text": b"some text\n" * 40,
        "short": file[: START_BYTES - 1],
        "other note": file.replace(NOTE_NAME, b"slabtypo"),
        "newer note": file.replace(b"\x01\0\0\0" + NOTE_NAME, b"\x02\0\0\0" + NOTE_NAME),
        "odd class": file[:4] + b"\x07" + file[5:],
        "odd byte order": file[:5] + b"\x07" + file[6:],
    }
    for name, data in broken.items():
        assert payload_size(data[:START_BYTES]) is None, name


def test_architecture_without_elf_number_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="UNKNOWN"):
        elf_machine(Platform(Architecture.UNKNOWN, PlatformFlags.IS_64_BIT))


# From memory to segments.


class Memory:
    """Made-up memory: each byte tells its address; some pages are missing."""

    def __init__(self, zero: Tuple[int, int] = (0, 0), missing: Tuple[int, ...] = ()) -> None:
        self.zero = zero
        self.missing = missing

    def byte(self, address: int) -> int:
        return 0 if self.zero[0] <= address < self.zero[1] else address % 255 + 1

    def read(self, address: int, size: int) -> bytes:
        for page in self.missing:
            if address < page + PAGE and page < address + size:
                raise FaultError("missing", page)
        return bytes(self.byte(i) for i in range(address, address + size))

    def capture(self, path: Path, regions: List[Region]) -> Tuple[SegmentWriter, Program]:
        data = io.BytesIO()
        writer = SegmentWriter(data, self.read, physical, PAGE)
        kept = merge([region for region in regions if not region.masked])
        writer.write(merge(regions), kept)
        file = build(PLATFORMS["x86-64"], writer.segments, data.getvalue())
        return writer, load(path / "core", file)


def test_masked_memory_reads_as_zero_but_for_what_is_kept(tmp_path: Path) -> None:
    memory = Memory()
    regions = [
        region("slab", LINEAR, 2 * PAGE, masked=True),
        region("free pointers", [LINEAR + 64, LINEAR + PAGE - 4], 8),
    ]
    _, prog = memory.capture(tmp_path, regions)
    expected = bytearray(2 * PAGE)
    for at in (64, PAGE - 4):
        expected[at : at + 8] = memory.read(LINEAR + at, 8)
    assert prog.read(LINEAR, 2 * PAGE) == bytes(expected)
    assert prog.read(64, 8, True) == memory.read(LINEAR + 64, 8)


def test_pages_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    memory = Memory(missing=(LINEAR + PAGE,))
    writer, prog = memory.capture(tmp_path, [region("x", LINEAR + 100, 3 * PAGE)])
    assert writer.unreadable == PAGE
    assert prog.read(LINEAR + 100, PAGE - 100) == memory.read(LINEAR + 100, PAGE - 100)
    assert prog.read(LINEAR + 2 * PAGE, 100) == memory.read(LINEAR + 2 * PAGE, 100)
    with pytest.raises(FaultError):
        prog.read(LINEAR + PAGE, 1)


def test_long_runs_of_zeros_take_no_space(tmp_path: Path) -> None:
    memory = Memory(zero=(LINEAR + PAGE, LINEAR + 101 * PAGE))
    writer, prog = memory.capture(tmp_path, [region("x", LINEAR, 102 * PAGE)])
    assert sum(segment.file_size for segment in writer.segments) == 2 * PAGE
    assert prog.read(LINEAR + 50 * PAGE, PAGE) == bytes(PAGE)
    assert prog.read(LINEAR + 101 * PAGE, 8) == memory.read(LINEAR + 101 * PAGE, 8)


REGION = st.tuples(st.integers(0, 12 * PAGE), st.integers(0, 3 * PAGE), st.booleans())


@given(st.lists(REGION, min_size=1, max_size=8), st.integers(0, 8), st.integers(0, 8))
def test_any_regions(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: List[Tuple[int, int, bool]],
    zero: int,
    zeros: int,
) -> None:
    memory = Memory(zero=(LINEAR + zero * PAGE, LINEAR + (zero + zeros) * PAGE))
    regions = [region("x", LINEAR + at, size, masked) for at, size, masked in pieces]
    present = merge(regions)
    if not present.total:
        return
    _, prog = memory.capture(tmp_path_factory.mktemp("any"), regions)
    kept = merge([region for region in regions if not region.masked])
    for start, end in pairs(present):
        expected = bytearray(end - start)
        for low, high in pairs(Ranges(*kept.within(start, end))):
            expected[low - start : high - start] = memory.read(low, high - low)
        assert prog.read(start, end - start) == bytes(expected)
        with pytest.raises(FaultError):
            prog.read(end, 1)


def pairs(ranges: Ranges) -> List[Tuple[int, int]]:
    return list(zip(ranges.starts.tolist(), ranges.ends.tolist()))
