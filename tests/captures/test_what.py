# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a word can be, asked of real kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List

import pytest
from drgn import Object, Program
from drgn.helpers.linux.percpu import per_cpu
from drgn.helpers.linux.slab import find_slab_cache

from drgn_slabtype import cli
from drgn_slabtype.answers.address import Meaning
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.content import longest_text
from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.page import page_info
from drgn_slabtype.answers.states import SlabObject
from drgn_slabtype.answers.what import what
from drgn_slabtype.capture import open_capture
from drgn_slabtype.errors import ArgumentError
from drgn_slabtype.machine import machine, page_type_layout

from . import ONE_OF_EACH_SHAPE

HERE = Path(__file__).parent
_RFC3 = "slab-6.1-rfc3-plain/capture.xz"


@pytest.fixture(scope="module", params=ONE_OF_EACH_SHAPE)
def prog(request: pytest.FixtureRequest) -> Program:
    return open_capture(str(HERE / request.param / "capture.xz"))


def _meanings(prog: Program, word: int, at: int = 0) -> List[Meaning]:
    return list(what(prog, word, at or None).meanings)


def _held(prog: Program) -> SlabObject:
    return next(one for one in objects(prog, "kmalloc-192", "in use") if one.place is None)


def test_a_member_of_an_object_is_no_wrong_pointer(prog: Program) -> None:
    held = _held(prog)
    for offset, wrong in ((8, False), (64, False), (1, True), (4, True)):
        found = [one for one in _meanings(prog, held.address + offset) if "wrong" in one.kind]
        assert [one.address for one in found] == [held.address] * wrong


def test_address_of_an_object_is_told(prog: Program) -> None:
    held = _held(prog)
    (meaning,) = _meanings(prog, held.address)
    assert (meaning.kind, meaning.address) == ("address", held.address)
    assert meaning.meaning == (f"object {held.index} of kmalloc-192 slab 0x{held.slab:x} (in use)")


@pytest.mark.parametrize("bit", [44, 45, 50, 58, 63])
def test_flipped_bit_is_found(prog: Program, bit: int) -> None:
    held = _held(prog)
    found = _meanings(prog, held.address ^ 1 << bit)
    assert held.address in [one.address for one in found if one.kind == "wrong bit"]


@pytest.mark.parametrize("byte", [5, 6, 7])
def test_byte_written_over_is_found(prog: Program, byte: int) -> None:
    held = _held(prog)
    # Three bits differ at least: no single one would do.
    wrong = held.address ^ 0x2A << 8 * byte
    found = _meanings(prog, wrong)
    assert held.address in [one.address for one in found if one.kind == "wrong byte"]


def test_struct_page_and_symbol_with_a_flipped_bit_are_found(prog: Program) -> None:
    for right in (_held(prog).slab, prog["slab_caches"].address_):
        assert right in [one.address for one in _meanings(prog, right ^ 1 << 40)]


def test_poison_error_and_text_lead_nowhere(prog: Program) -> None:
    order = "little" if machine(prog).memory.byteorder == "<" else "big"
    text = int.from_bytes(b"kthreadd", order)  # type: ignore[arg-type]
    for word, kind, start in (
        (0xDEAD000000000122, "poison", "LIST_POISON2"),
        ((1 << 64) - 12, "error", "the error -12 (ENOMEM)"),
        (text, "text", 'text "kthreadd"'),
        (-22, "error", "the error -22 (EINVAL)"),
        (-517, "error", "the error -517 (EPROBE_DEFER)"),
    ):
        (meaning,) = _meanings(prog, word)
        assert (meaning.kind, meaning.meaning[: len(start)]) == (kind, start)
        assert meaning.address is None


def test_small_negative_numbers_are_no_wrong_pointers(prog: Program) -> None:
    for word in (-4096, -32768, -(1 << 20)):
        (meaning,) = _meanings(prog, word)
        assert meaning == Meaning("number", f"the small number {word}")


def test_negative_numbers_of_32_bits_are_told(prog: Program) -> None:
    for word, kind, told in (
        (0xFFFFFFFF, "error", "the error -1 (EPERM), in 32 bits"),
        (0xFFFFFFF4, "error", "the error -12 (ENOMEM), in 32 bits"),
        (0xFFFF8000, "number", "the small number -32768, in 32 bits"),
        (0xFFFFFFFF00000000, "number", "the small numbers 0 and -1, in 32 bits each"),
        (0xFFFFFFFEFFFFFFFF, "number", "the small numbers -1 and -2, in 32 bits each"),
    ):
        found = _meanings(prog, word)
        assert not any("wrong" in one.kind for one in found)
        # Jiffies begin at such numbers.
        assert Meaning(kind, told) in found or [one.kind for one in found] == ["jiffies"]


@pytest.mark.parametrize(
    ("name", "ends", "other"),
    [
        ("debian-7-plain", 0xA56B6B6B6B6B6B6B, 0x6B6B6B6B6B6B6BA5),
        ("debian-6.12-s390x-plain", 0x6B6B6B6B6B6B6BA5, 0xA56B6B6B6B6B6B6B),
    ],
)
def test_the_end_of_poison_is_the_last_byte_in_memory(name: str, ends: int, other: int) -> None:
    prog = open_capture(str(HERE / name / "capture.xz"))
    (meaning,) = _meanings(prog, ends)
    assert meaning.meaning.endswith("with POISON_END behind it")
    (meaning,) = _meanings(prog, other)
    assert "0xa5 instead of 0x6b" in meaning.meaning


def test_page_type_word_of_a_slab_is_told(prog: Program) -> None:
    layout = page_type_layout(prog)
    if layout.slab_flag is not None:
        pytest.skip("slab is no page type here")
    page = Object(prog, "struct page", address=_held(prog).slab)
    word = page._mapcount.counter.value_() & 0xFFFFFFFF
    assert any(one.kind == "page type" and "slab" in one.meaning for one in _meanings(prog, word))


def test_word_that_is_no_type_is_told_where_the_type_is(prog: Program) -> None:
    fields = machine(prog).page
    page = fields.vmemmap + (_held(prog).slab - fields.vmemmap) // fields.size * fields.size
    (one,) = what(prog, 0xFFFFFFFF, page + fields.word).meanings
    assert one.kind == "page type"
    assert one.meaning.startswith("the page_type word of that page: no type")
    assert all(one.kind != "page type" for one in what(prog, 0xFFFFFFFF, page).meanings)


def test_moment_is_told(prog: Program) -> None:
    now = int(prog["jiffies_64"])
    assert [one.kind for one in _meanings(prog, now)] == ["jiffies"]
    assert _meanings(prog, now - 100)[0].meaning.endswith(" ago")
    assert _meanings(prog, now + 100)[0].meaning.endswith(" from now")


def _free_words(prog: Program) -> Iterator[SlabObject]:
    # Free objects that lead to another one on the freelist of their slab.
    own = [one for one in objects(prog, "kmalloc-192", "free") if one.place == "freelist"]
    for one, after in zip(own, own[1:]):
        if one.slab == after.slab:
            yield one


def test_free_pointer_is_decoded_where_it_is_stored(prog: Program) -> None:
    if page_type_layout(prog).allocator != "SLUB":
        pytest.skip("SLAB has indexes")
    cache = find_slab_cache(prog, "kmalloc-192")
    assert cache is not None
    offset = int(cache.offset)
    for one in list(_free_words(prog))[:5]:
        at = one.address + offset
        word = what(prog, prog.read_word(at), at)
        assert word.where is not None
        assert "kmalloc-192" in word.where
        (meaning,) = [m for m in word.meanings if m.kind == "free pointer"]
        told = meaning.address
        if told is None:
            assert meaning.meaning.endswith("NULL, the end of a freelist")
        else:
            info = slab_object(prog, told)
            assert (info.object, info.slab, info.state) == (told, one.slab, "free")


def test_words_of_objects_in_use_are_no_free_pointers(prog: Program) -> None:
    if page_type_layout(prog).allocator != "SLUB":
        pytest.skip("SLAB has indexes")
    cache = find_slab_cache(prog, "kmalloc-192")
    assert cache is not None
    held, offset = _held(prog), int(cache.offset)
    places = [held.address + at for at in (0, 8, offset) if at < int(cache.object_size)]
    for at in places:
        assert [one.kind for one in _meanings(prog, held.address, at)] == ["address"]
        assert "free pointer" not in [one.kind for one in _meanings(prog, 0, at)]


def test_index_is_told_where_it_is_stored(prog: Program) -> None:
    if page_type_layout(prog).allocator != "SLAB":
        pytest.skip("SLUB has free pointers")
    names = [
        cache.name
        for cache in caches(prog).caches
        if cache.free.get("freelist", 0) and cache.objects_per_slab > 2
    ]
    slab = next(one.slab for one in objects(prog, names[0], "free") if one.place == "freelist")
    type = "struct slab" if page_type_layout(prog).slab_struct == "slab" else "struct page"
    width = prog.type("freelist_idx_t").type.size or 1
    array = Object(prog, type, address=slab).freelist.value_()
    (meaning,) = [one for one in _meanings(prog, 0, array + width) if one.kind == "index"]
    assert meaning.meaning.startswith(
        f"entry 1 of the freelist of {names[0]} slab 0x{slab:x} holds index "
    )


def test_per_cpu_memory_of_a_cache_is_told(prog: Program) -> None:
    cache = find_slab_cache(prog, "kmalloc-192")
    for member in ("cpu_sheaves", "cpu_slab", "cpu_cache"):
        if hasattr(cache, member) and getattr(cache, member):
            address = per_cpu(getattr(cache, member)[0], 0).address_
            assert slab_object(prog, address).meaning.endswith(" of kmalloc-192 of CPU 0")
            return


def test_number_that_is_no_address_says_what_else_it_can_be(prog: Program) -> None:
    info = slab_object(prog, 0x6B6B6B6B6B6B6B6B)
    assert info.kind == "other"
    assert [one.kind for one in info.meanings] == ["poison"]
    assert slab_object(prog, _held(prog).address).meanings == ()


def test_more_than_a_word_is_an_error(prog: Program) -> None:
    for number in (1 << 64, -(1 << 63) - 1):
        with pytest.raises(ValueError, match="more than 64 bits"):
            what(prog, number)


def test_a_hardened_pointer_with_a_wrong_bit_is_no_text() -> None:
    prog = open_capture(str(HERE / "debian-7-plain" / "capture.xz"))
    for name in ("kmalloc-64", "kmalloc-192", "vm_area_struct"):
        (cache,) = caches(prog, name)
        offset = int(Object(prog, "struct kmem_cache", address=cache.address).offset)
        free = [one.address for one in objects(prog, name, "free") if _is_on_freelist(one)]
        assert free
        for at in [address + offset for address in free[:10]]:
            for bit in (0, 2, 40, 63):
                found = _meanings(prog, prog.read_word(at) ^ 1 << bit, at)
                told = [one.meaning for one in found if one.kind == "free pointer"]
                assert any(" wrong: with it right, " in meaning for meaning in told)
                assert "text" not in [one.kind for one in found]


def _is_on_freelist(one: SlabObject) -> bool:
    return (one.place or "").startswith("freelist")


@pytest.mark.parametrize(
    "line",
    [
        "page {}",
        "check {}",
        "slabs kmalloc-64 --slab {}",
        "object {}",
        "what {}",
        "what 0 --at {}",
        "refs {} -n 1",
    ],
)
def test_each_command_knows_an_address_that_the_kernel_writes_on_purpose(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(HERE / "debian-6.12-plain" / "capture.xz")
    for word, told in (
        ("dead000000000100", "LIST_POISON1, next of a deleted list entry"),
        ("6b6b6b6b6b6b6b6b", "POISON_FREE, poison of a free object: 0x6b in every byte"),
    ):
        cli.main([*line.format(word).split(), "-c", path])
        assert told in "".join(capsys.readouterr())


def test_the_owner_of_no_lock_is_an_error_too(prog: Program) -> None:
    told = [one.meaning for one in _meanings(prog, -1)]
    assert told == [
        "the error -1 (EPERM)",
        "SPINLOCK_OWNER_INIT, the owner of a debugged lock that nobody holds",
    ]
    assert [one.meaning for one in _meanings(prog, -2)] == ["the error -2 (ENOENT)"]


def test_a_page_that_is_not_there_is_no_poison(prog: Program) -> None:
    with pytest.raises(ArgumentError, match=r"^PFN 0xaaaaaaaa is a hole: there are pages "):
        page_info(prog, 0xAAAAAAAA)


def test_a_wrong_bit_is_told_of_a_pointer_that_has_printable_bytes() -> None:
    prog = open_capture(str(HERE / "debian-6.1-plain" / "capture.xz"))
    held = [one.address for one in objects(prog, "dentry", "in use")]
    printable = [one for one in held if len(longest_text(one.to_bytes(8, "little"))) > 3]
    assert printable
    for address in printable[:3]:
        assert [one.kind for one in _meanings(prog, address)] == ["address", "text"]
        for bit in (48, 63):
            first, *_, last = _meanings(prog, address ^ 1 << bit)
            assert (first.kind, first.address, last.kind) == ("wrong bit", address, "text")
        inside, *others = _meanings(prog, address + 1)
        assert (inside.kind, inside.address) == ("address", address + 1)
        assert address in [one.address for one in others if one.kind == "wrong bit"]


def test_text_is_no_pointer_with_a_wrong_byte() -> None:
    prog = open_capture(str(HERE / "debian-6.1-plain" / "capture.xz"))
    for text in (b"kthreadd", b"sleep\0\0\0"):
        kinds = [one.kind for one in _meanings(prog, int.from_bytes(text, "little"))]
        assert kinds == ["text"]


def test_half_a_word_of_poison_is_known(prog: Program) -> None:
    for word, half in ((0x6B6B6B6B, "low"), (0x6B6B6B6B << 32, "high")):
        (meaning,) = [one for one in _meanings(prog, word) if one.kind == "poison"]
        assert meaning.meaning.startswith(f"its {half} half is POISON_FREE, ")


def test_slub_has_no_active_count_in_the_word_of_a_slab() -> None:
    for name, has in (("broken/slub-6.1-plain-P-overflow-word.xz", False), (_RFC3, True)):
        prog = open_capture(str(HERE / name))
        word = page_type_layout(prog).encoding.set(0xFFFFFFFF, "slab")
        (told,) = [one.meaning for one in _meanings(prog, word) if one.kind == "page type"]
        assert told == f"a page_type word: slab{'; active 0' if has else ''}"
        info = page_info(prog, next(iter(objects(prog, "kmalloc-64", "in use"))).slab)
        assert ("active" in info.word_meaning) == has
