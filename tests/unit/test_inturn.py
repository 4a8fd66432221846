# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which tests wait for ``--every-kernel``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Set, Tuple

from ..inturn import ALONE, KERNELS, WITH_OTHERS, kernel_of, left_out

Case = Tuple[str, Dict[str, Any]]
_KERNELS = sorted(KERNELS)


def _taken(cases: List[Case]) -> List[Case]:
    left = left_out(cases, lambda case: case)
    return [case for at, case in enumerate(cases) if at not in left]


def test_a_kernel_is_known_by_its_name_and_by_its_files() -> None:
    name = _KERNELS[0]
    folder = Path("tests/captures") / name
    assert [kernel_of(one) for one in (name, folder, folder / "capture.xz")] == [name] * 3
    assert [kernel_of(one) for one in ("free", 3, None, Path("docs"), folder.parent)] == [""] * 5


def test_a_test_takes_some_of_its_kernels_and_tests_take_all_of_them() -> None:
    seen: Set[str] = set()
    for test in range(200):
        taken = _taken([(f"test_{test}", {"kernel": name}) for name in _KERNELS])
        assert len(taken) == ALONE
        seen.update(case[1]["kernel"] for case in taken)
    assert seen == KERNELS


def test_more_is_taken_of_what_is_repeated_for_more_than_kernels() -> None:
    values = range(5)
    cases = [("test", {"value": value, "kernel": name}) for value in values for name in _KERNELS]
    taken = _taken(cases)
    assert len(taken) == WITH_OTHERS
    assert len({case[1]["value"] for case in taken}) == WITH_OTHERS


def test_what_is_about_no_kernel_and_what_is_seldom_repeated_is_taken() -> None:
    cases: List[Case] = [("test_one", {"kernel": name}) for name in _KERNELS[:ALONE]]
    cases += [("test_two", {"value": value}) for value in range(99)]
    assert _taken(cases) == cases
