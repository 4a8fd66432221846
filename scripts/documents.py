# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The documents that commands write, described
--------------------------------------------

Which records each command's JSON is made of, and what is beside them. All else
is read off the records: members, types, and the texts that stand in their source.
"""

from __future__ import annotations

import ast
import enum
import inspect
import re
import textwrap
from dataclasses import dataclass, field
from typing import (
    Annotated,
    Any,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from drgn_slabtype.answers.address import AddressInfo
from drgn_slabtype.answers.caches import CachesAnswer, CacheUsage
from drgn_slabtype.answers.decode import Decoded
from drgn_slabtype.answers.explanations import Explanations
from drgn_slabtype.answers.likeness import KindsAnswer
from drgn_slabtype.answers.owners import OwnersAnswer
from drgn_slabtype.answers.page import PageInfo
from drgn_slabtype.answers.refs import References
from drgn_slabtype.answers.sites import Site
from drgn_slabtype.answers.slabs import SlabsAnswer
from drgn_slabtype.answers.stacks import StacksAnswer
from drgn_slabtype.answers.what import Word
from drgn_slabtype.capture import CaptureSummary
from drgn_slabtype.codes import CATALOGUE, FAMILIES, KINDS
from drgn_slabtype.demo import Act
from drgn_slabtype.diff import Difference
from drgn_slabtype.findings import Finding, Report, Totals
from drgn_slabtype.fleet.summary import Fleet
from drgn_slabtype.pages.census import Census
from drgn_slabtype.pagetype.detect import PageTypeLayout
from drgn_slabtype.particulars import SlabObject
from drgn_slabtype.report.members import members
from drgn_slabtype.report.views.check import SHELVES
from drgn_slabtype.shapes import Hex, Kind
from drgn_slabtype.watch import Round

_HEX = {"type": "string", "pattern": "^0x[0-9a-f]+$"}
_NUMBER = {"type": "integer"}
_PLAIN: Mapping[Any, Dict[str, Any]] = {
    int: _NUMBER,
    str: {"type": "string"},
    bool: {"type": "boolean"},
    float: {"type": "number"},
    type(None): {"type": "null"},
}
_BY_KIND: Mapping[Kind, Dict[str, Any]] = {
    Kind.HEX: _HEX,
    Kind.WORD: {"type": "string", "pattern": "^0x[0-9a-f]{8}$"},
    Kind.FLAGS: {"type": "string", "pattern": "^0x[0-9a-f]{16}$"},
    Kind.BYTES: _NUMBER,
}


@dataclass
class Document:
    """What one command writes."""

    command: str
    name: str
    """Of its definition in the schema."""
    title: str
    """Its heading in the documentation."""
    about: str
    """A sentence."""
    record: Any = None
    """Whose members are its keys."""
    without: Sequence[str] = ()
    """Members that are not."""
    extra: Dict[str, Tuple[Any, str]] = field(default_factory=dict)
    """Other keys: a type, and what it is."""


_IDS = List[int]
_CACHE = "CacheHeader"

DOCUMENTS: Sequence[Document] = (
    Document("check", "Check", "check", "One check.", Report),
    Document(
        "check",
        "Round",
        "check --watch",
        "One of several checks: all that `check` has, and what is new.",
        Round,
        without=("report", "new", "still"),
        extra={
            "new": (_IDS, "`id` of the findings that the round before did not have."),
            "still": (_IDS, "`id` of those that it had."),
        },
    ),
    Document("pages", "Pages", "pages", "The census of all pages.", Census),
    Document(
        "page",
        "Page",
        "page",
        "One page.",
        extra={"page": (PageInfo, "What is known about it.")},
    ),
    Document("caches", "Caches", "caches", "All caches, and their sums.", CachesAnswer),
    Document(
        "objects",
        "Objects",
        "objects",
        "The objects of a cache.",
        extra={
            "cache": (_CACHE, "The cache."),
            "unavailable": (List[str], "What could not be read, and so may hide some."),
            "count": (int, "How many objects there are in the list, with those of KFENCE's pool."),
            "found": (
                Optional[int],
                "How many there are, those that are not told and those of KFENCE's pool included.",
            ),
            "guarded": (
                int,
                "How many of those found are in KFENCE's pool, and in none of the slabs: text, and "
                "`objects` of `caches`, count without them.",
            ),
            "damaged": (bool, "Whether there is a finding about the cache: see `check`."),
            "objects": (List[SlabObject], "All of them, or those in the state asked for."),
        },
    ),
    Document("slabs", "Slabs", "slabs", "The slabs of a cache.", SlabsAnswer),
    Document("object", "Object", "object", "What an address is.", AddressInfo),
    Document("what", "What", "what", "What a word can be.", Word),
    Document("stacks", "Stacks", "stacks", "Objects by call trace.", StacksAnswer),
    Document("stacks", "Kinds", "stacks --by words", "Objects by what they hold.", KindsAnswer),
    Document(
        "stacks",
        "Sites",
        "stacks --by sites",
        "Call sites that memory allocation profiling counts.",
        extra={"sites": (List[Site], "Those with the most memory first.")},
    ),
    Document("owners", "Owners", "owners", "The objects of a cache by who has them.", OwnersAnswer),
    Document("refs", "Refs", "refs", "Who points into some memory.", References),
    Document("fleet", "FleetDocument", "fleet", "Many dumps, put into groups.", Fleet),
    Document("diff", "Diff", "diff", "What changed from one moment to another.", Difference),
    Document(
        "layout",
        "Layout",
        "layout",
        "How this kernel marks its pages.",
        PageTypeLayout,
        without=("encoding",),
        extra={
            "page_type": (str, "Name of the layout of the page type word."),
            "types": (Dict[str, Hex], "Its types: bits, or values of the top byte."),
        },
    ),
    Document(
        "decode",
        "Decode",
        "decode",
        "The readings of one page type word.",
        extra={
            "word": ("hex", "The word."),
            "readings": (List[Decoded], "Under each layout."),
        },
    ),
    Document("capture", "Capture", "capture", "What was written to a capture.", CaptureSummary),
    Document("explain", "Explain", "explain", "What codes mean.", Explanations),
    Document(
        "demo",
        "Demo",
        "demo",
        "The checks of the demonstration.",
        extra={"reports": (["DemoReport"], "Each is a document of `check`, with a title.")},
    ),
)


class Schemas:
    """The schema of all documents, and what it is made of."""

    def __init__(self) -> None:
        self._defs: Dict[str, Any] = {}
        self._names: Dict[Any, str] = {}

    def whole(self) -> Dict[str, Any]:
        """Return the schema."""
        documents = {one.name: self._document(one) for one in DOCUMENTS}
        self._special(documents)
        commands = list(dict.fromkeys(one.command for one in DOCUMENTS))
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "drgn-slabtype, schema 1",
            "description": "What the commands write with --format json. Keys are added and never "
            "renamed.",
            "type": "object",
            "properties": self._common(),
            "required": list(self._common()),
            "allOf": [_rule(command) for command in commands],
            "$defs": {
                "Document": {
                    "description": "What every document has.",
                    "type": "object",
                    "properties": self._common(),
                    "required": list(self._common()),
                },
                **documents,
                **dict(sorted(self._defs.items())),
            },
        }

    def _common(self) -> Dict[str, Any]:
        return {
            "schema": {"const": 1, "description": "Version of the schema."},
            "command": {
                "enum": list(dict.fromkeys(one.command for one in DOCUMENTS)),
                "description": "The command whose document it is.",
            },
            "tool": {"$ref": "#/$defs/Tool", "description": "Who has written it."},
        }

    def _document(self, document: Document) -> Dict[str, Any]:
        found = self._object(document.record, document.about) if document.record else {}
        properties = {
            key: value
            for key, value in found.get("properties", {}).items()
            if key not in document.without
        }
        required = [key for key in found.get("required", []) if key not in document.without]
        for key, (hint, about) in document.extra.items():
            properties[key] = {**self._of(hint), "description": about}
            required.append(key)
        return {
            "description": document.about,
            "type": "object",
            "properties": {**self._common(), **properties},
            "required": [*self._common(), *required],
        }

    def _special(self, documents: Dict[str, Any]) -> None:
        # What is more, or less, than one record.
        check = documents["Check"]
        self._extend(documents["Round"], check)
        self._of(Act)
        act = self._defs.pop("Act")
        act["properties"].pop("report")
        act["required"].remove("report")
        self._defs["DemoReport"] = {**act, "description": "A check, and what of it is asked."}
        self._extend(self._defs["DemoReport"], check)
        self._defs["Tool"] = _record(
            "The program.",
            {"name": (_PLAIN[str], "Its name."), "version": (_PLAIN[str], "Its version.")},
        )
        self._defs[_CACHE] = _record(
            "A slab cache, in short.",
            {
                "name": (_PLAIN[str], "Name of the `struct kmem_cache`, escaped."),
                "address": (_HEX, "`struct kmem_cache *`."),
                "object_size": (_NUMBER, "Bytes users asked for per object."),
                "size": (_NUMBER, "Bytes from one object to the next."),
            },
        )
        totals = self._defs[self._names[Totals]]
        for shelf in SHELVES:
            about = f"How many there are in `{shelf.name}`."
            totals["properties"][shelf.name] = {**_NUMBER, "description": about}
            totals["required"].append(shelf.name)
        usage = self._defs[self._names[CacheUsage]]
        self._defs["CacheTotal"] = {
            "description": "The sums over all caches.",
            "type": "object",
            "properties": {
                key: value
                for key, value in usage["properties"].items()
                if key not in CacheUsage.OF_ONE_CACHE
            },
            "required": [k for k in usage["required"] if k not in CacheUsage.OF_ONE_CACHE],
        }
        documents["Caches"]["properties"]["total"]["$ref"] = "#/$defs/CacheTotal"
        finding = self._defs[self._names[Finding]]["properties"]
        for key, name, told in (
            ("code", "Code", {code: one.meaning for code, one in CATALOGUE.items()}),
            ("rule", "Rule", FAMILIES),
            ("value_kind", "ValueKind", KINDS),
        ):
            self._defs[name] = _choices(_ABOUT[name], told)
            ref: Dict[str, Any] = {"$ref": f"#/$defs/{name}"}
            found = {"anyOf": [ref, {"type": "null"}]} if key == "value_kind" else ref
            finding[key] = {**found, "description": finding[key]["description"]}

    def _extend(self, document: Dict[str, Any], other: Dict[str, Any]) -> None:
        document["properties"].update(other["properties"])
        document["required"] = list(dict.fromkeys([*document["required"], *other["required"]]))

    def _of(self, hint: Any, kind: Optional[Kind] = None) -> Dict[str, Any]:
        # The schema of a type, whose numbers are of some kind.
        if hint == "hex":
            return dict(_BY_KIND[Kind.WORD])
        if isinstance(hint, str):
            return {"$ref": f"#/$defs/{hint}"}
        if isinstance(hint, list):
            return {"type": "array", "items": self._of(hint[0])}
        origin, parts = get_origin(hint), get_args(hint)
        if origin is Annotated:
            marks = [one for one in parts[1:] if isinstance(one, Kind)]
            return self._of(parts[0], marks[0] if marks else kind)
        if kind is Kind.PAIRS:
            return {"type": "object", "additionalProperties": dict(_NUMBER)}
        if origin is Union:
            return _any_of([self._of(part, kind) for part in parts], kind)
        if inspect.isclass(origin) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self._of(parts[1], kind)}
        if inspect.isclass(origin) and issubclass(origin, (list, tuple, Sequence)):
            return {"type": "array", "items": self._items(parts, kind)}
        if inspect.isclass(hint) and issubclass(hint, enum.Enum):
            return {"enum": [one.value for one in hint]}
        if hint is int and kind is not None and kind in _BY_KIND:
            return dict(_BY_KIND[kind])
        if hint in _PLAIN:
            return dict(_PLAIN[hint])
        if kind is not None or not inspect.isclass(hint):
            raise TypeError(f"{hint} has no place in JSON")
        return {"$ref": f"#/$defs/{self._record(hint)}"}

    def _items(self, parts: Sequence[Any], kind: Optional[Kind]) -> Dict[str, Any]:
        several = [self._of(part, kind) for part in parts if part is not Ellipsis]
        return _any_of(several, kind)

    def _record(self, record: Any) -> str:
        if record not in self._names:
            name = record.__name__
            if name in self._names.values() or name in {one.name for one in DOCUMENTS}:
                name = f"{record.__module__.rsplit('.', 1)[1].capitalize()}{name}"
            self._names[record] = name
            self._defs[name] = {}  # it may lead back to itself
            self._defs[name] = self._object(record, _first(record.__doc__))
        return self._names[record]

    def _object(self, record: Any, about: str) -> Dict[str, Any]:
        hints, told = _hints(record), _told(record)
        properties, required = {}, []
        for member in members(record):
            if member.key.hidden:
                continue
            if member.name not in told:
                raise LookupError(f"{record.__name__}.{member.name} is not described")
            key = member.key.name or member.name
            found = self._of(hints[member.name])
            if member.key.asked:
                found = _there(found)
            properties[key] = {**found, "description": told[member.name]}
            if not member.key.asked:
                required.append(key)
        return {
            "description": about,
            "type": "object",
            "properties": properties,
            "required": required,
        }


_ABOUT = {
    "Code": "What a finding says; others may come.",
    "Rule": "Families of rules; others may come.",
    "ValueKind": "What a value is; others may come.",
}


def _rule(command: str) -> Dict[str, Any]:
    refs = [{"$ref": f"#/$defs/{one.name}"} for one in DOCUMENTS if one.command == command]
    return {
        "if": {"properties": {"command": {"const": command}}},
        "then": refs[0] if len(refs) == 1 else {"anyOf": refs},
    }


def _record(about: str, keys: Dict[str, Tuple[Dict[str, Any], str]]) -> Dict[str, Any]:
    properties = {key: {**found, "description": told} for key, (found, told) in keys.items()}
    return {
        "description": about,
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


def _choices(about: str, told: Mapping[str, str]) -> Dict[str, Any]:
    known = [{"const": name, "description": meaning} for name, meaning in told.items()]
    return {"description": about, "anyOf": [*known, {"type": "string"}]}


def _any_of(parts: Sequence[Dict[str, Any]], kind: Optional[Kind]) -> Dict[str, Any]:
    # One of several; plain ones in one word.
    unique: List[Dict[str, Any]] = []
    for part in parts:
        if part not in unique:
            unique.append(part)
    if len(unique) == 1:
        return unique[0]
    if all(set(part) == {"type"} for part in unique):
        return {"type": [part["type"] for part in unique]}
    return {"anyOf": unique}


def _there(found: Dict[str, Any]) -> Dict[str, Any]:
    # A key that is left out where there is nothing is never null.
    kinds = [one for one in found.get("anyOf", [found]) if one != _PLAIN[type(None)]]
    if len(kinds) == 1 and isinstance(kinds[0].get("type"), list):
        left = [kind for kind in kinds[0]["type"] if kind != "null"]
        return {**kinds[0], "type": left[0] if len(left) == 1 else left}
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


def _hints(record: Any) -> Dict[str, Any]:
    hints = get_type_hints(record, include_extras=True)
    for name in dir(record):
        attribute = inspect.getattr_static(record, name)
        if isinstance(attribute, property) and attribute.fget is not None:
            hints[name] = get_type_hints(attribute.fget, include_extras=True).get("return")
    return hints


def _told(record: Any) -> Dict[str, str]:
    # What stands under each member in the source, and in its properties.
    told: Dict[str, str] = {}
    for base in reversed(record.__mro__):
        if not base.__module__.startswith("drgn_slabtype"):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for node, after in zip(tree.body, [*tree.body[1:], None]):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                text = _text(after)
                if text:
                    told[node.target.id] = text
            elif isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
                told[node.name] = plain_text(ast.get_docstring(node) or "")
    return told


def _text(node: Optional[ast.AST]) -> str:
    is_text = (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
    return plain_text(node.value.value) if is_text else ""  # type: ignore[union-attr]


def _first(text: Optional[str]) -> str:
    # The first paragraph.
    return plain_text(inspect.cleandoc(text or "").split("\n\n")[0])


def plain_text(text: str) -> str:
    """Return the text of a docstring without its marks: a line, with code in backticks."""
    text = " ".join(text.split())
    text = re.sub(r":\w+:`~?[\w.]*?(\w+)`", r"`\1`", text)
    text = re.sub(r":\w+:`([^`<]+) <[^`>]+>`", r"`\1`", text)
    return text.replace("``None``", "`null`").replace("``", "`")


__all__ = ["DOCUMENTS", "Document", "Schemas", "plain_text"]
