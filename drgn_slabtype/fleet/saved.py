# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Saved reports
-------------

What ``check --format json`` wrote stands for the dump that it is about, where that
is not at hand: others ship a report instead of the dump.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, Iterator, List, Mapping, Optional

from ..errors import TargetError
from ..findings import Outcome
from ..signals import spell_reason
from ..signature import Signature

_START = 4096
_HEAD = re.compile(rb'\s*\{\s*"schema":\s*\d+,\s*"command":\s*"check",')
_PATH = re.compile(rb'"path":\s*("(?:[^"\\]|\\.)*")')
_OUTCOMES = {one.value: one.value for one in Outcome} | {
    # Nothing that is not known already.
    Outcome.ACCEPTED.value: Outcome.CONSISTENT.value
}
_TEXTS = "code", "cache", "place", "written", "difference", "allocator", "layout", "version"
_TRACES = "allocated", "freed", "before"

KIND = "report"
"""What a verdict calls such a file."""


def is_report(path: str) -> bool:
    """
    Return whether a file is the report of a check, as JSON.

    :raises OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        return _HEAD.match(file.read(_START)) is not None


def dumps_of(path: str) -> Iterator[str]:
    """
    Return the paths that the dump of a report may have, seen from here and from beside it.

    :raises OSError: if it cannot be read.
    """
    with open(path, "rb") as file:
        found = _PATH.search(file.read(_START))
    if found is not None:
        try:
            told = str(json.loads(found[1]))
        except ValueError:
            return
        yield os.path.realpath(told)
        yield os.path.realpath(os.path.join(os.path.dirname(path), os.path.basename(told)))


def read_report(path: str) -> Dict[str, Any]:
    """
    Return what a verdict has of a saved report, by the names of its members.

    :raises OSError: if it cannot be read.
    :raises TargetError: if it is no whole report.
    """
    with open(path, "rb") as file:
        try:
            return _told(json.load(file))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = " ".join(str(error).split())
            raise TargetError(f"no whole report of check --format json: {why}") from None


def _told(saved: Mapping[str, Any]) -> Dict[str, Any]:
    target, layout = saved["target"], saved["layout"]
    roots = [one for one in saved["findings"] if one["because"] is None]
    outcome = _OUTCOMES[saved["outcome"]]
    signed = [_signature(one["signature"]) for one in roots if one["signature"] is not None]
    known = {one["id"]: one for one in signed}
    stopped = bool(saved.get("interrupted"))
    missing = [spell_reason(_text(saved.get("stopped")))] if stopped else []
    missing += [str(one["message"]) for one in saved["unavailable"][:1]]
    is_partial = stopped or outcome == Outcome.INCOMPLETE.value
    return {
        "kind": KIND,
        "release": _text(target["release"]),
        "architecture": _text(target["architecture"]),
        "allocator": _text(layout["allocator"]),
        "layout": _text(layout["page_type"]),
        "outcome": outcome,
        "why": "; ".join(missing) or None if is_partial else None,
        "findings": len(saved["findings"]),
        "roots": [
            {**one, "signature": one["signature"] and str(one["signature"]["id"])} for one in roots
        ],
        "signatures": [known[id] for id in sorted(known)],
    }


def _signature(told: Mapping[str, Any]) -> Dict[str, Any]:
    # Nothing of another shape, as somebody else wrote it.
    here: Dict[str, Any] = {name: _text(told[name]) for name in _TEXTS}
    here.update({name: _texts(told[name]) for name in _TRACES})
    here["offset"] = None if told["offset"] is None else int(told["offset"])
    found = Signature(**{**here, **{name: tuple(here[name]) for name in _TRACES}})
    return {**here, "id": found.id}


def _text(told: Any) -> Optional[str]:
    return None if told is None else str(told)


def _texts(told: Any) -> List[str]:
    return [str(one) for one in told]
