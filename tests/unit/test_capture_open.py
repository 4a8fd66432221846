# SPDX-License-Identifier: LGPL-2.1-or-later
"""Opening captures, whole and damaged, ours and drgn's way."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
from drgn import Architecture, FaultError, Platform, Program

from drgn_slabtype.capture import attach, is_capture, left_out, manifest, open_capture
from drgn_slabtype.capture.elf import NOTE_NAME, NOTE_TYPE, Note, Segment, elf_format, elf_machine
from drgn_slabtype.errors import TargetError

PLATFORM = Platform(Architecture.X86_64)
BASE = 0xFFFF888000000000
VMCOREINFO = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff82a10000\n"
PAYLOAD: Dict[str, Any] = {
    "types": [
        ["int", "unsigned int", 4, False, "little"],
        ["struct", "pair", 8, [["low", 0, 0], ["high", 32, 0]]],
        ["enum", "pageflags", 0, [["PG_head", 6], ["PG_slab", 9]]],
        ["enum", "pagetype", 0, [["PG_slab", 4096]]],
        ["void"],
        ["function", 4, [], False],
    ],
    "variables": {"pairs": [1, BASE]},
    "functions": {"vmemmap_populate": [5, None], "slab_alloc": [5, BASE + 64]},
    "constants": {"PG_slab": 3},
    "symbols": [["pairs", BASE, 8], ["inner", BASE + 4, 2], ["slab_alloc", BASE + 64, 0]],
    "manifest": {"left_out": ["object contents"]},
}
DATA = bytes([1, 0, 0, 0, 2, 0, 0, 0])


def make(payload: bytes = json.dumps(PAYLOAD).encode()) -> bytes:
    notes = [Note(NOTE_NAME, NOTE_TYPE, payload), Note(b"VMCOREINFO", 0, VMCOREINFO)]
    segments = [Segment(BASE, 0, 0, len(DATA), 4096)]
    return elf_format(PLATFORM).head(elf_machine(PLATFORM), notes, segments) + DATA


@pytest.fixture(params=["xz", "elf"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    file = tmp_path / "capture"
    file.write_bytes(lzma.compress(make()) if request.param == "xz" else make())
    return str(file)


def check(prog: Program) -> None:
    pairs = prog["pairs"]
    assert (pairs.low.value_(), pairs.high.value_()) == (1, 2)
    assert prog.type("struct pair").size == 8
    assert prog["PG_head"].value_() == 6
    # The enumeration that the source answered with, not the first.
    assert prog["PG_slab"].type_.tag == "pagetype"
    assert "vmemmap_populate" in prog
    assert "nothing" not in prog
    with pytest.raises(LookupError):
        prog.type("struct nothing")
    assert left_out(prog) == {"object contents"}
    assert manifest(prog) == PAYLOAD["manifest"]


def test_open(path: str) -> None:
    assert is_capture(path)
    check(open_capture(path))


def test_symbols(path: str) -> None:
    prog = open_capture(path)
    assert prog.symbol("slab_alloc").address == BASE + 64
    assert prog.symbol(BASE).name == "pairs"
    assert prog.symbol(BASE + 5).name == "inner"  # the nearest that contains it
    assert prog.symbol(BASE + 7).name == "pairs"
    assert [symbol.name for symbol in prog.symbols(BASE + 5)] == ["inner", "pairs"]
    assert len(prog.symbols()) == 3
    for unknown in (BASE + 8, BASE - 1, "nothing"):
        with pytest.raises(LookupError):
            prog.symbol(unknown)


def test_symbols_of_the_first_captures(tmp_path: Path) -> None:
    file = tmp_path / "capture"
    old = {"pairs": [BASE, 8], "optimised_away": [None, 0]}
    file.write_bytes(make(json.dumps({**PAYLOAD, "symbols": old}).encode()))
    prog = open_capture(str(file))
    assert prog.symbol("pairs").size == 8
    assert prog.symbol(BASE + 7).name == "pairs"


def test_stock_drgn_opens_an_uncompressed_one(tmp_path: Path) -> None:
    file = tmp_path / "core"
    file.write_bytes(make())
    prog = Program()
    prog.set_core_dump(str(file))
    assert attach(prog)
    assert attach(prog)  # once more changes nothing
    check(prog)


def test_other_cores_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "core"
    notes = [Note(b"VMCOREINFO", 0, VMCOREINFO)]
    file.write_bytes(elf_format(PLATFORM).head(elf_machine(PLATFORM), notes, []))
    prog = Program()
    prog.set_core_dump(str(file))
    assert not attach(prog)
    assert not is_capture(str(file))
    assert left_out(prog) == frozenset()
    assert manifest(prog) == {}


def test_program_without_a_core_is_left_alone() -> None:
    assert not attach(Program(PLATFORM))


def test_attaching_imports_nothing_heavy() -> None:
    code = (
        "import sys, drgn, drgn_slabtype.capture as c; c.attach(drgn.Program());"
        "print(sorted({'numpy', 'tabulate', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "[]\n"


FILES: Dict[str, bytes] = {
    "empty": b"",
    "text": b"some text\n" * 100,
    "an archive of text": lzma.compress(b"some text\n" * 100),
    "not even an archive": b"\xfd7zXZ\0 and nothing of the kind",
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_capture_is_said_to_be_none(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(FILES[name])
    assert not is_capture(str(file))
    with pytest.raises(TargetError, match="capture"):
        open_capture(str(file))


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    for function in (is_capture, open_capture):
        with pytest.raises(FileNotFoundError):
            function(str(tmp_path / "none"))


def test_damaged_description_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "capture"
    for payload in (b'{"types": [', b"[]", b"{}", b'{"types": [[]]}'):
        file.write_bytes(make(payload))
        with pytest.raises(TargetError, match="description"):
            open_capture(str(file))
        prog = Program()
        prog.set_core_dump(str(file))
        assert not attach(prog)


def test_damaged_archive_is_an_error(tmp_path: Path) -> None:
    data = bytearray(lzma.compress(make()))
    data[-30] ^= 0x55
    file = tmp_path / "capture"
    file.write_bytes(data)
    with pytest.raises(TargetError, match="damaged"):
        open_capture(str(file))


def test_capture_cut_short_opens_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = make()
    file = tmp_path / "capture"
    file.write_bytes(whole[:-4])
    prog = open_capture(str(file))
    assert prog["pairs"].low.value_() == 1
    with pytest.raises(FaultError):
        prog["pairs"].high.value_()


def test_archive_cut_short_opens_as_far_as_it_goes(tmp_path: Path) -> None:
    parts: List[bytes] = []
    pack = lzma.LZMACompressor()
    parts.append(pack.compress(make()))
    parts.append(pack.flush())
    data = b"".join(parts)
    file = tmp_path / "capture"
    file.write_bytes(data[:-20])  # the end of the stream, not of the data
    assert open_capture(str(file))["pairs"].low.value_() == 1
