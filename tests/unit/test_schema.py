# SPDX-License-Identifier: LGPL-2.1-or-later
"""The JSON schema names every key, is up to date, and complains where it should."""

from __future__ import annotations

import json
from typing import Any, Dict, Iterator, Tuple

import pytest
import schema
from documents import DOCUMENTS, plain_text

from drgn_slabtype import json_schema
from drgn_slabtype.answers.explanations import explain
from drgn_slabtype.codes import CATALOGUE, KINDS
from drgn_slabtype.commands import COMMANDS
from drgn_slabtype.findings import Finding
from drgn_slabtype.report import json as presented

from ..synthetic.reports import damaged, healthy
from ..validated import VALIDATED, complaints


def _document() -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads(presented.check(damaged()))
    return found


def _objects(value: Any, path: str = "") -> Iterator[Tuple[str, Dict[str, Any]]]:
    # Every part of the schema that has properties.
    if isinstance(value, dict):
        if "properties" in value and "if" not in path:
            yield path, value
        for name, part in value.items():
            yield from _objects(part, f"{path}/{name}")
    if isinstance(value, list):
        for at, part in enumerate(value):
            yield from _objects(part, f"{path}/{at}")


def test_schema_and_page_are_up_to_date() -> None:
    assert json_schema() == schema.schema(), "run scripts/schema.py"
    assert schema.PAGE.read_text(encoding="utf-8") == schema.page(), "run scripts/schema.py"


def test_every_key_is_described() -> None:
    described = 0
    for path, part in _objects(json_schema()):
        for key, value in part["properties"].items():
            assert len(value.get("description", "")) > 3, f"{path}: {key}"
            described += 1
    assert described > 500


def test_every_command_has_a_document() -> None:
    names = {command.name.split()[0] for command in COMMANDS}
    assert {document.command for document in DOCUMENTS} == names
    for document in DOCUMENTS:
        assert f"### {document.title}\n" in schema.page()


def test_codes_and_kinds_of_values_are_explained_in_the_schema() -> None:
    defs = json_schema()["$defs"]
    for name, known in (("Code", [*CATALOGUE]), ("ValueKind", [*KINDS])):
        assert [one["const"] for one in defs[name]["anyOf"] if "const" in one] == known
        assert {"type": "string"} in defs[name]["anyOf"]
    redzone = next(one for one in defs["Code"]["anyOf"] if one.get("const") == "redzone")
    assert redzone["description"] == CATALOGUE["redzone"].meaning


def test_reports_are_validated_when_they_are_made() -> None:
    before = len(VALIDATED)
    presented.check(healthy())
    presented.explain(explain("claim"))
    assert VALIDATED[before:] == ["check", "explain"]


def test_a_key_that_is_not_named_is_complained_of() -> None:
    document = _document()
    assert complaints(document) == []
    document["findings"][0]["colour"] = "red"
    assert "'colour' was unexpected" in complaints(document)[0]


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("slab", 4096, "4096 is not of type 'string'"),
        ("slab", "4096", "does not match"),
        ("code", "no-such-code", "is not valid under any|was expected"),
        ("because", "1", "is not of type 'integer', 'null'"),
        ("clues", [{"kind": "stored"}], "is a required property"),
        ("tracks", None, "is not of type 'array'"),
    ],
)
def test_values_of_another_kind_are_complained_of(key: str, value: Any, complaint: str) -> None:
    document = _document()
    document["findings"][0][key] = value
    (first, *_) = complaints(document)
    assert any(one in first for one in complaint.split("|")), first


def test_a_missing_key_is_complained_of() -> None:
    document = _document()
    del document["totals"]["in_use"]
    assert "'in_use' is a required property" in complaints(document)[0]


def test_an_open_schema_allows_what_is_added_later() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    document = _document()
    document["findings"][0]["colour"] = "red"
    document["findings"][0]["code"] = "a-code-to-come"
    jsonschema.validate(document, json_schema())


def test_what_a_value_is_follows_from_the_code_unless_it_is_said() -> None:
    plain = Finding("count-mismatch", "", expected=3, found=4)
    assert (plain.value_kind, plain.value_unit) == ("count", "objects")
    assert Finding("count-mismatch", "").value_kind is None
    said = Finding("page-free-flags", "", found="1", measure=CATALOGUE["page-refcount"].measure)
    assert (said.value_kind, said.value_unit) == ("count", "references")


def test_marks_of_docstrings_are_taken_off() -> None:
    told = plain_text(
        "Of :attr:`object`, ``None``:\n    see :class:`~a.b.Thing`, ``struct page *``."
    )
    assert told == "Of `object`, `null`: see `Thing`, `struct page *`."
