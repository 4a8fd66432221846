# SPDX-License-Identifier: LGPL-2.1-or-later
"""The JSON schema of what the commands write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict


def json_schema() -> Dict[str, Any]:
    """
    Return the JSON Schema (draft 2020-12) of every command's JSON.

    It stands in the file ``schema.json`` of the package; ``docs/json.md`` is made from it.

    >>> json_schema()["properties"]["schema"]["const"]
    1
    """
    path = Path(__file__).parents[1] / "schema.json"
    found: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
