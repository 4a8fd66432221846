# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Write the JSON schema of every command, and docs/json.md, from the records.

usage: python scripts/schema.py [--check]

What a record is in JSON follows from its class: its members, their types, and
the text under each. With --check nothing is written, and the exit status is 1 if
a file would change.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from documents import DOCUMENTS, Document, Schemas

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "drgn_slabtype" / "schema.json"
PAGE = ROOT / "docs" / "json.md"

INTRODUCTION = """\
# JSON

What `--format json` writes, command by command. Every document has `"schema": 1`; keys are added
and never renamed, and their values keep their kind. Addresses and words are strings `0x…`, sizes
and memory are in bytes, unknown is `null`. Names of the kernel's are escaped, so that all text is
printable.

The same as a JSON Schema (draft 2020-12) is in the package:

```python
from drgn_slabtype import json_schema

jsonschema.validate(report, json_schema())
```

Each report that the tests of this project make is validated by it, with no key that it does not
name. `check --watch` writes a document a line; all others write one.

This page is written by `scripts/schema.py`, from the records and the texts that stand in them.
"""


def schema() -> Dict[str, Any]:
    """Return the schema of all documents."""
    return Schemas().whole()


def page() -> str:
    """Return what docs/json.md has to be."""
    return "\n".join([INTRODUCTION, *_sections(schema())])


def _sections(whole: Dict[str, Any]) -> Iterator[str]:
    defs = whole["$defs"]
    documents = {document.name for document in DOCUMENTS}
    yield "## Commands\n"
    yield "In every document:\n"
    yield from _table(defs["Document"])
    for document in DOCUMENTS:
        # A round has all that a check has.
        base = defs["Check"] if document.name == "Round" else None
        yield from _document(document, defs[document.name], defs["Document"], base)
    yield "## Records\n"
    for name in sorted(set(defs) - documents - {"Document"}):
        yield f"### {name}\n"
        yield from _body(defs[name])


def _document(
    document: Document,
    found: Dict[str, Any],
    common: Dict[str, Any],
    base: Optional[Dict[str, Any]],
) -> Iterator[str]:
    yield f"### {document.title}\n"
    yield f"{found['description']}\n"
    known = [*common["properties"], *([] if base is None else base["properties"])]
    own = {k: v for k, v in found["properties"].items() if k not in known}
    yield from _table({**found, "properties": own})


def _body(found: Dict[str, Any]) -> Iterator[str]:
    yield f"{found['description']}\n"
    if "properties" in found:
        yield from _table(found)
    for one in found.get("anyOf", []):
        if "const" in one:
            yield f"- `{one['const']}`: {one['description']}"
    if "anyOf" in found:
        yield ""


def _table(found: Dict[str, Any]) -> Iterator[str]:
    yield "| key | is | |"
    yield "|---|---|---|"
    required = found.get("required", [])
    for key, value in found["properties"].items():
        asked = "" if key in required else " Only where it was asked for."
        told = value.get("description", "").replace("|", "\\|")
        yield f"| `{key}` | {_type(value)} | {told}{asked} |"
    yield ""


def _type(value: Dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(one) for one in value["anyOf"]))
    if "enum" in value:
        return " or ".join(f"`{json.dumps(one)}`" for one in value["enum"])
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    kind = value.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(map(_spelled, kind))
    if kind == "array":
        return f"list of {_type(value['items'])}"
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"{_type(value['additionalProperties'])} by name"
    if "pattern" in value:
        return "`0x…`"
    return _spelled(kind)


def _spelled(kind: str) -> str:
    return {"null": "`null`", "string": "text", "number": "number", "boolean": "true or false"}.get(
        kind, kind
    )


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description="write the JSON schema and docs/json.md")
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    args = parser.parse_args()
    texts = {SCHEMA: json.dumps(schema(), indent=1) + "\n", PAGE: page()}
    stale: List[str] = []
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
            if not args.check:
                path.write_text(text, encoding="utf-8")
    if args.check and stale:
        print(f"{', '.join(stale)}: out of date: run scripts/schema.py", file=sys.stderr)
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
