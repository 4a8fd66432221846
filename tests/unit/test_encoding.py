# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page type word: worked values of every encoding, and their properties."""

from __future__ import annotations

import pickle
from typing import Any, List, Tuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.errors import ArgumentError
from drgn_slabtype.pagetype.encoding import (
    ALTERNATIVE_1_SLUB,
    ALTERNATIVE_2,
    ENCODINGS,
    INVERTED_6_10,
    INVERTED_6_11,
    PAGE_FLAG_5_11,
    PAGE_FLAG_6_9,
    RFC_V1,
    RFC_V1_LOW,
    RFC_V3,
    TOP_BYTE,
    ActiveState,
    Encoding,
    InvertedBits,
    PackedActive,
    top_byte,
)

IDLE = 0xFFFFFFFF
ACTIVE_ENCODINGS = [encoding for encoding in ENCODINGS.values() if encoding.carries_active]

encodings = st.sampled_from(list(ENCODINGS.values()))
active_encodings = st.sampled_from(ACTIVE_ENCODINGS)
# Random words rarely hit the interesting ones: mix in words near each type.
words = st.one_of(
    st.integers(0, 0xFFFFFFFF),
    st.integers(0xFFE00000, 0xFFFFFFFF),
    st.builds(lambda top, low: top << 24 | low, st.integers(0x78, 0xFF), st.integers(0, 0xFFFFFF)),
)


@st.composite
def typed(draw: st.DrawFn) -> Tuple[Encoding, str]:
    encoding = draw(encodings)
    return encoding, draw(st.sampled_from(list(encoding.types)))


# Worked values.

# fmt: off
RFC_V3_VALUES: List[Tuple[int, int, int, Tuple[str, ...], bool]] = [
    # word, signed, active as the kernel reads it, types, has_type
    (0xFFFFFFFF, -1, 0, (), False),
    (0xFFEFFFFF, -1048577, 0, ("slab",), True),
    (0xFFEFFFFE, -1048578, 1, ("slab",), True),
    (0xFFEFFFFA, -1048582, 5, ("slab",), True),
    (0xFFEFFFE1, -1048607, 30, ("slab",), True),
    (0xFFEFFF00, -1048832, 255, ("slab",), True),
    (0xFFEFF000, -1052672, 4095, ("slab",), True),
    (0xFFEF0001, -1114111, 65534, ("slab",), True),
    (0xFFEF0000, -1114112, 65535, ("slab",), True),
    (0xFFEEFFFF, -1114113, 65536, ("buddy", "slab"), True),
    (0xFFEDFFFF, -1179649, 131072, ("offline", "slab"), True),
    (0xFFF00000, -1048576, 1048575, ("buddy", "offline", "table", "guard"), True),
    (0xFFFEFFFF, -65537, 65536, ("buddy",), True),
    (0xFFFDFFFF, -131073, 131072, ("offline",), True),
    (0xFFFBFFFF, -262145, 262144, ("table",), True),
    (0xFFF7FFFF, -524289, 524288, ("guard",), True),
    (0xFFFF0000, -65536, 65535, (), False),
    (0x80000000, -2147483648, 0x7FEFFFFF, (), True),
    (0x00000000, 0, 0xFFEFFFFF, (), False),
    (0x7FFFFFFF, 2147483647, 0x80000000, (), False),
    (0xF0000000, -268435456, 267386879, ("buddy", "offline", "table", "guard", "slab"), True),
]

SINGLE_TYPE_VALUES: List[Tuple[Encoding, str, int]] = [
    (ENCODINGS["page-flag-4.18"], "buddy", -129),
    (ENCODINGS["page-flag-4.18"], "balloon", 0xFFFFFEFF),
    (ENCODINGS["page-flag-4.18"], "kmemcg", 0xFFFFFDFF),
    (ENCODINGS["page-flag-4.18"], "table", 0xFFFFFBFF),
    (ENCODINGS["page-flag-5.1"], "offline", -257),
    (ENCODINGS["page-flag-5.3"], "guard", 0xFFFFF7FF),
    (ENCODINGS["page-flag-5.3"], "table", 0xFFFFFBFF),
    (PAGE_FLAG_5_11, "buddy", -129),
    (PAGE_FLAG_5_11, "offline", -257),
    (PAGE_FLAG_5_11, "table", 0xFFFFFDFF),
    (PAGE_FLAG_5_11, "guard", 0xFFFFFBFF),
    (PAGE_FLAG_6_9, "hugetlb", -2049),
    (INVERTED_6_10, "buddy", -129),
    (INVERTED_6_10, "offline", -257),
    (INVERTED_6_10, "table", -513),
    (INVERTED_6_10, "guard", -1025),
    (INVERTED_6_10, "hugetlb", -2049),
    (INVERTED_6_10, "slab", -4097),
    (INVERTED_6_11, "buddy", -1073741825),
    (INVERTED_6_11, "offline", -536870913),
    (INVERTED_6_11, "table", 0xEFFFFFFF),
    (INVERTED_6_11, "guard", 0xF7FFFFFF),
    (INVERTED_6_11, "hugetlb", -67108865),
    (INVERTED_6_11, "slab", -33554433),
    (INVERTED_6_11, "zsmalloc", 0xFEFFFFFF),
    (TOP_BYTE, "buddy", -268435456),
    (TOP_BYTE, "offline", -251658240),
    (TOP_BYTE, "table", 0xF2000000),
    (TOP_BYTE, "guard", 0xF3000000),
    (TOP_BYTE, "hugetlb", -201326592),
    (TOP_BYTE, "slab", -184549376),
    (TOP_BYTE, "zsmalloc", 0xF6000000),
    (TOP_BYTE, "unaccepted", -150994944),
    (TOP_BYTE, "large_kmalloc", 0xF8000000),
    (RFC_V1, "slab", 0xFFDFFFFF),
    (RFC_V1, "buddy", 0xFFFDFFFF),
    (RFC_V1_LOW, "slab", 0xFFFFFFDF),
    (RFC_V3, "slab", -1048577),
    (RFC_V3, "buddy", -65537),
    (RFC_V3, "offline", -131073),
    (ALTERNATIVE_1_SLUB, "slab", 0xFFFFF7FF),
    (ALTERNATIVE_2, "slab", 0xFFEFFFFF),
]

TEXTS: List[Tuple[Encoding, int, str]] = [
    (RFC_V3, 0xFFEFFFFF, "0xffefffff(slab)"),
    (RFC_V3, 0xFFEFFFFA, "0xffeffffa(slab|0x5)"),
    (RFC_V3, 0xFFFFFFFF, "0xffffffff()"),
    (RFC_V3, 0x0ACE5768, "0xace5768()"),
    (RFC_V3, 0xFFEAFFFF, "0xffeaffff(slab|table|buddy)"),
    (RFC_V1, 0xFFDF0005, "0xffdf0005(slab)"),
    (PAGE_FLAG_6_9, 0xFFFFFFFF, "0xffffffff()"),
    (PAGE_FLAG_6_9, 10, "0xa()"),
    (PAGE_FLAG_6_9, 0xFFFFFF7F, "0xffffff7f(buddy)"),
    (PAGE_FLAG_6_9, 0xFFFFFD7F, "0xfffffd7f(table|buddy)"),
    (PAGE_FLAG_6_9, 0xFFFFF7FF, "0xfffff7ff(hugetlb)"),
    (INVERTED_6_10, 0xFFFFEFFF, "0xffffefff(slab)"),
    (INVERTED_6_11, 0xFDFFFFFF, "0xfdffffff(slab)"),
    (INVERTED_6_11, 0xFEFF0010, "0xfeff0010(0x100ffef)"),
    (TOP_BYTE, 0xF5000000, "f5(slab)"),
    (TOP_BYTE, 0xF5000003, "f5(slab)"),
    (TOP_BYTE, 0xF6000000, "f6((null))"),
    (TOP_BYTE, 0xF8000000, "f8(unknown)"),
    (TOP_BYTE, 0xFA000000, "fa(unknown)"),
    (TOP_BYTE, 0xFFFFFFFF, ""),
    (TOP_BYTE, 7, ""),
]
# fmt: on


@pytest.mark.parametrize(("word", "signed", "active", "types", "has_type"), RFC_V3_VALUES)
def test_rfc_v3_worked_values(
    word: int, signed: int, active: int, types: Tuple[str, ...], has_type: bool
) -> None:
    for spelled in (word, signed):
        assert RFC_V3.active(spelled) == active
        assert RFC_V3.types_of(spelled) == types
        assert RFC_V3.has_type(spelled) is has_type


@pytest.mark.parametrize(
    "active", [0, 1, 5, 30, 255, 4095, 65534, 65535, 65536, 131072, -1], ids=str
)
def test_rfc_v3_count_gives_the_word_of_the_table(active: int) -> None:
    word = {value[2]: value[0] for value in RFC_V3_VALUES[1:12]}[active if active >= 0 else 1048575]
    assert RFC_V3.with_active(0xFFEFFFFF, active) == word


@pytest.mark.parametrize(("encoding", "type", "word"), SINGLE_TYPE_VALUES)
def test_word_of_one_type(encoding: Encoding, type: str, word: int) -> None:
    assert encoding.set(IDLE, type) == word & IDLE
    assert encoding.types_of(word) == (type,)
    assert not encoding.conflict(word)


@pytest.mark.parametrize(("encoding", "word", "text"), TEXTS)
def test_text_is_what_the_kernel_prints(encoding: Encoding, word: int, text: str) -> None:
    assert encoding.text(word) == text


@pytest.mark.parametrize(
    ("encoding", "word", "told"),
    [
        (RFC_V3, 0xFFFFFFFF, "no type, idle"),
        (RFC_V3, 0xFFEFFFFA, "slab; active 5"),
        (RFC_V3, 0xFFEEFFFF, "buddy and slab; active count overflow: 65536"),
        (RFC_V3, 0xFFF00000, "buddy and offline and table and guard; active count underflow: -1"),
        (RFC_V3, 0xFFFFFFFE, "no type; map count underflow: low bits 0xfffe"),
        (RFC_V3, 0xFFCFFFFF, "slab; reserved bits used: 0x200000"),
        (RFC_V1, 0xFFDF0005, "slab; active 5"),
        (RFC_V1, 0xFFDD0005, "buddy and slab; active 5; more than one type"),
        (PAGE_FLAG_5_11, 12, "no type, count 12"),
        (PAGE_FLAG_5_11, 0x80000000, "no type; map count overflow"),
        (INVERTED_6_10, 0xFFFFEF7F, "buddy and slab; more than one type"),
        (INVERTED_6_11, 0xFEFF0010, "zsmalloc; low bits 0x10"),
        (TOP_BYTE, 0xF6000010, "zsmalloc; low bits 0x10"),
        (TOP_BYTE, 0xF9000000, "no type; unknown type 0xf9"),
        (TOP_BYTE, 0x80000000, "no type; map count overflow"),
        (TOP_BYTE, 0xFFFFFFFE, "no type; map count underflow"),
    ],
)  # fmt: skip
def test_explanation(encoding: Encoding, word: int, told: str) -> None:
    assert encoding.explain(word) == told


# The two boundaries and the quirk of has_type.


@pytest.mark.parametrize(
    ("encoding", "last"),
    [(PAGE_FLAG_5_11, 0xFFFFFF7F), (INVERTED_6_10, 0xFFFFFF7F), (INVERTED_6_11, 0xFFFEFFFF),
     (RFC_V3, 0xFFFEFFFF), (TOP_BYTE, 0xFEFFFFFF)],
)  # fmt: skip
def test_has_type_boundaries(encoding: Encoding, last: int) -> None:
    assert encoding.has_type(0x80000000)
    assert encoding.has_type(last)
    assert not encoding.has_type(last + 1)
    assert not encoding.has_type(0x7FFFFFFF)


def test_has_type_of_6_12_differs_for_two_words() -> None:
    near = [*range(0x7FFFFFF0, 0x80000010), *range(0xFEFFFFF0, 0xFF000010), 0, IDLE]
    different = [w for w in near if TOP_BYTE.has_type_of_6_12(w) != TOP_BYTE.has_type(w)]
    assert different == [0x80000000, 0xFF000000]


# RFC v3: the active count.


def test_rfc_v3_every_legal_count() -> None:
    counts = np.arange(65536, dtype=np.uint32)
    slabs = RFC_V3.with_active(np.full(65536, RFC_V3.set(IDLE, "slab"), np.uint32), counts)
    assert (slabs == 0xFFEFFFFF - counts).all()
    assert (RFC_V3.active(slabs) == counts).all()
    assert (RFC_V3.active_state(slabs) == ActiveState.OK).all()
    assert (RFC_V3.types_of(slabs) == 1 << list(RFC_V3.types).index("slab")).all()
    assert not RFC_V3.conflict(slabs).any()


@given(st.integers(65536, 0xFFFFF))
def test_rfc_v3_overflow_is_told(active: int) -> None:
    word = RFC_V3.with_active(0xFFEFFFFF, active)
    assert RFC_V3.active_state(word) is ActiveState.OVERFLOW
    assert RFC_V3.active(word) == active
    assert RFC_V3.conflict(word)


@given(st.integers(-65536, -1))
def test_rfc_v3_underflow_is_told(active: int) -> None:
    word = RFC_V3.with_active(0xFFEFFFFF, active)
    assert RFC_V3.active_state(word) is ActiveState.UNDERFLOW
    assert RFC_V3.conflict(word)
    assert f"underflow: {active}" in RFC_V3.explain(word)


@pytest.mark.parametrize("word", [IDLE, 0, 0xFFFEFFFF, 0x80000000, 0xFFFF0000])
def test_rfc_v3_other_words_hold_no_count(word: int) -> None:
    assert RFC_V3.active_state(word) is ActiveState.NONE


@given(words)
def test_rfc_v3_increment_and_decrement_are_plain_arithmetic(word: int) -> None:
    assert RFC_V3.increment(word) == (word - 1) & IDLE
    assert RFC_V3.decrement(word) == (word + 1) & IDLE


@given(st.sampled_from([RFC_V1, RFC_V1_LOW]), st.integers(0, 0xFFFF))
def test_rfc_v1_count_never_reaches_the_type(encoding: Encoding, active: int) -> None:
    word = encoding.with_active(encoding.set(IDLE, "slab"), active)
    for changed in (encoding.increment(word), encoding.decrement(word)):
        assert encoding.types_of(changed) == ("slab",)
    assert encoding.active(encoding.increment(word)) == (active + 1) & 0xFFFF
    assert encoding.active(encoding.decrement(word)) == (active - 1) & 0xFFFF


def test_rfc_v1_words_in_both_byte_orders() -> None:
    # struct { __u16 active; __u16 page_type; }, a slab with 5 active objects.
    assert int.from_bytes(b"\x05\x00\xdf\xff", "little") == RFC_V1.with_active(0xFFDFFFFF, 5)
    assert int.from_bytes(b"\x00\x05\xff\xdf", "big") == RFC_V1_LOW.with_active(0xFFFFFFDF, 5)
    # struct { __u16 page_type; __u16 active; }, as meant for big endian.
    assert int.from_bytes(b"\xff\xdf\x00\x05", "big") == RFC_V1.with_active(0xFFDFFFFF, 5)


@pytest.mark.parametrize("encoding", [TOP_BYTE, INVERTED_6_10, ALTERNATIVE_2])
def test_no_active_count_is_an_error(encoding: Encoding) -> None:
    assert not encoding.carries_active
    with pytest.raises(ValueError, match="carries no active count"):
        encoding.active(IDLE)


# Properties of all encodings.


@given(typed())
def test_set_then_clear_is_idle(pair: Tuple[Encoding, str]) -> None:
    encoding, type = pair
    word = encoding.set(encoding.idle, type)
    assert encoding.is_type(word, type)
    assert encoding.has_type(word)
    assert encoding.types_of(word) == (type,)
    assert not encoding.conflict(word)
    assert encoding.clear(word, type) == encoding.idle


@given(active_encodings, st.integers(0, 65535))
def test_count_comes_back(encoding: Encoding, active: int) -> None:
    word = encoding.with_active(encoding.set(encoding.idle, "slab"), active)
    assert encoding.active(word) == active
    assert encoding.types_of(word) == ("slab",)
    assert encoding.active_state(word) is ActiveState.OK
    assert not encoding.conflict(word)


@given(st.sampled_from([e for e in ENCODINGS.values() if isinstance(e, InvertedBits)]), st.data())
def test_two_types_at_once_are_a_conflict(encoding: Encoding, data: st.DataObject) -> None:
    pair = data.draw(
        st.lists(st.sampled_from(list(encoding.types)), min_size=2, max_size=2, unique=True)
    )
    word = encoding.set(encoding.set(encoding.idle, pair[0]), pair[1])
    assert set(encoding.types_of(word)) == set(pair)
    # Page tables are accounted to cgroups.
    assert encoding.conflict(word) == (set(pair) != {"kmemcg", "table"})


@pytest.mark.parametrize("name", ["page-flag-4.18", "page-flag-5.1", "page-flag-5.3"])
def test_accounted_page_table_is_no_conflict(name: str) -> None:
    encoding = ENCODINGS[name]
    word = encoding.set(encoding.set(encoding.idle, "kmemcg"), "table")
    words = np.array([word, encoding.set(word, "buddy"), encoding.idle], np.uint32)
    assert encoding.types_of(word) == ("kmemcg", "table")
    assert encoding.conflict(words).tolist() == [False, True, False]
    assert "more than one" not in encoding.explain(word)


@given(encodings, words)
def test_conflict_is_explained(encoding: Encoding, word: int) -> None:
    explained = len(encoding.explain(word).split("; ")) - 1
    details = encoding._details(word)
    assert encoding.conflict(word) == (explained > len(details))


@given(encodings, st.integers(0, 0x7FFF))
def test_mapped_pages_have_no_type(encoding: Encoding, word: int) -> None:
    assert encoding.types_of(word) == ()
    assert not encoding.has_type(word)
    assert not encoding.conflict(word)


@given(encodings)
def test_idle_word_is_healthy(encoding: Encoding) -> None:
    assert encoding.types_of(encoding.idle) == ()
    assert not encoding.has_type(encoding.idle)
    assert not encoding.conflict(encoding.idle)


@given(encodings, st.lists(words, max_size=20), st.integers(-70000, 140000))
def test_arrays_answer_as_single_words(encoding: Encoding, few: List[int], count: int) -> None:
    array = np.array(few, np.uint32)

    def same(method: Any, *args: Any) -> None:
        answer = method(array, *args)
        assert isinstance(answer, np.ndarray)
        assert answer.tolist() == [method(word, *args) for word in few]

    for type in encoding.types:
        same(encoding.is_type, type)
        same(encoding.set, type)
        same(encoding.clear, type)
    same(encoding.has_type)
    same(encoding.conflict)
    same(encoding.low_bits)
    names = list(encoding.types)
    bits = encoding.types_of(array).tolist()
    assert [tuple(name for i, name in enumerate(names) if bit >> i & 1) for bit in bits] == [
        encoding.types_of(word) for word in few
    ]
    if encoding.carries_active:
        same(encoding.active)
        same(encoding.with_active, count)
        same(encoding.increment)
        same(encoding.decrement)
        same(encoding.active_state)


@given(encodings, st.lists(words, max_size=8))
def test_byte_order_and_sign_of_an_array_do_not_matter(encoding: Encoding, few: List[int]) -> None:
    array = np.array(few, np.uint32)
    expected = encoding.types_of(array).tolist()
    assert encoding.types_of(array.astype(">u4")).tolist() == expected
    assert encoding.types_of(array.view(np.int32)).tolist() == expected


def test_arrays_are_not_changed() -> None:
    array = np.array([0xFFEFFFFF, 5], np.uint32)
    for encoding in ENCODINGS.values():
        encoding.set(array, "buddy")
        encoding.types_of(array)
        encoding.conflict(array)
    assert array.tolist() == [0xFFEFFFFF, 5]


# Types that come from a kernel.


def test_types_of_a_newer_kernel_are_kept() -> None:
    encoding = top_byte({**TOP_BYTE.types, "foo": 0xF9})
    assert encoding.name == "top-byte"
    assert encoding.types_of(0xF9000000) == ("foo",)
    assert not encoding.conflict(0xF9000000)
    assert TOP_BYTE.conflict(0xF9000000)
    assert encoding.text(0xF9000000) == "f9(foo)"


def test_unknown_type_names_are_refused() -> None:
    with pytest.raises(ValueError, match="rfc-v3 has no page type 'zsmalloc'"):
        RFC_V3.is_type(IDLE, "zsmalloc")


def test_no_more_types_than_bits() -> None:
    with pytest.raises(ValueError, match="more than 16"):
        top_byte({f"type{i}": 0xEF + i for i in range(17)})


@pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS)
def test_encodings_travel_between_processes(encoding: Encoding) -> None:
    copy = pickle.loads(pickle.dumps(encoding))
    assert copy == encoding
    assert hash(copy) == hash(encoding)


def test_slab_is_a_page_type_or_a_flag() -> None:
    for name, encoding in ENCODINGS.items():
        assert encoding.has_slab_type is not name.startswith("page-flag")


# Alternative 2: the shared word.


@given(
    st.sampled_from([PackedActive(40, 0, 16), PackedActive(40, 16, 0)]),
    st.integers(0, 65535),
    st.integers(0, 65535),
)
def test_packed_fields_come_back(packed: PackedActive, active: int, offset: int) -> None:
    assert packed.fits(active, offset)
    word = packed.pack(active, offset)
    assert (packed.active(word), packed.s_mem_offset(word)) == (active, offset)
    array = packed.pack(np.array([active], np.uint32), np.array([offset], np.uint32))
    assert (packed.active(array)[0], packed.s_mem_offset(array)[0]) == (active, offset)


@pytest.mark.parametrize("packed", [PackedActive(0, 0, 16), PackedActive(0, 16, 0)])
def test_packed_overflow_is_cut_off_and_seen_beforehand(packed: PackedActive) -> None:
    word = packed.pack(65536, 70000)
    assert (packed.active(word), packed.s_mem_offset(word)) == (0, 70000 - 65536)
    assert not packed.fits(65536, 0)
    assert not packed.fits(0, 65536)
    assert not packed.fits(-1, 0)


@pytest.mark.parametrize("word", [1 << 32, 1 << 70, -(1 << 31) - 1, "0xf5", None])
@pytest.mark.parametrize("name", ["rfc-v3", "top-byte"])
def test_what_has_more_bits_than_a_word_is_refused(name: str, word: Any) -> None:
    encoding = ENCODINGS[name]
    for method in (encoding.active, encoding.text, encoding.has_type):
        with pytest.raises(ArgumentError, match="32-bit word"):
            method(word)


def test_an_array_of_more_bits_than_words_is_refused() -> None:
    with pytest.raises(ArgumentError, match="more than 32 bits"):
        ENCODINGS["rfc-v3"].active(np.array([1 << 32], np.uint64))
    assert ENCODINGS["rfc-v3"].text(-17) == ENCODINGS["rfc-v3"].text(0xFFFFFFEF)
