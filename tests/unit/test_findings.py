# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every code is explained, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

from drgn_slabtype.findings import CATALOGUE

_PAGE = Path(__file__).parents[2] / "docs" / "findings.md"


def test_every_code_has_a_section_and_every_section_a_code() -> None:
    titles = re.findall(r"^### (.+)$", _PAGE.read_text(), re.MULTILINE)
    explained = [code for title in titles for code in title.split(", ")]
    assert sorted(explained) == sorted(CATALOGUE)


def test_meanings_are_one_sentence() -> None:
    for code, (_, meaning) in CATALOGUE.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
        assert meaning.endswith(".")
        assert "\n" not in meaning
