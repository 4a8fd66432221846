# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dumps are known by what is in them, and a vmlinux by its build ID."""

from __future__ import annotations

import lzma
import os
from pathlib import Path
from typing import List

import pytest

from drgn_slabtype.errors import TargetError
from drgn_slabtype.fleet.find import STORE, find_dumps, find_symbols

from ..synthetic.elf_files import BUILD_ID, ET_CORE, ET_REL, core, elf, note, vmlinux

_CAPTURE = Path(__file__).parents[1] / "captures" / "slub-6.12-tiny-plain" / "capture.xz"


def _names(folder: Path) -> List[str]:
    return [str(Path(dump.path).relative_to(folder)) for dump in find_dumps([str(folder)]).dumps]


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_dumps_are_found_by_what_is_in_them(tmp_path: Path) -> None:
    _write(tmp_path / "a/one", _CAPTURE.read_bytes())
    _write(tmp_path / "a/two", b"KDUMP   " + bytes(64))
    _write(tmp_path / "b/vmcore.gz", b"\x1f\x8b" + bytes(30))
    _write(tmp_path / "b/vmcore-empty", b"")
    _write(tmp_path / "b/vmcore-dmesg.txt", b"[    0.000000] Linux version 6.1\n")
    _write(tmp_path / "b/notes.txt", b"KDUMP is a format\n"[::-1])
    _write(tmp_path / "b/other.xz", lzma.compress(b"no capture"))
    assert _names(tmp_path) == ["a/one", "a/two", "b/vmcore-empty", "b/vmcore.gz"]


def test_cores_of_programs_are_no_dumps(tmp_path: Path) -> None:
    _write(tmp_path / "core.1", elf(ET_CORE, note(b"CORE", 1, b"x")))
    _write(tmp_path / "guest", core(None, 64))
    _write(tmp_path / "vmlinux", vmlinux())
    assert _names(tmp_path) == ["guest"]


def test_dump_is_found_once(tmp_path: Path) -> None:
    dump = _write(tmp_path / "a/dump", b"KDUMP   " + bytes(64))
    (tmp_path / "z").symlink_to(dump)
    os.link(dump, tmp_path / "a/same")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "a/nowhere").symlink_to("gone")
    os.mkfifo(tmp_path / "a/vmcore-pipe")
    found = find_dumps([str(tmp_path), str(dump)])
    assert [one.path for one in found.dumps] == [str(dump)]
    assert found.dumps[0].size == 72
    assert found.unread == []


def test_file_that_is_named_is_taken_whatever_it_is(tmp_path: Path) -> None:
    path = _write(tmp_path / "notes.txt", b"no dump")
    assert [dump.path for dump in find_dumps([str(path)]).dumps] == [str(path)]


def test_results_of_a_run_are_no_dumps(tmp_path: Path) -> None:
    _write(tmp_path / "out/captures/000001.xz", _CAPTURE.read_bytes())
    _write(tmp_path / "out" / STORE, b"")
    assert _names(tmp_path) == []


def test_path_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no such file or folder"):
        find_dumps([str(tmp_path / "none")])
    with pytest.raises(TargetError, match="no such folder"):
        find_symbols([str(tmp_path / "none")])


def test_name_need_not_be_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    with open(os.path.join(folder, b"dump-\xff"), "wb") as file:
        file.write(b"KDUMP   " + bytes(64))
    assert _names(tmp_path) == ["dump-\udcff"]


def test_vmlinux_is_found_by_its_build_id(tmp_path: Path) -> None:
    data = vmlinux()
    _write(tmp_path / "stripped", data)
    whole = _write(tmp_path / "x/6.1/vmlinux", data + bytes(100))
    _write(tmp_path / "x/module.ko", vmlinux(b"other", ET_REL))
    _write(tmp_path / "x/text", b"no ELF")
    assert find_symbols([str(tmp_path)]) == {BUILD_ID.hex(): str(whole)}
