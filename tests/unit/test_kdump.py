# SPDX-License-Identifier: LGPL-2.1-or-later
"""Headers of kdump files, as QEMU and as makedumpfile write them."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from drgn import Architecture

from drgn_slabtype.files.kdump import KdumpError, missing_platform


def _header(machine: str, *names: str) -> bytes:
    told = [name.encode() for name in names] or [b""] * 4
    fields = [*told, machine.encode(), b""]
    return struct.pack("<8si", b"KDUMP   ", 6) + b"".join(one.ljust(65, b"\0") for one in fields)


def _flattened(header: bytes, offset: int = 0) -> bytes:
    start = b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)
    return start.ljust(4096, b"\0") + struct.pack(">qq", offset, len(header)) + header


@pytest.mark.parametrize("wrap", [bytes, _flattened])
@pytest.mark.parametrize(
    ("machine", "architecture"),
    [
        ("x86_64", Architecture.X86_64),
        ("aarch64", Architecture.AARCH64),
        ("i686", Architecture.I386),
        ("ppc64le", Architecture.PPC64),
    ],
)
def test_machine_of_a_header_without_names(
    tmp_path: Path, wrap: object, machine: str, architecture: Architecture
) -> None:
    assert callable(wrap)
    path = tmp_path / "vmcore"
    path.write_bytes(wrap(_header(machine)))
    platform = missing_platform(str(path))
    assert platform is not None
    assert platform.arch == architecture


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        _header("x86_64", "Linux", "host", "6.1.0", "#1 SMP"),
        _header("quantum"),
        _header(""),
        _header("x86_64")[:200],
        _flattened(_header("x86_64"), offset=4096),
        _flattened(b""),
        b"makedumpfile\0\0\0\0",
    ],
)
def test_drgn_is_left_to_find_the_platform_of_other_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(data)
    assert missing_platform(str(path)) is None
    assert missing_platform(str(tmp_path / "nowhere")) is None


def test_header_that_names_no_machine_is_told(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(_header("Unknown"))
    with pytest.raises(KdumpError, match="names no machine"):
        missing_platform(str(path))
