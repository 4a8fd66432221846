# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every JSON that a test makes is validated by the schema
-------------------------------------------------------

With no key that the schema does not name, and no code that it does not know.
"""

from __future__ import annotations

import inspect
import json
from copy import deepcopy
from functools import cache, wraps
from typing import Any, Callable, Dict, Iterator, List

from jsonschema import Draft202012Validator

from drgn_slabtype.report import json as presented
from drgn_slabtype.report.schema import json_schema

_OPEN = ("Code", "Rule", "ValueKind")
_MOST = 2000  # of rows that are all made alike
_SHOWN = 5

BEYOND: List[str] = []
"""Why what is made just now may have more than the schema names."""
VALIDATED: List[str] = []
"""The command of each document that was validated in this process."""


@cache
def strict() -> Any:
    """Return what validates a document by the schema, and allows nothing beyond it."""
    schema = deepcopy(json_schema())
    for name, one in schema["$defs"].items():
        if "properties" in one and name != "Document":
            one["additionalProperties"] = False
        if name in _OPEN:
            one["anyOf"] = [choice for choice in one["anyOf"] if "const" in choice]
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def complaints(document: Dict[str, Any]) -> List[str]:
    """Return what the schema says against a document; nothing, mostly."""
    objects = document.get("objects")
    if isinstance(objects, list) and len(objects) > _MOST:
        half = _MOST // 2
        document = {**document, "objects": [*objects[:half], *objects[-half:]]}
    found = [_deepest(error) for error in strict().iter_errors(document)]
    return [f"{error.json_path}: {error.message[:300]}" for error in found]


def _deepest(error: Any) -> Any:
    # Of the branches of a choice, what is wrong farthest down in the document.
    while error.context:
        error = max(error.context, key=lambda one: len(one.absolute_path))
    return error


def _validate(text: str) -> None:
    if BEYOND:
        return
    document = json.loads(text)
    found = complaints(document)
    assert found == [], found[:_SHOWN]
    for shelf in ("findings", "changing", "notes", "unavailable"):
        for finding in document.get(shelf) or ():
            # A change from one moment to another has no values.
            if "found" in finding and finding["found"] is not None:
                assert finding["value_kind"] is not None, finding["code"]
    VALIDATED.append(document["command"])


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def present(*args: Any) -> Any:
        made = function(*args)
        if isinstance(made, str):
            _validate(made)
            return made
        return _piecemeal(made, function.__name__ == "watch")

    return present


def _piecemeal(made: Iterator[str], by_line: bool) -> Iterator[str]:
    pieces = []
    for piece in made:
        if by_line:
            _validate(piece)
        else:
            pieces.append(piece)
        yield piece
    if pieces:
        _validate("".join(pieces))


def watch_json() -> None:
    """Have every document validated that is made from now on."""
    for name, function in inspect.getmembers(presented, inspect.isfunction):
        own = function.__module__ == presented.__name__ and not name.startswith("_")
        if own and not hasattr(function, "__wrapped__"):
            setattr(presented, name, _checked(function))
