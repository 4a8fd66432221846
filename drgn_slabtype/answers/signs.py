# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Signatures of findings
----------------------

What was written over what, by whom it was allocated, and what lies before it,
told so that it is the same in every dump that the same mistake has left. Only
what captures hold is looked at, so that a capture has the signature of its dump.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import List, Optional, Sequence, Tuple

import numpy as np
from drgn import FaultError
from drgn.helpers.common.format import escape_ascii_string

from .. import reading
from ..allocators.slub.cache import SlubCache, slab_flags
from ..errors import SlabTypeError
from ..findings import Damaged, Finding
from ..machine import Machine
from ..signature import Signature, callers, kind_of_place, size_class
from .address import NOTHING, AddressInfo
from .content import ERRORS, classify, describe_word, is_small
from .describe import describe
from .lookup import Located, Lookup
from .names import word_format
from .nearby import has_wrong_bit, slots_of, wrong_free_pointer
from .poisons import fill, poisons
from .tracks import Track

_MOST = 50  # roots that are looked at closely
_FRAMES = 2  # of a call trace; further up, the same mistake has many callers
_BYTES = 32  # of damage that are looked at
_SMALL = 1 << 32  # counts are below
_NUMBERS = ("freelist-index", "freelist-duplicate")  # what these find is a position
# What these find is an address, which of some machines is a small number.
_POINTERS = frozenset(
    "cache-list claim-foreign freelist-array freelist-cycle freelist-pointer list-broken "
    "list-links memory-map slab-base-wrong slab-cache-wrong".split()
)
_RELEASE = re.compile(r"\d+\.\d+")


def signed(lookup: Lookup, findings: Sequence[Finding]) -> List[Finding]:
    """
    Return the findings, each root with its signature.

    :param lookup: The machine as the findings show it.
    """
    told, left = [], _MOST
    for finding in findings:
        if finding.because is None:
            finding = replace(finding, signature=_signature(lookup, finding, left > 0))
            left -= 1
        told.append(finding)
    return told


def _signature(lookup: Lookup, finding: Finding, closely: bool) -> Signature:
    machine = lookup.machine
    known = Signature(
        finding.code,
        cache=size_class(finding.cache) if finding.cache else None,
        place=kind_of_place(finding.place) if finding.place else None,
        difference=_difference(finding),
        allocator=machine.layout.allocator,
        layout=machine.layout.encoding.name,
        version=machine.fact(_version),
    )
    if not closely:
        return known
    try:
        return _look_closely(lookup, finding, known)
    except (FaultError, LookupError):
        return known
    except (OSError, SlabTypeError):  # of the target as a whole
        raise
    except reading.CAUGHT:
        return known


def _version(machine: Machine) -> Optional[str]:
    release = escape_ascii_string(machine.prog["UTS_RELEASE"].string_(), escape_backslash=True)
    found = _RELEASE.match(release)
    return found[0] if found else None


def _difference(finding: Finding) -> Optional[str]:
    # Of two counts.
    expected, found = finding.expected, finding.found
    if finding.code in _POINTERS or finding.code in _NUMBERS:
        return None
    if not isinstance(expected, int) or not isinstance(found, int):
        return None
    if not (abs(expected) < _SMALL and abs(found) < _SMALL) or expected == found:
        return None
    if abs(found - expected) == 1:
        return f"{found - expected:+}"
    return "more" if found > expected else "fewer"


def _look_closely(lookup: Lookup, finding: Finding, known: Signature) -> Signature:
    if finding.code == "freelist-pointer" and (holder := _holder(lookup, finding)) is not None:
        _, cache, start = holder
        written = _free_pointer(lookup, finding, *holder)
        known = replace(known, written=written, offset=cache.offset)
        return _with_events(known, describe(lookup, start))
    if finding.ranges:
        first = finding.ranges[0]
        known = replace(known, written=_bytes(lookup, first))
        about = finding.object
        if about is not None:
            offset = first.address - about
            info = describe(lookup, about)
            known = _with_events(replace(known, offset=offset), info)
            if offset <= 0 and info.previous is not None:
                before = describe(lookup, info.previous.address)
                known = replace(known, before=_callers(before.tracks, "allocated"))
        return known
    is_word = finding.code not in _NUMBERS and known.difference is None
    if is_word and isinstance(finding.found, int):
        known = replace(known, written=_word(lookup, finding.found))
    if finding.object is not None:
        known = _with_events(known, describe(lookup, finding.object))
    return known


def _with_events(known: Signature, info: AddressInfo) -> Signature:
    return replace(
        known,
        allocated=_callers(info.tracks, "allocated", "last used"),
        freed=_callers(info.tracks, "freed"),
    )


def _callers(tracks: Sequence[Track], *events: str) -> Tuple[str, ...]:
    for track in tracks:
        if track.event in events:
            trace = track.stack or ((track.caller,) if track.caller else ())
            return callers(trace, _FRAMES)
    return ()


# Free pointers.


def _holder(lookup: Lookup, finding: Finding) -> Optional[Tuple[Located, SlubCache, int]]:
    # The slab, its cache, and the object that holds the pointer.
    slab = lookup.of_page(finding.slab or 0)
    is_slub = lookup.machine.layout.allocator == "SLUB"
    if slab is None or slab.number < 0 or finding.index is None or not is_slub:
        return None
    cache = SlubCache(slab.caches, slab.number, slab_flags(lookup.machine), 1)
    start = int(slab.index.addresses[slab.row])
    return slab, cache, start + cache.red_left_pad + finding.index * cache.size


def _free_pointer(
    lookup: Lookup, finding: Finding, slab: Located, cache: SlubCache, holder: int
) -> Optional[str]:
    # As it is stored if that tells something, else as the kernel decodes it.
    if not isinstance(finding.found, int):
        return None
    stored = lookup.machine.prog.read_word(holder + cache.offset)
    slots = slots_of(slab, cache)
    # Before all else: a hardened one can look like text.
    if wrong_free_pointer(slots, finding.found, finding.found != stored) is not None:
        return "one bit wrong"
    told = _known_word(lookup, stored)
    if told is not None:
        return told
    if 0 <= finding.found - slots.first < slots.span:
        return "inside an object of its slab"
    return _known_word(lookup, finding.found) or "no free pointer"


# Words.


def _word(lookup: Lookup, value: int) -> str:
    # What a word is that should be another.
    if not 0 <= value < 1 << 8 * lookup.machine.memory.word_size:
        return "no address"
    told = _known_word(lookup, value)
    if told is not None:
        return told
    if has_wrong_bit(lookup, value):
        return "one bit wrong"
    if is_small(value, lookup.machine.memory.word_size):
        return "a small number"
    return "an address of nothing" if _is_kernel(lookup.machine, value) else "no address"


def _known_word(lookup: Lookup, value: int) -> Optional[str]:
    source = lookup.machine.memory
    named = poisons(value, *word_format(lookup.machine))
    named = [one for one in named if not one.startswith("its ")]
    if named:
        return named[0].partition(",")[0]
    if value == 0:
        return "NULL"
    negative = (1 << 8 * source.word_size) - value
    if describe_word(value, source.word_size) is not None and negative in ERRORS:
        return f"the error {ERRORS[negative]}"
    if _is_kernel(lookup.machine, value) and (leads := _leads_to(lookup, value)) is not None:
        return leads
    order = "little" if source.byteorder == "<" else "big"
    data = value.to_bytes(source.word_size, order)  # type: ignore[arg-type]
    content = classify(data, source.word_size, order)
    return {"text": "text", "fill": "one byte over and over", "pattern": "a pattern"}.get(
        content.kind
    )


def _leads_to(lookup: Lookup, value: int) -> Optional[str]:
    # Only what it leads to tells that it is a pointer.
    info = describe(lookup, value)
    if not info.is_known or info.meaning == NOTHING:
        return None
    if info.kind in ("slab object", "slab", "kfence object") and info.cache:
        return f"pointer to {size_class(info.cache)}"
    if info.meaning.startswith("symbol "):
        return f"pointer to {info.meaning.split()[1].partition('+0x')[0]}"
    return None if info.kind == "page" and info.offset != 0 else f"pointer to {_kind(info)}"


def _kind(info: AddressInfo) -> str:
    return "other memory" if info.kind == "other" else f"a {info.kind}"


def _is_kernel(machine: Machine, value: int) -> bool:
    return bool(machine.memory.is_kernel_address(np.array([value], np.uint64))[0])


# Bytes.


def _bytes(lookup: Lookup, one: Damaged) -> str:
    source = lookup.machine.memory
    order = "little" if source.byteorder == "<" else "big"
    data = lookup.machine.prog.read(one.address, min(one.size, _BYTES))
    if len(data) == 1:
        return _byte(data[0], one.expected)
    word = source.word_size
    # A pointer may begin or end with a byte that happens to be what it overwrote.
    start = one.address // word * word
    whole = lookup.machine.prog.read(start, word)
    covered = len(data) > word // 2 and one.address - start < word // 2
    if covered and len(data) <= word:
        told = _known_word(lookup, int.from_bytes(whole, order))  # type: ignore[arg-type]
        if told is not None:
            return told
    content = classify(data, word, order, one.address)
    if content.kind == "fill":
        return fill(data[0]).partition(",")[0] or "one byte over and over"
    if content.kind == "words" and content.words:
        told = _known_word(lookup, content.words[0][1])
        if told is not None:
            return told
    names = {"zeroes": "zeroes", "text": "text", "pattern": "a pattern"}
    return names.get(content.kind, "some bytes")


def _byte(found: int, expected: str) -> str:
    try:
        should = int(expected, 16)
    except ValueError:
        return "a byte"
    if found == 0:
        return "a zero byte"
    if found - should in (-1, 1):
        return "a byte one less" if found < should else "a byte one more"
    return "one bit wrong" if bin(found ^ should).count("1") == 1 else "a byte"
