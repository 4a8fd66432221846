# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are written whole or not at all, on disks that take no more."""

from __future__ import annotations

import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

import pytest

from drgn_slabtype import cli
from drgn_slabtype.capture import open_capture
from drgn_slabtype.files.whole import whole

CAPTURE = Path(__file__).parents[1] / "captures" / "debian-7-plain" / "capture.xz"


@contextmanager
def _disk_of(size: int) -> Iterator[None]:
    # No file may become larger.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_changes_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with whole(str(path)) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"after"]


def test_a_full_disk_leaves_what_was_there_and_the_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="File too large") as caught, _disk_of(4096):  # noqa: SIM117
        with whole(str(path)) as file:
            file.write(bytes(1 << 16))
    assert caught.value.filename == str(path)
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [b"before"]


def test_what_is_no_file_is_written_to() -> None:
    with (
        pytest.raises(OSError, match="No space left on device: '/dev/full'"),
        whole("/dev/full") as f,
    ):
        f.write(b"x")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture that is open before the disk is full, as it is unpacked into memory files."""
    prog = open_capture(str(CAPTURE))
    monkeypatch.setattr("drgn_slabtype.target.open_target", lambda options: prog)


@pytest.mark.parametrize("option", ["--kpageflags", "--kpagecount", "-o"])
@pytest.mark.usefixtures("opened")
def test_pages_leaves_no_cut_file(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "file")
    with _disk_of(4096):
        assert cli.main(["pages", "--list", option, path]) == 2
    assert capsys.readouterr().err == f"drgn-slabtype pages: {path}: File too large\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("opened")
def test_capture_names_the_file_that_it_cannot_write(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["capture", "-o", "/dev/full"]) == 2
    assert capsys.readouterr().err == (
        "drgn-slabtype capture: /dev/full: No space left on device\n"
    )


@pytest.mark.parametrize("words", ["--help", "--version", "check --help", "decode 0"])
def test_standard_output_that_cannot_be_written_is_told(words: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "drgn_slabtype", *words.split()],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(": standard output: No space left on device")
