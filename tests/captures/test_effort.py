# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a check does, by counts: nothing for each slab that can be done for all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List

import numpy as np
import pytest

from drgn_slabtype import pagecheck, strays
from drgn_slabtype.allocators.ahead import Share, shares
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.machine import machine
from drgn_slabtype.reading import Reading


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


def test_slabs_of_all_caches_are_read_together() -> None:
    kernel = machine(open_capture(str(Path(__file__).parent / "debian-6.1-plain/capture.xz")))
    reading = Reading(kernel)
    slabs, caches = len(reading.index), range(len(reading.allocator.caches))
    before = kernel.spent
    shares = reading.read_ahead(caches)
    assert next(shares) == list(caches)
    assert kernel.spent.since(before).reads < slabs / 8
    before = kernel.spent
    for number in caches:
        reading.judge(number)
    assert kernel.spent.since(before).bytes < 100 * slabs  # other things than slabs


def test_what_there_is_no_room_for_is_not_read_ahead() -> None:
    words = np.array([3, 1 << 22, 1, (1 << 22) + 1, 5])
    assert list(shares([0, 1, 2, 3, 4], words)) == [
        Share([0], [0]),
        Share([1], [1]),
        Share([2, 3, 4], [2, 4]),
    ]
