# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words that the kernel writes to be recognised by."""

from __future__ import annotations

from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.answers.poisons import damaged_poisons, fill, poisons


@pytest.mark.parametrize(
    ("word", "architecture", "name"),
    [
        (0xDEAD000000000100, "X86_64", "LIST_POISON1"),
        (0xDEAD000000000122, "AARCH64", "LIST_POISON2"),
        (0x5DEADBEEF0000100, "PPC64", "LIST_POISON1"),
        (0xDEAD00000000EB9F, "S390X", "BPF_PTR_POISON"),
        (0x09F911029D74E35B, "X86_64", "RED_INACTIVE"),
        (0xADACAFAEA9A8ABAA, "X86_64", "KFENCE_CANARY_PATTERN_U64"),
        (0xDEAD4EAD, "X86_64", "SPINLOCK_MAGIC"),
        (0xFFFFFFFFDEAD4EAD, "X86_64", "its low half is SPINLOCK_MAGIC"),
        (0xDEAD4EADFFFFFFFF, "X86_64", "its high half is SPINLOCK_MAGIC"),
        (0x57AC6E9D, "X86_64", "STACK_END_MAGIC"),
        (0xBBBBBBBBBBBBBBBB, "X86_64", "SLUB_RED_INACTIVE"),
        (0xA56B6B6B6B6B6B6B, "X86_64", "POISON_FREE"),
        (0x10, "X86_64", "ZERO_SIZE_PTR"),
        (0x6B6B6B6B, "X86_64", "its low half is POISON_FREE"),
        (0xA56B6B6B, "X86_64", "its low half is POISON_FREE"),
        (0x5A5A5A5A00000001, "X86_64", "its high half is POISON_INUSE"),
    ],
)
def test_word_has_the_name_of_the_source(word: int, architecture: str, name: str) -> None:
    (told,) = poisons(word, 8, architecture)
    assert told.startswith(name + ",")


@pytest.mark.parametrize(
    ("word", "architecture"),
    [
        (0, "X86_64"),
        (0xDEAD000000000100, "PPC64"),
        (0xDEAD000000000101, "X86_64"),
        (0x100, "X86_64"),
        (0xFFFF888000001000, "X86_64"),
        (0xBBBBBBBBBBBBBBBA, "X86_64"),
        (0x6B6B6B, "X86_64"),
        (0x006B6B6B6B000000, "X86_64"),
    ],
)
def test_other_words_have_none(word: int, architecture: str) -> None:
    assert poisons(word, 8, architecture) == []


@given(st.integers(0, (1 << 64) - 1), st.sampled_from(["X86_64", "PPC64", "ARM"]))
def test_any_word_is_told_printably(word: int, architecture: str) -> None:
    assert all(told.isprintable() and told for told in poisons(word, 8, architecture))


@pytest.mark.parametrize(
    ("byteorder", "word", "name"),
    [
        ("little", 0xA56B6B6B6B6B6B6B, "POISON_FREE"),
        ("big", 0x6B6B6B6B6B6B6BA5, "POISON_FREE"),
        ("little", 0xA56B6B6B, "its low half is POISON_FREE"),
        ("big", 0x6B6B6BA5, "its low half is POISON_FREE"),
        ("little", 0xADACAFAEA9A8ABAA, "KFENCE_CANARY_PATTERN_U64"),
        ("big", 0xAAABA8A9AEAFACAD, "KFENCE_CANARY_PATTERN_U64"),
    ],
)
def test_bytes_come_in_the_order_of_the_machine(byteorder: str, word: int, name: str) -> None:
    (told,) = poisons(word, 8, "X86_64", byteorder)
    assert told.startswith(name + ",")
    other = "big" if byteorder == "little" else "little"
    assert poisons(word, 8, "X86_64", other) == []


def test_the_end_of_poison_at_the_wrong_end_is_a_wrong_byte() -> None:
    for byteorder, word, byte in (("little", 0x6B6B6B6B6B6B6BA5, 0), ("big", 0xA5 << 56, 7)):
        word |= 0x6B6B6B6B6B6B6B6B & ~(0xFF << 8 * byte)
        (told,) = damaged_poisons(word, 8, "X86_64", byteorder)
        assert told.endswith(f": 0xa5 instead of 0x6b in byte {byte}")


def test_fill_names_bytes() -> None:
    assert fill(0x6B) == "POISON_FREE, poison of a free object"
    assert fill(0x41) == ""


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (0x6B6B6B6B6B6B6B6A, ["POISON_FREE", "0x6a instead of 0x6b in byte 0"]),
        (0xDEAD000000000101, ["LIST_POISON1", "with bit 0 wrong"]),
        (0x5A5A5A5A005A5A5A, ["POISON_INUSE", "0x00 instead of 0x5a in byte 3"]),
    ],
)
def test_poison_with_one_bit_or_byte_wrong(word: int, told: List[str]) -> None:
    (one,) = damaged_poisons(word)
    assert all(part in one for part in told)


def test_other_words_are_near_to_no_poison() -> None:
    for word in (0, 1, 0x100, 0xFFFF888000001000, 0x4141414141414141, (1 << 64) - 12):
        assert damaged_poisons(word) == []
