# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where CPUs have their memory, if a dumper left zeroes there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List

import pytest

from drgn_slabtype.machine import offsets

_STEP = 0x40000
_CPUS = [0, 1, 2, 3]


class _Program:
    def variable(self, name: str) -> Any:
        return SimpleNamespace(cpu=SimpleNamespace(address_=0x1234))

    def __getitem__(self, name: str) -> Any:
        raise LookupError(name)


def _wrong(told: List[int], byte: int, monkeypatch: pytest.MonkeyPatch) -> List[int]:
    # Of CPUs the third of which has a page of such bytes where its runqueue is.
    memory = SimpleNamespace(page_size=4096, read=lambda address, size: bytes([byte]) * size)
    kernel: Any = SimpleNamespace(prog=_Program(), memory=memory)
    monkeypatch.setattr(offsets, "_is_of", lambda prog, offset, cpu: cpu != 2)
    return list(offsets._wrong(kernel, _CPUS, told))


def test_zeroes_where_a_cpu_has_its_memory_say_nothing_of_where_that_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = [_STEP * (1 + cpu) for cpu in _CPUS]
    assert _wrong(told, 0, monkeypatch) == []
    assert _wrong(told, 1, monkeypatch) == [2]
    # One that is not as far from the others leads there by chance.
    assert _wrong([*told[:2], told[2] + 4096, told[3]], 0, monkeypatch) == [2]
