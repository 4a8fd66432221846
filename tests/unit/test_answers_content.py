# SPDX-License-Identifier: LGPL-2.1-or-later
"""What some bytes look like."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.answers.content import (
    classify,
    continues,
    describe_word,
    longest_text,
    period,
)


@given(st.binary(max_size=80), st.sampled_from([4, 8]), st.sampled_from(["little", "big"]))
def test_any_bytes_are_described_printably(data: bytes, word_size: int, byteorder: str) -> None:
    content = classify(data, word_size, byteorder)
    assert content.text
    assert content.text.isprintable()
    assert (content.kind == "zeroes") == (bool(data) and not any(data))


@given(st.binary(max_size=80), st.sampled_from([4, 8]), st.integers(0, 1 << 40))
def test_words_are_aligned_and_whole(data: bytes, word_size: int, at: int) -> None:
    for offset, value in classify(data, word_size, "little", at).words:
        assert (at + offset) % word_size == 0
        assert value.to_bytes(word_size, "little") == data[offset : offset + word_size] != b""


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=4, max_size=40))
def test_text_is_told_as_text(text: str) -> None:
    content = classify(text.encode())
    assert content.kind in ("text", "fill")
    assert longest_text(b"\x00" + text.encode() + b"\xff") == text.encode()


@given(st.binary(min_size=1, max_size=8), st.integers(2, 8))
def test_repeating_pattern_has_a_period_that_divides_it(piece: bytes, times: int) -> None:
    found = period(piece * times)
    assert found is not None
    assert found <= len(piece)
    repeated = piece * times
    assert all(repeated[i] == repeated[i % found] for i in range(len(repeated)))


@given(st.binary(min_size=1, max_size=4))
def test_overflow_carries_on_the_pattern_of_the_object(piece: bytes) -> None:
    written = piece * 40
    assert continues(written[:32], written[32:40]) is not None


def test_damage_that_is_no_pattern_carries_on_nothing() -> None:
    assert continues(bytes(range(32)), b"\xff\xfe") is None
    assert continues(b"", b"a") is None
    assert continues(b"a", b"") is None


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (bytes(8), "zeroes", "8 zero bytes"),
        (b"\x6b" * 8, "fill", "8 bytes of 0x6b, poison of a free object (POISON_FREE)"),
        (b"\xbb" * 4, "fill", "4 bytes of 0xbb, red zone of a free object (SLUB_RED_INACTIVE)"),
        (b"A" * 4, "fill", "4 bytes of 0x41, the character 'A'"),
        (b"secret\0\0", "text", 'text "secret"'),
        (b'say "hi"\n\\o/\0', "text", 'text "say \\"hi\\""'),
        # By chance some bytes are printable.
        (bytes.fromhex("0011223344556677"), "words", "00 11 22 33 44 55 66 77"),
        (b"\x88name\xff\xff", "unknown", "88 6e 61 6d 65 ff ff"),
        (b"\x88a long name\xff\xff", "text", 'text "a long name" among other bytes'),
        (b"\x12\xff\x12\xff\x12\xff", "pattern", "12 ff over and over"),
        (
            (0xDEAD000000000100).to_bytes(8, "little"),
            "words",
            "LIST_POISON1, a deleted list entry at byte 0",
        ),
    ],
)
def test_bytes_are_named(data: bytes, kind: str, text: str) -> None:
    assert classify(data)[:2] == (kind, text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "NULL"),
        ((1 << 64) - 12, "the error -12 (ENOMEM)"),
        (7, "the small number 7"),
        ((1 << 64) - 4096, "the small number -4096"),
        (0xFFFFFFFFFFFF8000, "the small number -32768"),
        (0xFFFFFFFFFFF00000, "the small number -1048576"),
        (0xFFFFFFFFFFEFFFFF, None),
        (0xFFFFFFFF, None),
        (0x6B6B6B6B6B6B6B6B, "poison of a free object (POISON_FREE)"),
        (0xFFFF888000001000, None),
    ],
)
def test_words_are_named(value: int, text: str) -> None:
    assert describe_word(value) == text
