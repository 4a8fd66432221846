# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a check does, by counts: nothing for each slab that can be done for all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import pytest

from drgn_slabtype import pagecheck, strays
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check


@pytest.mark.parametrize("kernel", ["debian-6.1-plain", "slab-6.1-plain"])
def test_reads_of_what_pages_say_do_not_grow_with_slabs(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, reads = pagecheck.judge_memory, []

    def counted(machine: Any, *others: Any) -> List[Any]:
        before = machine.spent
        found = judge(machine, *others)
        reads.append(machine.spent.since(before).reads)
        return found

    monkeypatch.setattr(strays, "judge_memory", counted)
    report = check(open_capture(str(Path(__file__).parent / kernel / "capture.xz")))
    assert report.totals.slabs > 2000
    assert 0 < reads[0] < 200
