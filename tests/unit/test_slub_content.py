# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every byte of a made-up slab, damaged in turn.

A slab of kmalloc-64 under slub_debug=FZPU, as the kernel fills it, with and without
what KASAN keeps behind its objects.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple, Optional

import numpy as np
import pytest

from drgn_slabtype.allocators.quarantine import QUARANTINE
from drgn_slabtype.allocators.slub.asked import DebugTraits, mostly_red
from drgn_slabtype.allocators.slub.debug import ContentReader
from drgn_slabtype.allocators.slub.layout import Parts, SlotLayout
from drgn_slabtype.findings import Finding
from drgn_slabtype.ledger import (
    Claims,
    Containers,
    Facts,
    Ledger,
    Place,
    Slabs,
    State,
    Suspect,
    Walk,
)
from drgn_slabtype.machine.memory import Gathered
from drgn_slabtype.rules.content import judge_content

from ..slots import KASAN, PLAIN, slot_cache

BASE, PAGE = 0xFFFF888000100000, 4096
FREE, USED, HELD, LIVED_IN = range(4)
ASKED = 40
PLACES = (Place("freelist", counted=False), QUARANTINE, Place("allocator", counted=True))


def cache(**differs: Any) -> Any:
    known = {"poison": True, "padded": True, "facts": Facts("made-up", 0, 64, 168, PAGE // 168)}
    return slot_cache(**{**known, **differs})


class Made(NamedTuple):
    """A cache, and the parts of its slots."""

    parts: Parts
    cache: Any


MADE: Dict[str, Made] = {
    "plain": Made(PLAIN, cache()),
    "narrow": Made(PLAIN._replace(asked=4), cache()),
    "kasan, free record in the object": Made(KASAN, cache(kasan_alloc=152, size=192)),
    "kasan, free record behind": Made(KASAN, cache(kasan_alloc=152, kasan_free=176, size=216)),
    "kasan, wide zone": Made(
        KASAN, cache(kasan_alloc=152, kasan_free=176, align=64, red_left_pad=64, size=320)
    ),
    "no poison, for a constructor": Made(PLAIN, cache(poison=False)),
}


def fill(made: Made, states: List[int]) -> np.ndarray:
    """What the kernel leaves in a slab."""
    of = made.cache
    memory = np.full(PAGE, 0x5A, np.uint8)
    for number, state in enumerate(states):
        at = number * of.size + of.red_left_pad
        red = 0xBB if state == FREE else 0xCC
        memory[at - of.red_left_pad : at] = red
        memory[at : at + 64] = 0x11
        if state == FREE and of.poison:
            memory[at : at + 63], memory[at + 63] = 0x6B, 0xA5
        if state != FREE:
            memory[at + ASKED : at + 64] = red
        memory[at + 64 : at + 72] = red
        memory[at + 72 : at + 144] = 0x77  # the free pointer and two tracks
        memory[at + 144 : at + 144 + made.parts.asked] = 0
        memory[at + 144] = ASKED
        for offset in (of.kasan_alloc, of.kasan_free):
            if offset:
                memory[at + offset : at + offset + 24] = range(24)
        if state == HELD and of.kasan_alloc and not of.kasan_free:
            memory[at : at + 24] = range(24)
    return memory


def reader(made: Made, memory: np.ndarray, states: List[int]) -> Ledger:
    def gather(addresses: Any, width: int) -> Gathered:
        rows = [memory[at - BASE : at - BASE + width] for at in addresses.tolist()]
        return Gathered(np.array(rows).reshape(len(rows), width), np.ones(len(rows), np.bool_))

    source = SimpleNamespace(page_size=PAGE, word_size=8, byteorder="<", gather=gather)
    layout = SimpleNamespace(size=32, has=lambda name: False, offset=lambda name: 0)
    machine: Any = SimpleNamespace(
        memory=source,
        structure=lambda name: layout,
        layout=SimpleNamespace(slab_struct="slab"),
    )
    of, free = made.cache, [number for number, state in enumerate(states) if state == FREE]
    first = BASE + of.red_left_pad
    slabs = Slabs.build(
        1, page=0xFFFFEA0000004000, base=first, objects=len(states), counted=0, order=0, readable=0
    )
    own = Containers.build(
        1, place=0, slab=0, counted=len(free), walked=len(free), state=Walk.WHOLE
    )
    claimed = [number for number, state in enumerate(states) if state != USED]
    kinds = {FREE: (0, State.FREE), HELD: (1, State.WAITING), LIVED_IN: (2, State.LIVE)}
    claims = Claims.build(
        len(claimed),
        slab=0,
        index=np.array(claimed),
        place=np.array([kinds[states[number]][0] for number in claimed]),
        state=np.array([kinds[states[number]][1] for number in claimed]),
    )
    facts = Facts("made-up", 0, 64, of.size, len(states))
    ledger = Ledger(facts, PLACES, slabs, claims, own)
    traits = DebugTraits(made.parts, asked_red=True)
    found = ContentReader(machine, of, traits, ledger, np.zeros(0, np.uint64))
    ledger.suspects += found.suspects()
    ledger.zones = found.zones()
    return ledger


def check(made: Made, states: List[int], damage: Optional[int] = None) -> List[Finding]:
    memory = fill(made, states)
    if damage is not None:
        memory[damage] ^= 0x80
    ledger = reader(made, memory, states)
    assert ledger.suspects == []
    return [*judge_content(ledger)]


def promised(made: Made, state: int) -> List[str]:
    """What each byte of a slot is, where debugging promises something of it."""
    of, layout = made.cache, SlotLayout(made.parts, made.cache)
    names = [""] * of.size
    lead = of.red_left_pad
    names[:lead] = ["left red zone"] * lead
    names[lead + 64 : lead + 72] = ["right red zone"] * 8
    if state == FREE and of.poison:
        names[lead : lead + 64] = ["poison"] * 64
    if state != FREE:
        names[lead + ASKED : lead + 64] = ["red zone after the size asked for"] * (64 - ASKED)
    names[lead + layout.end :] = ["padding after the slot"] * (of.size - lead - layout.end)
    return names


STATES = [USED, FREE, HELD, LIVED_IN, USED]


@pytest.mark.parametrize("made", MADE.values(), ids=MADE.keys())
def test_sound_slab_is_sound(made: Made) -> None:
    assert check(made, [*STATES, *[FREE] * (PAGE // made.cache.size - len(STATES))]) == []


@pytest.mark.parametrize("made", MADE.values(), ids=MADE.keys())
@pytest.mark.parametrize("number", range(4), ids=["used", "free", "in quarantine", "lived in"])
def test_each_promised_byte_is_missed_and_no_other(made: Made, number: int) -> None:
    of, states = made.cache, [*STATES, *[FREE] * (PAGE // made.cache.size - len(STATES))]
    names, asked = promised(made, STATES[number]), of.red_left_pad + 144
    for at, name in enumerate(names):
        if asked <= at < asked + 4:
            continue  # another size asked for, with another red zone
        found = check(made, states, number * of.size + at)
        assert [(one.place, one.index) for one in found] == ([(name, number)] if name else []), at


def test_end_of_a_slab_is_padding() -> None:
    made = MADE["plain"]
    states = [FREE] * (PAGE // made.cache.size)
    (found,) = check(made, states, PAGE - 1)
    assert (found.place, found.object) == ("padding at the end of the slab", None)


def test_a_slot_with_16_bytes_that_nobody_knows_is_not_judged() -> None:
    made = Made(PLAIN, cache(size=168 + 16))
    states = [*STATES, *[FREE] * (PAGE // made.cache.size - len(STATES))]
    memory = fill(made, states)
    for number in range(len(states)):
        at = number * made.cache.size + 8 + 152
        memory[at : at + 16] = 0
    ledger = reader(made, memory, states)
    (told,) = ledger.suspects
    assert isinstance(told, Suspect)
    assert told.code == "not-understood"
    assert "slots of 184 bytes have parts that add up to 168" in told.message
    assert [*judge_content(ledger)] == []


def test_one_object_tells_a_red_zone_though_some_of_it_is_overwritten() -> None:
    content = np.full((3, 32), 0x6B, np.uint8)
    content[:2, 18:] = 0xCC
    content[1, 18:20] = 0xAB
    asked = np.full(3, 18, np.int64)
    assert mostly_red(content, asked).tolist() == [True, True, False]
    assert mostly_red(content, np.full(3, 32, np.int64)).tolist() == [False] * 3
