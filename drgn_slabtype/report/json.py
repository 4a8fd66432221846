# SPDX-License-Identifier: LGPL-2.1-or-later
"""
JSON, schema 1
--------------

Keys are added, never renamed. Addresses are ``"0x…"`` strings, unknown is
``null``, sizes and memory are in bytes. What a record is in JSON follows from
the record; here is only what is more than one record.
"""

from __future__ import annotations

import json
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Union,
)

from .. import __version__
from ..findings import Report
from ..shapes import Kind
from .members import document, members, plain
from .values import address
from .views.check import SHELVES

if TYPE_CHECKING:
    from ..answers.address import AddressInfo
    from ..answers.caches import CachesAnswer
    from ..answers.decode import Decoded
    from ..answers.explanations import Explanations
    from ..answers.likeness import KindsAnswer
    from ..answers.owners import OwnersAnswer
    from ..answers.page import PageInfo
    from ..answers.refs import References
    from ..answers.sites import Site
    from ..answers.slabs import SlabsAnswer
    from ..answers.stacks import StacksAnswer
    from ..answers.states import Objects
    from ..answers.what import Word
    from ..capture import CaptureSummary
    from ..demo import Act
    from ..diff import Difference
    from ..fleet.summary import Fleet
    from ..pages.census import Census
    from ..pagetype.detect import PageTypeLayout
    from ..watch import Round


def _whole(command: str, parts: Dict[str, Any]) -> Dict[str, Any]:
    tool = {"name": "drgn-slabtype", "version": __version__}
    return {"schema": 1, "command": command, "tool": tool, **parts}


def _dump(command: str, parts: Dict[str, Any]) -> str:
    return json.dumps(_whole(command, parts), indent=1) + "\n"


def check(report: Report) -> str:
    """Present the report of a check."""
    return _dump("check", _check(report))


def _check(report: Report) -> Dict[str, Any]:
    found = document(report)
    names = {shelf.name for shelf in SHELVES}
    found["totals"].update((name, len(found[name])) for name in found if name in names)
    return found


def watch(rounds: Iterable[Round]) -> Iterator[str]:
    """Present rounds of checks, a line each, as they are done."""
    for one in rounds:
        found = document(one)
        for name in ("new", "still"):
            found[name] = [finding.id for finding in getattr(one, name)]
        del found["report"]
        yield json.dumps(_whole("check", {**found, **_check(one.report)})) + "\n"


def demo(acts: Sequence[Act]) -> str:
    """Present the checks of the demonstration."""
    return _dump("demo", {"reports": [_act(act) for act in acts]})


def _act(act: Act) -> Dict[str, Any]:
    # Its report is a document of its own.
    found = document(act)
    del found["report"]
    return {**found, **_whole("check", _check(act.report))}


def caches(answer: CachesAnswer) -> str:
    """Present every cache, and the sums."""
    found = document(answer)
    for name in answer.total.OF_ONE_CACHE:
        del found["total"][name]
    return _dump("caches", found)


def objects(found: Objects) -> Iterator[str]:
    """Present the objects of a cache, a line each, as they are asked for."""
    from ..answers.states import SlabObject

    facts = found.ledger.facts
    cache = {
        "name": facts.name,
        "address": address(facts.address),
        "object_size": facts.object_size,
        "size": facts.stride,
    }
    missing = list(found.unavailable)
    parts = {
        "cache": cache,
        "unavailable": missing,
        "count": len(found),
        "found": found.found,
        "guarded": found.guarded_found,
        "damaged": found.damaged,
        "objects": [],
    }
    start = _dump("objects", parts)
    head, tail = start.rsplit("[]", 1)
    yield head + "["
    separator = "\n"
    # There may be many millions: column by column is fastest.
    shapes = members(SlabObject)
    line = ", ".join(f'"{member.name}": %s' for member in shapes)
    spelled = [_Spelled(member.kind).of for member in shapes]
    for rows in found.batches():
        columns = [map(spell, column) for spell, column in zip(spelled, zip(*rows))]
        if columns:
            yield separator + ",\n".join(map(f"{{{line}}}".__mod__, zip(*columns)))
            separator = ",\n"
    yield "]" + tail


class _Spelled(Dict[Any, str]):
    # Values of one member as JSON text; those are kept of which there are few.
    def __init__(self, kind: Optional[Kind]) -> None:
        super().__init__()
        self._kind = kind
        self.of: Callable[[Any], str] = self._hex if kind is Kind.HEX else self.__getitem__

    def _hex(self, value: Optional[int]) -> str:
        return "null" if value is None else f'"0x{value:x}"'

    def __missing__(self, value: Any) -> str:
        text = self[value] = json.dumps(plain(value, self._kind))
        return text


def object(info: AddressInfo) -> str:
    """Present what is known about an address."""
    return _dump("object", document(info))


def slabs(answer: SlabsAnswer) -> str:
    """Present the slabs of a cache."""
    return _dump("slabs", document(answer))


def stacks(answer: Union[StacksAnswer, KindsAnswer, List[Site]]) -> str:
    """Present objects by call trace or by what they hold, or call sites."""
    return _dump(
        "stacks", {"sites": plain(answer)} if isinstance(answer, list) else document(answer)
    )


def diff(difference: Difference) -> str:
    """Present what changed from one moment to another."""
    return _dump("diff", document(difference))


def fleet(found: Fleet) -> str:
    """Present what is known of a fleet's dumps; moments are in UTC."""
    return _dump("fleet", document(found))


def owners(answer: OwnersAnswer) -> str:
    """Present the objects of a cache by who has them."""
    return _dump("owners", document(answer))


def refs(answer: References) -> str:
    """Present who points into some memory."""
    return _dump("refs", document(answer))


def what(word: Word) -> str:
    """Present what a word can be."""
    return _dump("what", document(word))


def pages(census: Census) -> str:
    """Present the census of all pages, and what else was asked for."""
    return _dump("pages", document(census))


def page(info: PageInfo) -> str:
    """Present one page."""
    return _dump("page", {"page": document(info)})


def layout(layout: PageTypeLayout) -> str:
    """Present what was detected, and from which evidence."""
    found = document(layout)
    encoding = found.pop("encoding")
    return _dump("layout", {"page_type": encoding["name"], "types": encoding["types"], **found})


def capture(summary: CaptureSummary) -> str:
    """Present what was written to a capture; sizes in bytes."""
    return _dump("capture", document(summary))


def decode(words: Sequence[Decoded]) -> str:
    """Present the readings of one page_type word."""
    readings = [document(word) for word in words]
    return _dump("decode", {"word": plain(words[0].word, Kind.WORD), "readings": readings})


def explain(codes: Explanations) -> str:
    """Present what codes mean."""
    return _dump("explain", document(codes))
