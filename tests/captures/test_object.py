# SPDX-License-Identifier: LGPL-2.1-or-later
"""Everything about one object: its bytes, its list, who records it, who allocated it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Tuple

import pytest
from drgn import FaultError, Program
from drgn.helpers.linux.percpu import per_cpu_ptr
from drgn.helpers.linux.slab import find_slab_cache

from drgn_slabtype import cli
from drgn_slabtype.answers.address import AddressInfo, Line, ObjectWord
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.slabs import slabs
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.command import answer
from drgn_slabtype.machine import machine
from drgn_slabtype.report.json import object as as_json
from drgn_slabtype.report.text import object as as_text

from ..recipes.overlay import Write, overlay
from ..recipes.suites import suite_of
from . import ONE_OF_EACH_SHAPE

HERE = Path(__file__).parent


def _open(kernel: str) -> Program:
    return open_capture(str(HERE / kernel / "capture.xz"))


@pytest.fixture(scope="module", params=ONE_OF_EACH_SHAPE)
def prog(request: pytest.FixtureRequest) -> Program:
    return _open(request.param)


def test_object_says_on_which_list_its_slab_stands(prog: Program) -> None:
    cache = max(caches(prog).caches, key=lambda cache: len(cache.lists) * 1000 + cache.slabs)
    told = {slab.slab: (slab.list, slab.owner) for slab in slabs(prog, cache.name).slabs}
    by_list = {standing: slab for slab, standing in told.items()}
    for standing, slab in by_list.items():
        first = next(one for one in objects(prog, cache.name) if one.slab == slab)
        info = slab_object(prog, first.address)
        assert (info.list, info.owner) == standing


def test_what_was_not_asked_is_said() -> None:
    prog = _open("debian-6.12-plain")
    one = next(iter(objects(prog, "kmalloc-64")))
    cache = find_slab_cache(prog, "kmalloc-64")
    assert cache is not None
    not_damaged = "what it is, not whether it is damaged; --everywhere asks that, too"
    for address, said in (
        (
            one.address,
            "its own cache alone, not whether others record it too; --everywhere asks all",
        ),
        (one.slab, not_damaged),
        (per_cpu_ptr(cache.cpu_slab, 0).value_(), not_damaged),
    ):
        assert f"  asked          {said}\n" in as_text(slab_object(prog, address))
        assert "--everywhere" not in as_text(slab_object(prog, address, everywhere=True))


def test_more_neighbours_are_those_of_the_slab(prog: Program) -> None:
    every = list(objects(prog, "kmalloc-64"))
    some = every[len(every) // 2]
    own = [one for one in every if one.slab == some.slab]
    at = own.index(some)
    info = slab_object(prog, some.address, neighbours=3)
    assert list(info.neighbours) == own[max(at - 3, 0) : at] + own[at + 1 : at + 4]
    none = slab_object(prog, some.address, neighbours=0)
    assert (none.neighbours, none.previous, none.next) == ((), None, None)


def test_sound_objects_are_recorded_by_no_other_cache(prog: Program) -> None:
    for name in ("kmalloc-64", "kmalloc-192"):
        some = next(iter(objects(prog, name)))
        everywhere = slab_object(prog, some.address, everywhere=True)
        assert everywhere == replace(slab_object(prog, some.address), everywhere=True)
        # As the command has it: this machine is small.
        assert everywhere == slab_object(prog, some.address, everywhere=None)


def test_object_on_the_freelist_of_another_cache_is_a_contradiction() -> None:
    prog = _open("debian-7-plain")
    overlay(prog, [Write(0xFFFF8BF101061B90, bytes.fromhex("00862501f18bffff"))])
    info = slab_object(prog, 0xFFFF8BF101258600, everywhere=True)
    assert (info.cache, info.state) == ("mnt_cache", "in use")
    (place,) = info.places
    assert place.startswith("main sheaf of CPU 0 of kmalloc-512, position ")
    assert info.contradictions == (f"recorded as free in {place}, of another cache",)


def test_freelist_that_leads_into_another_cache_is_a_contradiction() -> None:
    prog = _open("debian-6.1-plain")
    overlay(
        prog,
        [
            Write(0xFFFF8E874F836140, bytes.fromhex("c01c1c41878effff")),
            Write(0xFFFF8E87411C1DC0, bytes.fromhex("fb06ef0428a7f1a3")),
        ],
    )
    foreign = {finding.found for finding in check(prog).findings if finding.found}
    told = [
        info
        for address in foreign
        if isinstance(address, int)
        and (info := slab_object(prog, address, everywhere=True)).object is not None
    ]
    assert any("of another cache" in text for info in told for text in info.contradictions)


def _damaged(kernel: str, recipe: str) -> Program:
    prog, clean = _open(kernel), _open(kernel)
    suite = suite_of(clean)
    overlay(prog, suite.recipes[recipe](suite.open(clean)).writes)
    return prog


@pytest.mark.parametrize(
    ("kernel", "recipe"),
    [
        ("debian-7-plain", "sheaf-entry-of-another-cache"),  # in a sheaf
        ("slab-6.1-debug-plain", "free-objects-below-zero"),  # in a struct kmem_cache_node
        ("slab-6.1-debug-plain", "entry-of-another-cache"),  # in an array of a CPU
        ("debian-6.12-plain", "cpu-freelist-in-other-slab"),  # in a struct kmem_cache_cpu
        ("debian-6.12-plain", "mark-lost-on-full"),  # in a struct slab
        ("debian-6.12-plain", "cpu-partial-cut"),  # in one that a CPU keeps
        ("debian-5.10-plain", "cpu-partial-leads-to-another-cache"),
        ("debian-6.12-plain", "partial-slab-lost"),  # in none
    ],
)
def test_a_finding_is_told_of_its_word_and_its_slab(kernel: str, recipe: str) -> None:
    prog = _damaged(kernel, recipe)
    (root,) = (one for one in check(prog).findings if one.because is None)
    addresses = [at for at in (root.word, root.slab) if at is not None]
    assert addresses
    for address in addresses:
        assert root.message in slab_object(prog, address, everywhere=True).contradictions


def test_what_the_allocator_keeps_of_its_own_is_named(prog: Program) -> None:
    cache = prog["kmalloc_caches"][0][7]
    nid = machine(prog).nodes[0]
    if not hasattr(cache, "per_node"):
        of_node = f"struct kmem_cache_node of node {nid} of kmalloc-128"
        assert slab_object(prog, cache.node[nid]).holds == of_node
    assert slab_object(prog, cache).holds == "struct kmem_cache of kmalloc-128"
    assert "  holds          struct kmem_cache of kmalloc-128\n" in as_text(
        slab_object(prog, cache)
    )


def test_damaged_words_are_told_without_the_rest_of_the_object() -> None:
    prog = _damaged("debian-7-debug", "used-after-free")
    (root,) = check(prog).findings
    assert root.object is not None
    assert root.word is not None
    (word,) = slab_object(prog, root.object, contents=16).words
    assert (root.object + word.offset, word.word) == (root.word, prog.read_u64(root.word))
    assert word.meaning.startswith("object 0 of mm_struct slab ")


def test_damaged_bytes_are_marked() -> None:
    prog = _open("debian-7-debug")
    patches = {0x04: "08", 0x28: "00e05d81ffffffff", 0x80: "deadbeef"}
    base = 0xFFFF88A1C60D8A00
    overlay(prog, [Write(base + at, bytes.fromhex(data)) for at, data in patches.items()])
    info = slab_object(prog, base, contents=256)
    assert [line.offset for line in info.lines] == sorted(line.offset for line in info.lines)
    marked = {
        line.offset + at: line.bytes.split()[at] for line in info.lines for at in line.damaged
    }
    wanted = {
        at + n: f"{byte:02x}"
        for at, data in patches.items()
        for n, byte in enumerate(bytes.fromhex(data))
    }
    assert marked == wanted
    assert "^^" in as_text(info)
    zones = {line.part: line.bytes.split() for line in info.lines if "red zone" in line.part}
    assert zones
    assert all(set(data) <= {"bb", "cc"} for data in zones.values())


def test_words_are_told_where_contents_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    prog = _open("debian-7-plain")
    # What the allocator lives in is kept whole: a struct kmem_cache.
    first = prog["slab_caches"].next.value_()
    member = prog.type("struct kmem_cache").member("list").offset
    monkeypatch.setattr(
        machine(prog), "manifest", {**(machine(prog).manifest or {}), "contents": True}
    )
    info = slab_object(prog, first - member, contents=224)
    words = {word.offset: word for word in info.words}
    assert words[member + 8].meaning == "symbol slab_caches"
    assert words[member].word == prog.read_word(first)
    object_lines = [line for line in info.lines if line.part == "object"]
    assert [line.offset for line in object_lines] == list(range(0, 224, 16))
    assert bytes.fromhex(object_lines[0].bytes) == prog.read(first - member, 16)


def test_a_capture_says_that_it_has_no_bytes(
    prog: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = objects(prog, "kmalloc-192", "in use")
    for one in [*held[:3], *objects(prog, "kmalloc-192", "free")[:3]]:
        info = slab_object(prog, one.address, contents=64)
        (told,) = info.unavailable
        assert told.startswith("its bytes: this capture was written without contents")
        # That is no hole in it.
        assert not info.incomplete
        assert as_text(info).endswith(f"\nunavailable: {told}\n")
        assert json.loads(as_json(info))["unavailable"] == [told]
        assert slab_object(prog, one.address).unavailable == ()
    manifest = {**(machine(prog).manifest or {}), "contents": True}
    monkeypatch.setattr(machine(prog), "manifest", manifest)
    assert slab_object(prog, held[0].address, contents=64).unavailable == ()


def test_bytes_that_are_not_in_a_dump_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    prog = _open("debian-7-plain")
    manifest = {**(machine(prog).manifest or {}), "contents": True}
    monkeypatch.setattr(machine(prog), "manifest", manifest)
    held = next(one for one in objects(prog, "kmalloc-192", "in use") if one.place is None).address

    def fault(address: int, count: int, offset: int, physical: bool) -> bytes:
        raise FaultError("not there", address)

    page = held & ~0xFFF
    prog.add_memory_segment(page, 0x1000, fault, False)
    prog.add_memory_segment(page - machine(prog).memory.linear_base, 0x1000, fault, True)
    args = cli._parser().parse_args(["object", f"{held:x}", "--bytes", "32"])
    found = answer(args.command, lambda: prog, args)
    told = f"object: 32 bytes from 0x{held:x} on are not in the target"
    assert found.records.unavailable == (told,)
    assert f"\nunavailable: {told}\n" in found.text
    assert args.command.status(found.records) == 3


def test_what_is_there_of_an_object_is_shown_where_a_page_of_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prog = _open("debian-7-plain")
    of = machine(prog)
    monkeypatch.setattr(of, "manifest", {**(of.manifest or {}), "contents": True})
    held = next(one.address for one in objects(prog, "kmalloc-8k", "in use") if one.place is None)
    read = of.memory.read

    def without(address: int, size: int, physical: bool = False) -> bytes:
        if not physical and address < held + 0x2000 and held + 0x1000 < address + size:
            raise FaultError("not there", address)
        return read(address, size, physical)

    monkeypatch.setattr(of.memory, "read", without)
    info = slab_object(prog, held, contents=0x2000)
    told = [line for line in info.lines if line.part == "object"]
    assert [line.offset for line in told] == list(range(0, 0x1000, 16))
    (missing,) = (one for one in info.unavailable if one.startswith("object:"))
    assert missing == f"object: 4096 bytes from 0x{held + 0x1000:x} on are not in the target"
    assert info.incomplete


def test_words_that_repeat_are_one_line() -> None:
    words = [ObjectWord(8 * n, 5 if n < 4 else 6, "five" if n < 4 else "six") for n in range(5)]
    words.append(ObjectWord(48, 6, "six"))
    info = AddressInfo(0, "slab object", "made up", words=tuple(words), everywhere=True)
    told = [" ".join(line.split()) for line in as_text(info).splitlines()[1:]]
    assert told == [
        "words +0 0x0000000000000005: five, and so on up to +24",
        "+32 0x0000000000000006: six",
        "+48 0x0000000000000006: six",
    ]


def test_bytes_that_repeat_are_one_line() -> None:
    x, y = "cc " * 16, "cc " * 15 + "00"
    damaged: Tuple[int, ...] = tuple(range(16))
    every = [(x, ()), (x, ()), (x, ()), (y, (15,)), (x, ()), (x, ()), *[(x, damaged)] * 4, (x, ())]
    lines = [
        Line("padding", 16 * at, 16 * at, bytes.strip(), "." * 16, marked)
        for at, (bytes, marked) in enumerate(every)
    ]
    lines.append(Line("padding", 256, 256, x.strip(), "." * 16))
    info = AddressInfo(0, "slab object", "made up", lines=tuple(lines), everywhere=True)
    told = [line.split(": ") for line in as_text(info).splitlines()[1:]]
    assert [(line[0].split()[-2], line[1].split("  ")[0]) for line in told if len(line) > 1] == [
        ("+0", x.strip()),
        ("+47", "the same up to here"),
        ("+48", y),
        ("+64", x.strip()),
        ("+80", x.strip()),
        ("+96", x.strip()),
        ("+159", "the same damage up to here"),
        ("+160", x.strip()),
        ("+256", x.strip()),
    ]
    marks = [line[0].count("^^") for line in told if len(line) == 1]
    assert marks == [1, 16]


@pytest.mark.parametrize("count", [0, 10, 16, 100])
def test_every_damaged_byte_is_told(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    prog = _open("debian-7-debug")
    base, size = 0xFFFF88A1C10734C0, 1752  # a free mm_struct, behind which is padding
    damage = {20: 3, 200: 500, 1740: 4, size: 1, size + 103: 1}
    overlay(prog, [Write(base + at, b"\x01" * many) for at, many in damage.items()])
    wanted = {at + n for at, many in damage.items() for n in range(many)}
    for contents in (False, True):
        manifest = {**(machine(prog).manifest or {}), "contents": contents}
        monkeypatch.setattr(machine(prog), "manifest", manifest)
        info = slab_object(prog, base, contents=count)
        told = [line.offset + at for line in info.lines for at in range(len(line.bytes.split()))]
        assert len(told) == len(set(told))
        marked = {line.offset + at for line in info.lines for at in line.damaged}
        assert marked == (wanted if count else set())
        assert not contents or set(range(count)) <= set(told)
        assert all(
            line.damaged for line in info.lines if line.part == "object" and not line.offset < count
        )


def test_what_is_left_of_a_destroyed_cache_says_so() -> None:
    prog = open_capture(str(Path(__file__).parent / "broken" / "slub-6.1-plain-destroy.xz"))
    (finding,) = check(prog).findings
    left = slab_object(prog, 0xFFFF888000B2C068)
    assert (left.state, left.contradictions) == ("in use", (finding.message,))


@pytest.mark.parametrize(
    ("patch", "asked", "code"),
    [
        # The link of a full sheaf in a barn; an entry of a sheaf that leads into an object.
        ((0xFFFF8DF34194EF88, 0xFFFF8DF341047E09), 0xFFFF8DF34194EF88, "list-broken"),
        ((0xFFFF8DF341064480, 0xFFFF8DF34340CB41), 0xFFFF8DF34340CB41, "claim-foreign"),
    ],
)
def test_damage_of_sheaves_is_told_of_the_objects_it_is_in(
    patch: Tuple[int, int], asked: int, code: str
) -> None:
    prog = open_capture(str(HERE / "debian-7-kfence" / "capture.xz"))
    assert slab_object(prog, asked, everywhere=True).contradictions == ()
    prog = open_capture(str(HERE / "debian-7-kfence" / "capture.xz"))
    at, word = patch
    overlay(prog, [Write(at, word.to_bytes(8, "little"))])
    (told,) = [one for one in check(prog).findings if one.because is None]
    assert told.code == code
    assert told.message in slab_object(prog, asked, everywhere=True).contradictions
