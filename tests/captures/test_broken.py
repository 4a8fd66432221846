# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels that were broken on purpose (``scripts/vmlab break``), and what must be found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import List

from drgn_slabtype import page_info, slab_object, slabs
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Finding
from drgn_slabtype.report import present

_HERE = Path(__file__).parent / "broken"


def _roots(name: str) -> List[Finding]:
    report = check(open_capture(str(_HERE / f"{name}.xz")))
    assert (report.exit_status, report.changing) == (1, [])
    return [finding for finding in report.findings if finding.because is None]


def test_put_page_of_a_slab_in_use() -> None:
    # Its page is on a list of free pages; with it went the slab's base and links.
    (root,) = _roots("slab-6.1-rfc3-put-slab")
    assert (root.code, root.cache, root.slab) == ("page-refcount", "lab_victim", 0xFFFFEA0000033AC0)
    assert (root.expected, root.found) == (1, 0)


def test_questions_about_that_slab_tell_what_is_wrong_with_its_page() -> None:
    prog = open_capture(str(_HERE / "slab-6.1-rfc3-put-slab.xz"))
    page, first = 0xFFFFEA0000033AC0, 0xFFFF888000CEB000
    told = "has refcount 0; the other slabs have 1"
    assert told in slab_object(prog, first).contradictions[0]
    info = page_info(prog, page)
    assert info.slab is not None
    assert told in info.slab.findings[0]
    answer = slabs(prog, "lab_victim", slab=page)
    assert [one.finding for one in answer] == ["page-refcount"]
    # What s_mem says is gone; the cache has one colour, and so there is no other place.
    assert [one.address for one in answer.objects[:2]] == [first, first + 104]


def test_cache_destroyed_with_objects_in_it_before_linux_6_12() -> None:
    (root,) = _roots("slub-6.1-plain-destroy")
    assert (root.code, root.cache, root.found) == ("cache-destroyed", "lab_victim", 130)


def test_word_behind_an_object_in_use_is_its_free_pointer() -> None:
    # The kernel says "Freepointer corrupt" of this object when it is asked to look.
    (root,) = _roots("slub-6.1-plain-P-overflow-word")
    assert (root.code, root.cache, root.object) == ("padding", "lab_victim", 0xFFFF888000B917E0)
    assert (root.address, root.found) == (0xFFFF888000B91848, b"overflow".hex(" "))


def test_null_is_called_null_and_is_an_address_in_json() -> None:
    report = check(open_capture(str(_HERE / "slab-6.1-rfc3-put-slab.xz")))
    told = "".join(present("check", report, "table"))
    assert "[slab-base-wrong]: expected 0xffff888000ceb000, found NULL\n" in told
    found = json.loads("".join(present("check", report, "json")))["findings"]
    assert [one["found"] for one in found if one["code"] == "slab-base-wrong"] == ["0x0"]
    for one in found:
        values = [one["expected"], one["found"]]
        assert one["value_kind"] != "address" or not any(isinstance(v, int) for v in values)
    # A count stays a number.
    (refs,) = [one for one in found if one["code"] == "page-refcount"]
    assert (refs["expected"], refs["found"]) == (1, 0)
