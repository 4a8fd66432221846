# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is there instead
---------------------

A finding says that some bytes are not what they must be. The next question is
what they are, where they came from and who the neighbours are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import AbstractSet, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from drgn import FaultError

from .. import reading
from ..allocators.slub.cache import SlubCache, slab_flags
from ..allocators.slub.freelists import Encoding, decode
from ..errors import SlabTypeError
from ..findings import Damaged, Finding
from ..machine import Machine
from ..particulars import Clue, Lead, SlabObject
from ..records import plural
from .address import AddressInfo
from .content import Content, classify, continues, describe_word, is_poison
from .describe import describe, spell
from .extent import lines, stretches
from .lookup import Lookup
from .nearby import Slots, slots_of, wrong_free_pointer
from .states import ObjectState
from .tracks import spell_track

_MOST = 50  # findings that get details: after that, a human reads no further
_BYTES = 32  # of damage, and before it, that are looked at
_RANGES = 8  # of damaged bytes that are looked at
_POINTERS = 3  # that are followed up
_OBJECTS = 6  # of a destroyed cache that are listed


def explain(lookup: Lookup, findings: Sequence[Finding]) -> List[Finding]:
    """
    Return the findings with what can be said about what was found.

    :param lookup: The machine as the findings show it.
    """
    explained = [_explained(lookup, finding) for finding in findings[:_MOST]]
    return [*_with_stretches(lookup, explained), *findings[_MOST:]]


def _with_stretches(lookup: Lookup, findings: List[Finding]) -> List[Finding]:
    # Each with the stretch that its damage is part of.
    try:
        found = stretches(lookup, findings)
    except (OSError, SlabTypeError):  # of the target as a whole
        raise
    except reading.CAUGHT as error:
        why = reading.not_read("how far the damage reaches", error).message
        return [replace(one, details=(*one.details, why)) for one in findings]
    return [
        replace(
            one,
            stretches=tuple(mine),
            details=(*one.details, *(line for stretch in mine for line in lines(stretch, one))),
        )
        for one, mine in zip(findings, found)
    ]


def _explained(lookup: Lookup, finding: Finding) -> Finding:
    try:
        clues = tuple(_clues(lookup, finding))
        about = _object_of(lookup, finding)
    except (OSError, SlabTypeError):  # of the target as a whole
        raise
    except reading.CAUGHT as error:
        why = reading.not_read("what is there", error).message
        return replace(finding, details=(why,), clues=(Clue("not read", why),))
    told = [clue.text for clue in clues]
    if about is None:
        return replace(finding, details=tuple(told), clues=clues)
    told += [*_neighbours(about), *(spell_track(track) for track in about.tracks)]
    return replace(
        finding,
        details=tuple(told),
        clues=clues,
        state=None if finding.object is None else about.state,
        places=() if finding.object is None else about.places,
        previous=about.previous,
        next=about.next,
        tracks=about.tracks,
    )


def _clues(reading: Lookup, finding: Finding) -> Iterator[Clue]:
    explainer = _EXPLAINERS.get(finding.code)
    if explainer is not None:
        try:
            yield from explainer(reading, finding)
        except (FaultError, LookupError):
            yield Clue("unreadable", "what is there instead could not be read")


def _object_of(reading: Lookup, finding: Finding) -> Optional[AddressInfo]:
    # The object that a finding is about, if it is about one; for bytes of a slab
    # itself, the one in whose slot they lie.
    address = finding.object
    if address is None and finding.ranges:
        address = finding.ranges[0].address
    if address is None:
        return None
    try:
        return describe(reading, address)
    except (FaultError, LookupError):
        return None


def _lead(reading: Lookup, address: int) -> Lead:
    info = describe(reading, address)
    return Lead(
        info.kind,
        info.meaning,
        info.cache,
        info.slab,
        info.object,
        info.index,
        info.offset,
        info.part,
        info.state,
        info.places,
    )


def _explain_pointer(reading: Lookup, finding: Finding) -> Iterator[Clue]:
    # A free pointer that leads astray: the word as it is stored, other ways to
    # read it, and what it leads to.
    assert isinstance(finding.found, int)
    prog, value = reading.machine.prog, finding.found
    slab = reading.of_page(finding.slab or 0)
    is_slub = reading.machine.layout.allocator == "SLUB"
    if slab is not None and slab.number >= 0 and finding.index is not None and is_slub:
        cache = SlubCache(slab.caches, slab.number, slab_flags(reading.machine), 1)
        slots = slots_of(slab, cache)
        at = slots.first + finding.index * cache.size + cache.offset
        stored = prog.read_word(at)
        near = wrong_free_pointer(slots, value, value != stored)
        what, lead = _word(reading, stored) if near is None else (f"a free pointer, {near}", None)
        yield Clue("stored", f"stored at 0x{at:x}: 0x{stored:x}: {what}", at, stored, lead)
        yield from _other_forms(reading, cache, slots, at, stored, value)
        if value != stored:
            yield _pointer(reading, value, "decoded: ")
    else:
        what, lead = _word(reading, value)
        yield Clue("leads", f"0x{value:x}: {what}", finding.address, value, lead)


def _other_forms(
    reading: Lookup,
    cache: SlubCache,
    slots: Slots,
    at: int,
    stored: int,
    value: int,
) -> Iterator[Clue]:
    tags = reading.machine.memory.tags
    where = np.array([at], np.uint64)
    word = np.array([stored], np.uint64)
    names = {
        Encoding.PLAIN: "as it stands, without hardening",
        Encoding.XOR: "hardened without byte swap",
        Encoding.SWAPPED: "hardened with byte swap",
    }
    for encoding, name in names.items():
        if encoding is not Encoding.PLAIN and cache.random < 0:
            continue
        other = int(decode(encoding, word, where, max(cache.random, 0), tags)[0])
        offset = other - slots.first
        if other != value and 0 <= offset < slots.span:
            index, rest = divmod(offset, cache.size)
            inside = f"{plural(rest, 'byte')} into object" if rest else "object"
            told = f"read {name}, it is 0x{other:x}, {inside} {index} of this slab"
            yield Clue("read otherwise", told, at, other)


def _explain_index(reading: Lookup, finding: Finding) -> Iterator[Clue]:
    # An index array that holds something else.
    slab = reading.of_page(finding.slab or 0)
    if slab is None or finding.index is None:
        return
    array = int(slab.index["freelist"][slab.row])
    width = reading.machine.structure("freelist_idx_t").size
    entry = array + finding.index * width
    data = reading.machine.memory.read(entry, 16)
    told = _classify(reading, data, entry).text
    yield Clue("bytes", f"from entry {finding.index} at 0x{entry:x} on: {told}", entry)
    where = describe(reading, array)
    told = f"the array at 0x{array:x} is {spell(where)}"
    yield Clue("array", told, array, leads=_lead(reading, array))


def _explain_bytes(reading: Lookup, finding: Finding) -> Iterator[Clue]:
    # Overwritten red zones, poison and padding.
    if not finding.ranges:
        return
    for one in finding.ranges[:_RANGES]:
        yield from _explain_range(reading, one)
    more = len(finding.ranges) - _RANGES
    if more > 0:
        yield Clue("more", f"{more} more ranges are overwritten", value=more)


def _explain_range(reading: Lookup, one: Damaged) -> Iterator[Clue]:
    prog, address = reading.machine.prog, one.address
    data = prog.read(address, min(one.size, _BYTES))
    # A pointer may begin or end with a byte that happens to be what it overwrote.
    words, start = _words_of(reading, one)
    content = _classify(reading, words, start)
    heads = dict(_list_heads(reading, content))
    if len(heads) * 2 * reading.machine.memory.word_size < len(data):
        some = "" if len(data) == one.size else f"the first {len(data)} of {one.size} bytes: "
        told = _classify(reading, data, address).text
        yield Clue("bytes", f"0x{address:x}: {some}{told}", address)
    before = prog.read(address - _BYTES, _BYTES)
    repeat = continues(before, data)
    filled = len(set(data)) == 1 and is_poison(data[0])
    if repeat is not None and any(data) and not filled:
        told = (
            f"it carries on what stands before it, every {repeat} bytes the same: "
            "something was written past its end"
        )
        yield Clue("carries on", told, address, repeat)
    for offset, link in heads.items():
        at = start + offset
        leads = "itself" if link == at else f"0x{link:x}: {spell(describe(reading, link))}"
        told = f"0x{at:x}: an empty list head that points to {leads}"
        yield Clue("list head", told, at, link, _lead(reading, link))
    yield from _pointers(reading, content, known=set(heads.values()))


def _words_of(reading: Lookup, one: Damaged) -> Tuple[bytes, int]:
    # The aligned words of which at least half is damaged, and where they begin.
    word = reading.machine.memory.word_size
    first, end = one.address, one.address + min(one.size, _BYTES)
    start = first // word * word if word - first % word >= word // 2 else first
    stop = -(-end // word) * word if end % word >= word // 2 else end
    return reading.machine.prog.read(start, stop - start), start


def _list_heads(reading: Lookup, content: Content) -> Iterator[Tuple[int, int]]:
    # (offset, link) of two equal links in a row: a list that is empty, or has but
    # one entry. More of the same are something else.
    word = reading.machine.memory.word_size
    links = dict(content.words)
    for offset, link in links.items():
        before, after, beyond = (links.get(offset + step * word) for step in (-1, 1, 2))
        if after != link or link in (before, beyond):
            continue
        if _is_kernel(reading.machine, link) and describe_word(link, word) is None:
            yield offset, link


def _explain_entry(reading: Lookup, finding: Finding) -> Iterator[Clue]:
    # What a place holds that is no object of the cache.
    if isinstance(finding.found, int):
        what, lead = _word(reading, finding.found)
        yield Clue("leads", f"0x{finding.found:x}: {what}", finding.word, finding.found, lead)


def _explain_cycle(reading: Lookup, finding: Finding) -> Iterator[Clue]:
    # The object that is on the list already: the one that was freed twice, if any was.
    if not isinstance(finding.found, int):
        return
    info = describe(reading, finding.found)
    if not info.tracks:
        return
    told = "; ".join(spell_track(track) for track in info.tracks)
    yield Clue(
        "leads",
        f"0x{finding.found:x}, to which it leads back: {told}",
        finding.word,
        finding.found,
        _lead(reading, finding.found),
        info.tracks,
    )


def _explain_destroyed(reading: Lookup, finding: Finding) -> Iterator[Clue]:
    # The first of the objects that are left, with who allocated them.
    judged = reading.judged(reading.number(finding.cache or ""))
    left = judged.objects.in_states({ObjectState.IN_USE})
    for address in left.addresses()[:_OBJECTS]:
        tracks = [one for one in describe(reading, address).tracks if one.event == "allocated"]
        told = "; ".join(spell_track(track) for track in tracks)
        text = f"object 0x{address:x}" + (f", {told}" if told else "")
        yield Clue("left", text, address, tracks=tuple(tracks))
    more = len(left) - _OBJECTS
    if more > 0:
        yield Clue("more", f"{more} more are in use", value=more)


_EXPLAINERS: Dict[str, Callable[[Lookup, Finding], Iterator[Clue]]] = {
    "freelist-pointer": _explain_pointer,
    "freelist-cycle": _explain_cycle,
    "freelist-index": _explain_index,
    "freelist-duplicate": _explain_index,
    "claim-foreign": _explain_entry,
    "cache-destroyed": _explain_destroyed,
    "redzone": _explain_bytes,
    "poison": _explain_bytes,
    "padding": _explain_bytes,
}


def _classify(reading: Lookup, data: bytes, address: int) -> Content:
    source = reading.machine.memory
    order = "little" if source.byteorder == "<" else "big"
    return classify(data, source.word_size, order, address)


def _word(reading: Lookup, value: int) -> Tuple[str, Optional[Lead]]:
    # A word in full: what its value says, what its bytes say, where it points.
    source = reading.machine.memory
    known = describe_word(value, source.word_size)
    if known is not None:
        return known, None
    if _is_kernel(reading.machine, value):
        return spell(describe(reading, value)), _lead(reading, value)
    order = "little" if source.byteorder == "<" else "big"
    data = value.to_bytes(source.word_size, order)  # type: ignore[arg-type]
    content = classify(data, source.word_size, order)
    if content.kind in ("text", "fill", "pattern"):
        return content.text, None
    return "not an address of the kernel's half", None


def _pointer(reading: Lookup, value: int, prefix: str = "") -> Clue:
    if _is_kernel(reading.machine, value):
        told = f"{prefix}0x{value:x}: {spell(describe(reading, value))}"
        return Clue("leads", told, value=value, leads=_lead(reading, value))
    return Clue("leads", f"{prefix}0x{value:x}: not an address of the kernel's half", value=value)


def _pointers(reading: Lookup, content: Content, known: AbstractSet[int]) -> Iterator[Clue]:
    # Those that are not known yet.
    if content.kind in ("text", "fill"):
        return
    leading = (value for _, value in content.words if _is_kernel(reading.machine, value))
    for value in [value for value in dict.fromkeys(leading) if value not in known][:_POINTERS]:
        if describe_word(value, reading.machine.memory.word_size) is None:
            yield _pointer(reading, value)


def _is_kernel(machine: Machine, value: int) -> bool:
    return bool(machine.memory.is_kernel_address(np.array([value], np.uint64))[0])


def _neighbours(info: AddressInfo) -> Iterator[str]:
    for name, other in (("before", info.previous), ("after", info.next)):
        if other is not None:
            yield f"the object {name} is 0x{other.address:x}, {_state(other)}"


def _state(other: SlabObject) -> str:
    return f"{other.state} ({other.place})" if other.place else other.state
