# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Codes
-----

Everything that a finding can be, and all that is said of it: what the kernel
promises, which commits made it so, what usually breaks it and where to look
next. The commands, ``docs/findings.md``, the HTML page and the JSON schema take
their texts from here.
"""

from __future__ import annotations

from typing import Mapping

from . import claims, containers, content, counts, geometry, lists, others, pages, words
from .explained import (
    ADDRESS,
    FAMILIES,
    KINDS,
    OBJECTS,
    REFERENCES,
    SHEAVES,
    SIZE,
    SLABS,
    WORD,
    Code,
    Commit,
    Measure,
)

CATALOGUE: Mapping[str, Code] = {
    **words.CODES,
    **geometry.CODES,
    **counts.CODES,
    **claims.CODES,
    **containers.CODES,
    **lists.CODES,
    **content.CODES,
    **pages.CODES,
    **others.NOTES,
    **others.UNAVAILABLE,
}
"""Every code, family by family."""

__all__ = [
    "ADDRESS",
    "CATALOGUE",
    "FAMILIES",
    "KINDS",
    "OBJECTS",
    "REFERENCES",
    "SHEAVES",
    "SIZE",
    "SLABS",
    "WORD",
    "Code",
    "Commit",
    "Measure",
]
