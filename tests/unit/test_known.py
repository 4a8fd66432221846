# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files of known causes: what they say, and what is said of those that make no sense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from drgn_slabtype.errors import TargetError
from drgn_slabtype.findings import Finding
from drgn_slabtype.fleet.known import as_toml, likenesses, read_causes
from drgn_slabtype.pages.census import Census
from drgn_slabtype.report import html, present
from drgn_slabtype.signature import Signature

from ..synthetic.reports import damaged

_SIGNATURE = Signature(
    "redzone",
    "kmalloc-64",
    "right red zone",
    "text",
    64,
    allocated=("foo_open", "do_open"),
    allocator="SLUB",
    layout="top-byte",
    version="6.12",
)


def _file(folder: Path, text: str) -> str:
    path = folder / "known.toml"
    path.write_text(text)
    return str(path)


def _fits(folder: Path, text: str, signature: Signature = _SIGNATURE) -> bool:
    (cause,) = read_causes(_file(folder, f'[[cause]]\nname = "foo"\n{text}'))
    return cause.fits(signature)


@pytest.mark.parametrize(
    "text",
    [
        f'id = "{_SIGNATURE.id}"',
        'code = "redzone"',
        'cache = "kmalloc-*"\nwritten = "text"\noffset = 64',
        'allocated = "do_*"',
        'allocated = ["foo_open", "do_open"]',
        'version = "6.*"\nallocator = "SLUB"',
    ],
)
def test_cause_fits_if_all_that_it_names_does(text: str, tmp_path: Path) -> None:
    assert _fits(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        'code = "poison"',
        'code = "redzone"\nwritten = "zeroes"',
        'allocated = ["foo_open", "bar"]',
        'freed = "*"',
        'difference = "*"',
        "offset = 6",
    ],
)
def test_cause_fits_not_if_one_thing_does_not(text: str, tmp_path: Path) -> None:
    assert not _fits(tmp_path, text)


def test_what_is_written_for_a_signature_fits_it_alone(tmp_path: Path) -> None:
    odd = replace(_SIGNATURE, cache='a[0]*?"\\\u202e', before=("x",))
    path = _file(tmp_path, as_toml(odd).replace('name = ""', 'name = "odd"'))
    (cause,) = read_causes(path)
    assert cause.fits(odd)
    assert not cause.fits(_SIGNATURE)
    assert not cause.fits(replace(odd, cache='a0xx"\\\u202e'))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[cause]", "not TOML"),
        ("cause = 3", "each cause begins with [[cause]]"),
        ("[other]\n", "each cause begins with [[cause]]"),
        ('[[cause]]\ncode = "poison"', "cause 1: needs a name"),
        ('[[cause]]\nname = "a"', "cause 1 (a): says nothing of a signature, which fits all"),
        ('[[cause]]\nname = "a"\nfoo = 1', "cause 1 (a): no signature has foo"),
        ('[[cause]]\nname = "a"\ncode = ["poison"]', "cause 1: code is a text"),
        ('[[cause]]\nname = "a"\nfreed = []', "cause 1: freed is a text or texts"),
        ("\xff", "not TOML"),
    ],
)
def test_file_that_makes_no_sense_is_told_in_a_line(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "known.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TargetError) as caught:
        read_causes(str(path))
    assert why in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="No such file"):
        read_causes(str(tmp_path / "none"))


def test_every_format_of_a_check_says_what_it_looks_like(tmp_path: Path) -> None:
    report = damaged()
    report.findings[0] = replace(report.findings[0], signature=_SIGNATURE)
    path = _file(
        tmp_path,
        '[[cause]]\nname = "foo <1>"\ntext = "Fixed in 6.1.90."\ncode = "redzone"\n'
        '[[cause]]\nname = "bar"\ncode = "poison"\n',
    )
    report.looks_like = likenesses(read_causes(path), report.findings)
    for format in ("table", "json", "junit"):
        text = "".join(present("check", report, format)).replace("&lt;", "<").replace("&gt;", ">")
        assert "foo <1>" in text, format
        assert "Fixed in 6.1.90." in text, format
        assert "bar" not in text, format
    assert "foo &lt;1&gt;: Fixed in 6.1.90." in "".join(html.check(report, Census([], 0, 0)))
    assert "looks like: finding 1: foo <1>: Fixed in 6.1.90." in present("check", report, "table")
    assert likenesses((), [Finding("poison", "nothing")]) == ()
