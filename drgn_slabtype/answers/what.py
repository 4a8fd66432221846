# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One word
--------

What 64 bits can be: a value that the kernel writes on purpose, text, a moment,
an error, an address and what is there, a free pointer in one of its forms, or a
pointer of which one bit or one byte is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Optional, Tuple

import numpy as np
from drgn import IntegerLike, Program

from ..allocators.slub.cache import SlubCache, slab_flags
from ..allocators.slub.freelists import Encoding, decode
from ..arguments import somewhere, word_of
from ..machine import Machine, machine
from ..machine.clock import clock
from ..pages.scan import page_ranges
from ..records import Listing, plural
from ..shapes import Address, Flags
from .address import Meaning
from .content import AMONG, describe_word, longest_text, spell_text
from .describe import describe, spell
from .lookup import Located, Lookup, lookup
from .names import known_as, word_format
from .nearby import slots_of, wrong_free_pointer, wrong_pointers
from .own import with_own
from .poisons import LOCK_OF_NOBODY, damaged_poisons, poisons

_HALF = 4  # bytes
_FEW = 4096
_SHORTEST_TEXT = 4  # fewer printable bytes in a row come about by chance


@dataclass(frozen=True)
class Word(Listing):
    """What a word can be; the more certain meanings first."""

    LISTED = "meanings"

    word: Flags
    """The word."""
    at: Optional[Address] = None
    """Where it is stored, if that was told."""
    where: Optional[str] = None
    """What is there."""
    meanings: Tuple[Meaning, ...] = ()
    """All that it can be."""


def what(prog: Program, word: IntegerLike, at: Optional[IntegerLike] = None) -> Word:
    """
    Return what a word can be.

    >>> for one in what(prog, 0x6b6b6b6b6b6b6b6b):
    ...     print(one.kind, "|", one.meaning)
    poison | POISON_FREE, poison of a free object: 0x6b in every byte

    :param word: 64 bits, signed or unsigned.
    :param at: Address at which the word is stored. A free pointer of SLUB that is
        hardened, and an index of SLAB, can be told only if that is known.
    :raises ArgumentError: if one of them is no address, or has more than 64 bits, or *at* is NULL.
    :raises LayoutError: if the kernel's layout is not understood.
    """
    value = word_of(word)
    stored = None if at is None else somewhere("a word", at)
    reading = lookup(machine(prog))
    with reading.machine.moment():
        where = None if stored is None else _where(reading, stored)
        return Word(value, stored, where, meanings(reading, value, stored))


def _where(reading: Lookup, stored: int) -> str:
    info = with_own(reading, describe(reading, stored))
    return spell(info) + ("" if info.is_known else known_as(reading.machine, stored))


def meanings(reading: Lookup, value: int, at: Optional[int] = None) -> Tuple[Meaning, ...]:
    """Return what a word can be, as of one reading of the machine."""
    found = [*_values(reading.machine, value), *_address(reading, value)]
    if at is not None:
        stored = list(_stored(reading, value, at))
        if any(one.kind == "free pointer" for one in stored):
            found = [one for one in found if one.kind != "text"]  # which it is by chance
        found += stored
        word = _page_type_word(reading, value, at)
        if word is not None:
            found = [word]
    # A few bytes of a pointer can be printed by chance, too.
    by_chance = [one for one in found if one.kind == "text" and one.meaning.endswith(AMONG)]
    found = [one for one in found if one not in by_chance]
    # What leads into code is meant to, wherever in it.
    code = any(one.meaning.startswith("symbol ") for one in found)
    if not code and all(one.kind == "address" for one in found):
        found += [
            Meaning(f"wrong {near.what}", f"with {near.how}: {spell(info)}", info.address)
            for near in wrong_pointers(reading, value)
            for info in (with_own(reading, near.info),)
        ]
    return tuple(dict.fromkeys([*found, *by_chance]))


def _values(machine: Machine, value: int) -> Iterator[Meaning]:
    source = machine.memory
    known = poisons(value, *word_format(machine))
    yield from (Meaning("poison", one) for one in known)
    if not known:
        near = damaged_poisons(value, *word_format(machine))
        yield from (Meaning("poison", one) for one in near)
        known += near
    told = describe_word(value, source.word_size)
    if told is not None and not known:
        yield Meaning(_kind(told), told)
    moments = tuple(_moment(machine, value))
    short = None if value >> 32 or value >> 31 == 0 else describe_word(value, _HALF)
    # The jiffies of the first minutes are such numbers: they begin shortly below 2^32.
    if short is not None and not (moments and _kind(short) == "number"):
        yield Meaning(_kind(short), f"{short}, in 32 bits")
    if told is None and not known and source.word_size == 2 * _HALF:
        yield from _halves(value, source.byteorder)
    if value == (1 << 8 * source.word_size) - 1:
        yield Meaning("poison", str(LOCK_OF_NOBODY))
    data = value.to_bytes(source.word_size, "little" if source.byteorder == "<" else "big")
    text = longest_text(data)
    if len(text) >= _SHORTEST_TEXT and not known:
        yield Meaning("text", spell_text(data))
    yield from moments
    yield from _page_type(machine, value)


def _halves(value: int, byteorder: str) -> Iterator[Meaning]:
    # Two numbers beside each other, as they lie in memory.
    halves = [value & 0xFFFFFFFF, value >> 32]
    # The upper half of an address may be a number below zero, too, but none as near to it.
    if halves[1] and all(half < _FEW or half > (1 << 32) - _FEW for half in halves):
        signed = [half - (half >> 31 << 32) for half in halves]
        first, second = signed if byteorder == "<" else signed[::-1]
        yield Meaning("number", f"the small numbers {first} and {second}, in 32 bits each")


def _kind(told: str) -> str:
    return "error" if told.startswith("the error") else "number"


def _moment(machine: Machine, value: int) -> Iterator[Meaning]:
    now = clock(machine)
    ago = None if now is None else now.ago(value)
    if now is None or ago is None:
        return
    seconds = now.seconds(abs(ago))
    long = plural(abs(ago), "jiffy", "jiffies") if seconds is None else f"{seconds:.3f} s"
    yield Meaning("jiffies", f"a moment in jiffies: {long} {'ago' if ago >= 0 else 'from now'}")


def _page_type(machine: Machine, value: int) -> Iterator[Meaning]:
    encoding = machine.layout.encoding
    if value >> 32 in (0, 0xFFFFFFFF):
        word = value & 0xFFFFFFFF
        if encoding.types_of(word) and not encoding.conflict(word):
            yield Meaning("page type", f"a page_type word: {encoding.explain(word)}")


def _page_type_word(reading: Lookup, value: int, at: int) -> Optional[Meaning]:
    # What a word means where page_type is, also if that is no type.
    machine = reading.machine
    fields, encoding = machine.page, machine.layout.encoding
    pfn, beside = divmod(at - fields.vmemmap, fields.size)
    is_there = any(start <= pfn < end for start, end in page_ranges(machine))
    if not is_there or beside != fields.word or value >> 32:
        return None
    return Meaning("page type", f"the page_type word of that page: {encoding.explain(value)}")


def _address(reading: Lookup, value: int) -> Iterator[Meaning]:
    if reading.machine.memory.is_kernel_address(np.array([value], np.uint64))[0]:
        info = with_own(reading, describe(reading, value))
        if info.is_known:
            yield Meaning("address", spell(info), value)


# Where it is stored --------------------------------------------------------------


def _stored(reading: Lookup, value: int, at: int) -> Iterator[Meaning]:
    slab = reading.at(at)
    if slab is not None and slab.number >= 0 and reading.machine.layout.allocator == "SLUB":
        cache = SlubCache(slab.caches, slab.number, slab_flags(reading.machine), 1)
        yield from _free_pointers(reading, cache, value, at)
        yield from _wrong_free_pointer(reading, cache, slab, value, at)
    elif reading.machine.layout.allocator == "SLAB":
        yield from _index(reading, at)


_FORMS = {
    Encoding.PLAIN: "not hardened",
    Encoding.XOR: "hardened without byte swap",
    Encoding.SWAPPED: "hardened with byte swap",
}


def _free_pointers(reading: Lookup, cache: SlubCache, value: int, at: int) -> Iterator[Meaning]:
    word, where = np.array([value], np.uint64), np.array([at], np.uint64)
    tags, kept = reading.machine.memory.tags, _is_free_pointer(reading, cache, at)
    for form, name in _FORMS.items():
        if form is not Encoding.PLAIN and cache.random < 0:
            continue
        # Only one of these is what this kernel writes.
        if form is Encoding.PLAIN and (cache.random >= 0 or not kept):
            continue
        pointer = int(decode(form, word, where, max(cache.random, 0), tags)[0])
        if not pointer and (value or kept):
            yield Meaning("free pointer", f"a free pointer, {name}: NULL, the end of a freelist")
        elif reading.machine.memory.is_kernel_address(np.array([pointer], np.uint64))[0]:
            info = describe(reading, pointer)
            if info.object is not None or (form is not Encoding.PLAIN and info.is_known):
                text = f"a free pointer, {name}: 0x{pointer:x}: {spell(info)}"
                yield Meaning("free pointer", text, pointer)


def _wrong_free_pointer(
    reading: Lookup, cache: SlubCache, slab: Located, value: int, at: int
) -> Iterator[Meaning]:
    # A hardened one: of another, the address alone tells.
    if cache.random < 0 or not _is_free_pointer(reading, cache, at):
        return
    word, where = np.array([value], np.uint64), np.array([at], np.uint64)
    for form in (Encoding.SWAPPED, Encoding.XOR):
        found = decode(form, word, where, cache.random, reading.machine.memory.tags)
        near = wrong_free_pointer(slots_of(slab, cache), int(found[0]), hardened=True)
        if near is not None:
            yield Meaning("free pointer", f"a free pointer, {_FORMS[form]}, {near}")


def _is_free_pointer(reading: Lookup, cache: SlubCache, at: int) -> bool:
    # Whether that is where one is stored now: users write over one that is in their object.
    info = describe(reading, at)
    theirs = info.state == "in use" and cache.offset < cache.object_size
    return info.offset == cache.offset and not theirs


def _index(reading: Lookup, at: int) -> Iterator[Meaning]:
    # An entry of the array that the address is in, of whatever slab has it there.
    machine, whole = reading.machine, reading.whole
    caches, owner = whole.allocator.caches, whole.allocator.ownership.cache
    order = "little" if machine.memory.byteorder == "<" else "big"
    width = machine.structure("freelist_idx_t").size
    entry = (np.uint64(at) - whole.index["freelist"]) // np.uint64(width)
    objects = caches.rows["num"][owner]
    for row in np.flatnonzero((owner >= 0) & (entry < objects))[:1].tolist():
        start = int(whole.index["freelist"][row]) + int(entry[row]) * width
        number = int.from_bytes(machine.prog.read(start, width), order)  # type: ignore[arg-type]
        right = "" if number < objects[row] else ", which is no object"
        slab = f"{caches.names[owner[row]]} slab 0x{whole.index.pages[row]:x}"
        text = f"entry {entry[row]} of the freelist of {slab} holds index {number}{right}"
        yield Meaning("index", text)
