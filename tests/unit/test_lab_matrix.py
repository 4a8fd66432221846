# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several runs of the lab's matrix, joined."""

from __future__ import annotations

import json
from typing import Any, Dict, List

from lab.comparison import Result
from lab.matrix import Matrix
from lab.recipes import Recipes
from lab.report import markdown


def _record(run: Matrix) -> Dict[str, Any]:
    record: Dict[str, Any] = json.loads(json.dumps(run.record()))
    return record


def _join(*runs: Matrix) -> Matrix:
    return Matrix.of_records([_record(run) for run in runs])


def test_of_what_was_run_twice_the_last_counts() -> None:
    wrong = Result("debian-7/busy/1", findings=["list-missing: a slab"], status=1)
    right = Result("debian-7/busy/1", slabs=3)
    other = Result("debian-7/busy/1", format="kdump", slabs=4)
    whole = _join(Matrix([wrong, other], seconds=2), Matrix([right], seconds=3))
    assert whole.results == [right, other]
    assert whole.good
    assert whole.seconds == 5


def test_what_was_made_up_for_is_neither_failed_nor_left_out() -> None:
    first = Matrix(
        failed={"debian-7/busy": "it hangs", "debian-7/numa": "it hangs"},
        left_out=["recipes on debian-7/plain", "debian-7/kfence"],
    )
    later = Matrix([Result("debian-7/busy/1")], [Recipes("debian-7/plain", found=1)])
    whole = _join(first, later)
    assert whole.failed == {"debian-7/numa": "it hangs"}
    assert whole.left_out == ["debian-7/kfence"]
    assert not whole.good


def _cells(text: str) -> List[List[str]]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_more_silent_changes_than_chance_explains_fail_a_dump() -> None:
    flips = [f"kmem_cache.size{at} flip: silent" for at in range(4)]
    good, bad = (
        Recipes(
            f"debian-7/{guest}",
            found=1,
            words=60,
            changes=300,
            unexplained=flips[:number],
            by_chance=flips[:number],
        )
        for guest, number in (("plain", 3), ("numa", 4))
    )
    assert Matrix([], [good]).good
    assert not Matrix([], [good, bad]).good
    assert "changed word kmem_cache.size3 flip: silent" in markdown(_join(Matrix([], [good, bad])))
    one = ["kmem_cache.size +1: silent"]
    assert not Recipes("debian-7/plain", found=1, words=60, changes=300, unexplained=one).good


def test_page_has_a_row_for_each_guest_in_the_order_of_the_tables() -> None:
    pauses = [Result(f"debian-7/busy{end}", slabs=2, changing=1) for end in ("", "/1", "/2")]
    plain = Result("debian-7/plain", slabs=5, compared=7000)
    first = Result("slab-6.1-rfc3/numa", compared=1, mismatches=["one"])
    assert _cells(markdown(Matrix([*pauses, plain, first]))) == [
        ["slab-6.1-rfc3/numa", "amd64", "elf", "1", "0", "0", "0", "0", "1", "1"],
        ["debian-7/plain", "amd64", "elf", "1", "5", "0", "0", "0", "7,000", "0"],
        ["debian-7/busy", "amd64", "elf", "3", "6", "0", "3", "0", "-", "-"],
    ]
