# SPDX-License-Identifier: LGPL-2.1-or-later
"""Packed captures: streams that several processes pack and unpack, and files that lie."""

from __future__ import annotations

import io
import lzma
import os
import random
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Callable, List

import pytest

from drgn_slabtype import workers
from drgn_slabtype.capture import archive
from drgn_slabtype.capture.archive import packed, unpack, unpacked

_PIECE = 1 << 16


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_PIECE_BYTES", _PIECE)
    monkeypatch.setattr(archive, "_MANY_BYTES", 3 * _PIECE)
    monkeypatch.setattr(archive, "_STEP_BYTES", 1000)
    monkeypatch.setattr(workers, "processors", lambda: 3)


def _data(size: int) -> bytes:
    # Half of it is zeros, as in captures.
    chance = random.Random(size)
    return b"".join(chance.randbytes(4096) + bytes(4096) for _ in range(size >> 13))[:size] + bytes(
        size % 8192
    )


def _read(data: bytes) -> Callable[[int, int], bytes]:
    # Fewer at a time than are asked for, now and then.
    return lambda at, most: data[at : at + min(most, 700)]


def _packed(data: bytes, jobs: int = 1) -> bytes:
    pieces = list(packed(_read(data), len(data), jobs))
    assert [done for _, done in pieces][-1] == len(data)
    return b"".join(piece for piece, _ in pieces)


def _unpacked(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    with path.open("rb") as file:
        fd = unpack(file)
    with os.fdopen(fd, "rb") as memory:
        return memory.read()


@pytest.mark.parametrize("size", [1, _PIECE, _PIECE + 1, 5 * _PIECE - 3])
def test_what_is_packed_is_unpacked(size: int, tmp_path: Path) -> None:
    data = _data(size)
    one = _packed(data)
    assert _packed(data, 3) == one
    assert lzma.decompress(one) == data
    assert _unpacked(tmp_path / "file", one) == data
    assert b"".join(unpacked(io.BytesIO(one))) == data


def test_streams_are_unpacked_one_by_one(tmp_path: Path) -> None:
    data = _data(5 * _PIECE)
    path = tmp_path / "file"
    path.write_bytes(_packed(data))
    with path.open("rb") as file:
        streams = archive._streams(file)
    assert [(one.start, one.end) for one in streams] == [
        (at, at + _PIECE) for at in range(0, len(data), _PIECE)
    ]
    assert streams[0].at == 0
    assert streams[-1].at + streams[-1].size == path.stat().st_size


def test_what_other_tools_write_is_read(tmp_path: Path) -> None:
    data = _data(3 * _PIECE)
    file = lzma.compress(data[:_PIECE]) + bytes(8) + lzma.compress(data[_PIECE:])
    assert _unpacked(tmp_path / "file", file) == data
    assert _unpacked(tmp_path / "file", lzma.compress(data)) == data


@pytest.mark.parametrize("cut", [1, 13, 100, _PIECE // 2 + 20, 3 * _PIECE // 2])
def test_of_a_file_cut_short_there_is_what_there_is(cut: int, tmp_path: Path) -> None:
    data = _data(4 * _PIECE)
    found = _unpacked(tmp_path / "file", _packed(data)[:-cut])
    assert data.startswith(found)
    assert len(data) - len(found) <= 2 * cut + 4 * _PIECE // 8


def _footed(index: bytes) -> bytes:
    # A stream of no blocks with some index, whatever it says.
    index += bytes(-len(index) % 4)
    index += zlib.crc32(index).to_bytes(4, "little")
    flags = b"\0\4"
    foot = (len(index) // 4 - 1).to_bytes(4, "little") + flags
    head = archive.MAGIC + flags + zlib.crc32(flags).to_bytes(4, "little")
    return head + index + zlib.crc32(foot).to_bytes(4, "little") + foot + b"YZ"


_LYING: List[bytes] = [
    b"\0\xff\xff\xff\xff\x7f",
    b"\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\0\1\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\0\2\x80\x80\x80\x80\x80\x80\x01\1\4\4",
    b"\0",
    b"",
]


@pytest.mark.parametrize("index", _LYING, ids=range(len(_LYING)))
def test_an_index_that_lies_is_an_error_or_not_believed(index: bytes, tmp_path: Path) -> None:
    data = _data(_PIECE)
    file = lzma.compress(data) + _footed(index)
    # The stream before it is sound.
    found = b""
    with suppress(lzma.LZMAError):
        found = _unpacked(tmp_path / "file", file)
    assert found in (b"", data)


def test_a_stream_of_another_size_than_is_said_is_an_error(tmp_path: Path) -> None:
    one, other = lzma.compress(_data(_PIECE)), lzma.compress(bytes(9))
    with (tmp_path / "file").open("wb+") as file:
        file.write(one + other)
        file.flush()
        first, second = archive._streams(file)
        memory = os.memfd_create("test")
        for wrong in (-1, 1):
            lying = second._replace(end=second.end + wrong)
            with pytest.raises(lzma.LZMAError, match="another number of bytes"):
                archive._unpack_stream(file.fileno(), lying, memory)
        short = first._replace(size=first.size - 40)
        with pytest.raises(lzma.LZMAError, match="no end"):
            archive._unpack_stream(file.fileno(), short, memory)
        os.close(memory)


def test_damage_in_a_stream_is_an_error_also_where_another_process_meets_it(tmp_path: Path) -> None:
    file = bytearray(_packed(_data(5 * _PIECE)))
    file[len(file) // 2] ^= 0x55
    with pytest.raises(lzma.LZMAError):
        _unpacked(tmp_path / "file", bytes(file))
