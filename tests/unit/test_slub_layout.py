# SPDX-License-Identifier: LGPL-2.1-or-later
"""The parts of SLUB's slots, and whether they add up to what a cache says."""

from __future__ import annotations

from typing import Any

import pytest

from drgn_slabtype.allocators.slub.layout import SlotLayout

from ..slots import KASAN, PLAIN, slot_cache


def cache(**differs: Any) -> Any:
    """Return one that is aligned to cache lines."""
    return slot_cache(**{"red_left_pad": 64, "align": 64, "size": 256, **differs})


def test_parts_follow_each_other() -> None:
    made = SlotLayout(PLAIN, cache())
    assert (made.tracks, made.orig_size, made.end, made.limit) == (80, 144, 152, 192)
    assert made.sound
    assert made.misfit() is None


@pytest.mark.parametrize("asked", [8, 4])
def test_size_asked_for_is_as_wide_as_the_kernel_has_it(asked: int) -> None:
    made = SlotLayout(PLAIN._replace(asked=asked), cache(align=8, red_left_pad=8, size=168))
    assert (made.orig_size, made.end) == (144, 144 + asked)
    assert made.misfit() is None


def test_a_member_that_nobody_knows_does_not_add_up() -> None:
    made = SlotLayout(PLAIN, cache(align=8, red_left_pad=8, size=168 + 16))
    assert made.misfit() == "slots of 184 bytes have parts that add up to 168"


def test_kasan_keeps_its_records_before_the_padding() -> None:
    # The free one lies in the object, or behind it.
    inside = SlotLayout(KASAN, cache(kasan_alloc=152))
    assert inside.end == 176
    assert inside.misfit() is None
    behind = SlotLayout(KASAN, cache(kasan_alloc=152, kasan_free=176, size=320))
    assert behind.end == 200
    assert behind.misfit() is None
    none = SlotLayout(KASAN, cache(kasan_alloc=152, kasan_free=0x7FFFFFFF))
    assert none.end == 176


def test_kasan_wants_room_behind_an_object() -> None:
    small = cache(
        object_size=512, inuse=520, offset=520, align=8, red_left_pad=8, kasan_alloc=600, size=656
    )
    made = SlotLayout(KASAN, small)
    assert made.misfit() is None
    assert made.end == 624
    small.size = 648
    assert made.misfit() == "slots of 648 bytes have parts that add up to 656"


def test_kasan_record_elsewhere_does_not_add_up() -> None:
    made = SlotLayout(KASAN, cache(kasan_alloc=168))
    assert made.misfit() == (
        "KASAN's record of the allocation begins at byte 168, and what lies before it ends at 152"
    )
