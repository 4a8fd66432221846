# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all JSON documents have in common."""

from __future__ import annotations

import json
from typing import Any, Dict

from .. import __version__

Document = Dict[str, Any]


def document(**parts: Any) -> Document:
    """Return a document of schema 1."""
    return {"schema": 1, "tool": {"name": "drgn-slabtype", "version": __version__}, **parts}


def dump(document: Document) -> str:
    """Return a document as text."""
    return json.dumps(document, indent=1) + "\n"
