# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage as it was reported of real kernels, done to captures, and what must be said of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Tuple

import pytest
from drgn import Program
from drgn.helpers.linux.slab import for_each_slab_cache

from drgn_slabtype import cli
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.what import what
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.command import answer
from drgn_slabtype.findings import Report
from drgn_slabtype.report import present

from ..recipes.overlay import Write, overlay


def _damaged(kernel: str, *patches: str) -> Program:
    # Each patch is ADDRESS=BYTES, in hex and in the order of memory.
    prog = open_capture(str(Path(__file__).parent / kernel / "capture.xz"))
    writes = [patch.split("=") for patch in patches]
    overlay(prog, [Write(int(address, 16), bytes.fromhex(data)) for address, data in writes])
    return prog


def _report(kernel: str, *patches: str) -> Report:
    return check(_damaged(kernel, *patches))


# The kernel met damage in a slab of kmalloc-256 and said "Marking all objects used".
_FAILED = (
    "ffff88a1c1041950=501904c1a188ffff",
    "ffff88a1c1041958=501904c1a188ffff",
    "fffffb42c0183600=400000c0ffff0f00",
    "fffffb42c0183610=000100000000adde220100000000adde",
    "ffff88a1c1041948=0000000000000000",
    "fffffb42c0183620=0000000000000000",
)


def test_slab_taken_out_of_service_is_a_note() -> None:
    report = _report("debian-7-debug", *_FAILED, "fffffb42c0183628=1500158000000000")
    assert (report.exit_status, report.findings, report.changing) == (0, [], [])
    assert [(note.code, note.slab) for note in report.notes] == [
        ("slab-failed", 0xFFFFFB42C0183600)
    ]


def test_slab_that_only_looks_full_is_damaged() -> None:
    # The same without frozen: nothing says that the kernel knows.
    report = _report("debian-7-debug", *_FAILED, "fffffb42c0183628=1500150000000000")
    assert report.exit_status == 1


# A module was unloaded and left objects: mnt_cache off the list of caches, without users.
_DESTROYED = (
    "ffff8bf10124a060=60a32401f18bffff",
    "ffff8bf10124a368=60a02401f18bffff",
    "ffff8bf10124ac60=000100000000adde220100000000adde",
    "ffff8bf10124ac3c=00000000",
)


def test_destroyed_cache_keeps_its_name_and_objects() -> None:
    report = _report("debian-7-plain", *_DESTROYED)
    (finding,) = report.findings
    assert (finding.code, finding.cache, finding.found) == ("cache-destroyed", "mnt_cache", 31)
    assert len(finding.details) == 7
    assert finding.details[-1] == "25 more are in use"
    assert report.exit_status == 1


def test_objects_of_a_destroyed_cache_are_listed() -> None:
    prog = _damaged("debian-7-plain", *_DESTROYED)
    left = objects(prog, "mnt_cache", "in use")
    assert len(left) == 31
    assert slab_object(prog, left.addresses()[0]).cache == "mnt_cache"


def test_loop_of_a_freelist_names_object_word_position_and_slot() -> None:
    (found,) = _report("debian-6.1-plain", "ffff8e8745f98cf0=f0886d0372ad4be2").findings
    assert (found.code, found.object) == ("freelist-cycle", 0xFFFF8E8745F98CC0)
    assert (found.address, found.slot, found.position) == (0xFFFF8E8745F98CF0, 34, 2)
    assert (found.index, found.expected, found.found) == (34, None, 0xFFFF8E8745F98240)


def test_foreign_object_on_a_cpus_freelist_is_told_with_its_cache() -> None:
    head, link = "ffff8e874f836140=c01c1c41878effff", "ffff8e87411c1dc0=fb06ef0428a7f1a3"
    (found,) = _report("debian-6.1-plain", head, link).findings
    assert (found.code, found.address) == ("freelist-pointer", 0xFFFF8E874F836140)
    assert (found.expected, found.found) == (None, 0xFFFF8E87411C1CC0)
    assert any("object 23 of mnt_cache" in line for line in found.details)


def test_text_over_a_node_is_damage_of_its_lock_and_its_list() -> None:
    text = "5f6370755f666c6f775f646f776e5f62795f726174655f6c696d69745f30303031"
    report = _report("debian-6.1-plain", f"ffff8e87410411c0={text}")
    (root,) = [finding for finding in report.findings if finding.because is None]
    (lock,) = [finding for finding in report.findings if finding.code == "lock-wrong"]
    assert (report.exit_status, root.code, lock.because) == (1, "list-broken", root.id)
    assert report.changing == []


def test_a_list_of_caches_that_is_cut_leads_to_null() -> None:
    prog = _damaged("debian-7-debug", _cut_list())
    report = check(prog)
    (finding,) = [one for one in report.findings if one.code == "cache-list"]
    assert finding.message.endswith("leads to NULL")
    assert "found NULL" in "".join(present("check", report, "table"))
    (missing,) = [one for one in caches(prog).unavailable if one.startswith("slab_caches: ")]
    assert "leads to NULL: caches without slabs may be missing" in missing


@pytest.mark.parametrize("command", ["owners kmalloc-32", "objects kmalloc-32", "caches -n 3"])
def test_every_list_of_a_machine_that_lost_caches_says_so(command: str) -> None:
    prog = _damaged("debian-7-debug", _cut_list())
    told, status = _answered(prog, command)
    assert "unavailable: slab_caches: next of " in told
    assert status == 3


@pytest.mark.parametrize(
    ("command", "status"),
    [
        *((f"{one} lab_victim", 1) for one in ("objects", "objects --free", "caches", "slabs")),
        ("caches -n 1", 1),
        *((f"{one} kmalloc-64", 0) for one in ("objects", "caches", "slabs", "owners")),
        ("stacks kmalloc-64 --by words", 0),
        *((f"{one} 0xffff888000b917e0", 1) for one in ("object", "page")),
    ],
)
def test_the_same_damage_has_the_same_exit_status(command: str, status: int) -> None:
    path = Path(__file__).parent / "broken" / "slub-6.1-plain-P-overflow-word.xz"
    told, ended = _answered(open_capture(str(path)), command)
    assert ended == status
    wrong = "something is wrong with lab_victim: see check\n"
    assert told.endswith(wrong) == (command.startswith("objects") and status == 1)
    assert ("with something wrong" in told) == (command.startswith("caches") and status == 1)


def test_objects_whose_contents_are_not_there_make_an_answer_incomplete() -> None:
    prog = open_capture(str(Path(__file__).parent / "debian-7-kfence" / "capture.xz"))
    told, status = _answered(prog, "stacks dentry --by words")
    assert "the contents of 8968 not in the target" in told
    assert status == 3


def test_positions_have_one_spelling() -> None:
    prog = open_capture(str(Path(__file__).parent / "debian-7-debug" / "capture.xz"))
    told, _ = _answered(prog, "objects kmalloc-64 --free -n 3")
    first = told.splitlines()[2]
    assert re.search(r"  freelist, position \d+$", first)
    address = int(first.split()[0], 16)
    assert first.split("  ")[-1].strip() in slab_object(prog, address).places


def test_objects_of_kfence_are_counted_apart_from_those_of_slabs() -> None:
    prog = open_capture(str(Path(__file__).parent / "debian-7-kfence" / "capture.xz"))
    found = objects(prog, "dentry")
    document = json.loads("".join(present("objects", found, "json")))
    (usage,) = caches(prog, "dentry")
    assert document["guarded"] == usage.guarded > 0
    assert document["found"] - document["guarded"] == usage.objects
    assert document["count"] == len(document["objects"]) == document["found"]
    assert document["damaged"] is False


def test_what_tells_whose_structure_an_object_is() -> None:
    prog = open_capture(str(Path(__file__).parent / "debian-7-debug" / "capture.xz"))
    cache = next(iter(caches(prog, "kmalloc-128"))).address
    (meaning,) = what(prog, cache, cache).meanings
    assert meaning.meaning.endswith("; it holds struct kmem_cache of kmalloc-128)")
    assert (what(prog, 0, cache).where or "").endswith("struct kmem_cache of kmalloc-128)")
    (wrong,) = what(prog, cache ^ 1 << 50).meanings
    assert wrong.meaning.endswith("; it holds struct kmem_cache of kmalloc-128)")


def _answered(prog: Program, line: str) -> Tuple[str, int]:
    # The text of a command, and the status that it ends with.
    args = cli._parser().parse_args(line.split())
    told = answer(args.command, lambda: prog, args)
    return "".join(told.text), args.command.status(told.records)


def _cut_list() -> str:
    # The patch by which a list of caches ends in NULL behind one in its middle.
    prog = open_capture(str(Path(__file__).parent / "debian-7-debug" / "capture.xz"))
    order = list(for_each_slab_cache(prog))
    return f"{order[len(order) // 2].list.next.address_of_().value_():x}={'00' * 8}"
