# SPDX-License-Identifier: LGPL-2.1-or-later
"""Caches, objects, one object, words, layouts and captures; long lists as they are made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Iterator, List, Sequence, Tuple

from ..members import members, told
from ..values import plural, printable, size
from ..views.caches import parts, summary, usage
from ..views.objects import OBJECTS, REFERENCE, WORD, address, row_of
from ..views.objects import slabs as slabs_view
from ..views.words import CAPTURE, DECODED, LAYOUT
from .lines import WIDTH, facts, left, see_check, table, text, unavailable

if TYPE_CHECKING:
    from ...answers.address import AddressInfo
    from ...answers.caches import CachesAnswer
    from ...answers.decode import Decoded
    from ...answers.refs import References
    from ...answers.slabs import SlabsAnswer
    from ...answers.states import Objects
    from ...answers.what import Word
    from ...capture import CaptureSummary
    from ...pagetype.detect import PageTypeLayout


_NAME = 13  # characters that names take at least


def caches(answer: CachesAnswer) -> str:
    """Present every cache; ``*`` after a name: something is wrong with it."""
    lines: List[str] = []
    for grid in (usage(answer), *parts(answer)):
        lines += [*table(grid), ""]
    return text([*lines, *unavailable(answer), summary(answer)])


def _all(answer: Any) -> int:
    return len(answer) if answer.found is None else int(answer.found)


def _shown(answer: Any) -> str:
    # What is to be said where not all is told.
    return f", {len(answer)} shown" if len(answer) < _all(answer) else ""


def objects(found: Objects) -> Iterator[str]:
    """Present the objects of a cache, a line each, as they are asked for."""
    from ...answers.states import SlabObject

    facts = found.ledger.facts
    every = int(found.ledger.slabs.objects.sum())
    if not _all(found):
        of_what = f"of its {plural(every, 'object')} none is in that state"
        yield text([f"{facts.name}: {of_what if every else 'it has no object'}"])
        yield text([*unavailable(found), *see_check(found.damaged, found.ledger.facts.name)])
        return
    of_all = plural(_all(found) - found.guarded_found, "object")
    told_first = f"{facts.name}: {of_all} of {facts.object_size} bytes"
    apart = f", {found.guarded_found} more in KFENCE's pool" if found.guarded_found else ""
    yield printable(told_first + apart + _shown(found))
    yield "\n"
    if not len(found):
        yield text([*unavailable(found), *see_check(found.damaged, found.ledger.facts.name)])
        return
    # There may be many millions: what a view would do is written out here. The
    # place comes last: its width is not known before the last row.
    others = members(SlabObject)[6:]
    more = "".join(f"  {member.heading.upper()}" for member in others)
    yield f"{'ADDRESS':<18}  {'SLAB':<18}  {'INDEX':>5}  {'STATE':<7}  PLACE{more}\n"
    batches: Iterator[Iterator[Tuple[Any, ...]]] = found.batches()
    for rows in batches:
        yield "".join(
            [
                f"0x{address:016x}  0x{slab:016x}  {index:5}  {state}\n"
                if place is None and not rest
                else f"0x{address:016x}  0x{slab:016x}  {index:5}  {state:<7}  {place or ''}"
                f"{'' if position is None else f', position {position}'}"
                f"{''.join(f'  {told(cell, m.kind)}' for cell, m in zip(rest, others))}\n"
                for address, slab, index, state, place, position, *rest in rows
            ]
        )
    yield text([*unavailable(found), *see_check(found.damaged, found.ledger.facts.name)])


def slabs(answer: SlabsAnswer) -> str:
    """Present the slabs of a cache, a line each; one slab with its objects."""
    objects = sum(slab.objects for slab in answer.slabs)
    head = f"{answer.cache} (0x{answer.slab_cache:x}): {plural(_all(answer), 'slab')}"
    some = _shown(answer)
    lines = [f"{head}{some}, {plural(objects, 'object')}{' in them' if some else ''}"]
    lines += table(slabs_view(answer).grid(answer.slabs)) if answer.slabs else []
    lines += [] if answer.why_none is None else [answer.why_none]
    if answer.objects:
        lines += ["", *table(OBJECTS.grid(answer.objects))]
        lines += left(objects, len(answer.objects), "object")
    return text([*lines, *unavailable(answer)])


def object(info: AddressInfo) -> str:
    """Present what is known about an address."""
    view = address()
    width = WIDTH.get()
    if width is not None and info.lines:
        names = max([_NAME, *(len(name) for name, _ in view.facts(info))])
        view = address(row_of(info, width - len("    ") - names))
    told = facts(view.facts(info), "  ", _NAME)
    return text([f"0x{info.address:x}: {info.meaning}", *told, *unavailable(info)])


def what(word: Word) -> str:
    """Present what a word can be."""
    at = "" if word.at is None else f", stored at 0x{word.at:x}"
    lines = [f"0x{word.word:016x}{at}" + ("" if word.meanings else ": nothing that is known")]
    return text([*lines, *facts(WORD.facts(word), "  ", 9)])


def refs(answer: References) -> str:
    """Present who points into some memory."""
    told = answer.references
    by_kind = ", ".join(f"{count} in {kind}" for kind, count in answer.by_kind.items())
    counted = sum(answer.by_kind.values())
    first = f"; of the first {counted}" if counted < answer.found else ""
    lines = [
        f"0x{answer.start:x}, {plural(answer.size, 'byte')}: {answer.meaning}",
        *(table(REFERENCE.grid(told)) if told else []),
        f"{plural(answer.found, 'word')} in {size(answer.bytes_read)} of memory"
        + (f", {len(told)} shown" if len(told) < answer.found else "")
        + (f"{first}: {by_kind}" if by_kind else ""),
    ]
    if answer.unreadable_pages:
        lines.append(f"{plural(answer.unreadable_pages, 'page')} not in the target")
    return text(lines)


def layout(layout: PageTypeLayout) -> str:
    """Present what was detected, and from which evidence."""
    return text(facts(LAYOUT.facts(layout)))


def capture(summary: CaptureSummary) -> str:
    """Present what was written to a capture."""
    lines = [
        f"{summary.path}: {size(summary.size)}, {size(summary.memory)} of memory, "
        f"{size(summary.kept)} of it as it was"
    ]
    if summary.left_out:
        lines.append(f"left out: {', '.join(summary.left_out)}")
    if summary.unreadable:
        lines.append(f"not in the target: {size(summary.unreadable)}")
    lines += [f"{name}: {told}" for name, told in CAPTURE.others(summary)]
    return text(lines)


def decode(words: Sequence[Decoded]) -> str:
    """Present the readings of one page_type word."""
    return text([f"0x{words[0].word:08x}", *table(DECODED.grid(words))])
