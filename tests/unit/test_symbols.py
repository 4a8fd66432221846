# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of code and data, of made-up symbols."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List, Tuple

import pytest
from drgn import SymbolBinding

from drgn_slabtype.capture.symbols import _resolve
from drgn_slabtype.machine.symbols import CodeNames, symbol_at, symbolise


def _machine(symbols: List[Tuple[str, int, int]], lowest: int) -> Any:
    rows = [
        SimpleNamespace(name=name, address=at, size=size, binding=SymbolBinding.GLOBAL)
        for name, at, size in symbols
    ]

    def symbol(address: int) -> Any:
        for row in reversed(rows):
            if row.address <= address < row.address + (row.size or 1 << 20):
                return row
        raise LookupError

    prog = SimpleNamespace(symbols=lambda: rows, symbol=symbol)
    memory = SimpleNamespace(is_kernel_address=lambda starts: starts >= lowest, page_size=4096)
    return SimpleNamespace(prog=prog, memory=memory)


@pytest.mark.parametrize("name", ["$d", "$x", ".LC5"])
def test_what_a_compiler_called_a_place_is_no_name(name: str) -> None:
    machine = _machine([(name, 0x1000, 0)], 0)
    with pytest.raises(LookupError):
        symbol_at(machine, 0x1008)
    assert symbolise(machine, 0x1008) == "0x1008"


def test_a_symbol_without_a_size_names_nothing_far_behind_it() -> None:
    # As __start_BTF and __start___jump_table are.
    machine = _machine([("table", 0x1000, 0x20), ("__start_BTF", 0x2000, 0)], 0)
    names = CodeNames(machine)
    assert names[0x1008] == symbolise(machine, 0x1008) == "table+0x8"
    assert names[0x2FFF] == symbolise(machine, 0x2FFF) == "__start_BTF+0xfff"
    assert names[0x3001] == symbolise(machine, 0x3001) == "0x3001"
    assert [names.within(one) for one in (0x1008, 0x1020, 0x2000, 0x2FFF)] == [True, *[False] * 3]


def test_names_of_a_kernel_that_lies_low_are_known() -> None:
    # As that of s390x, below 4 TiB.
    text = 0x3FFFF1A93E0
    names = CodeNames(_machine([("schedule", text, 0xEC)], 0x1000))
    assert names.reach == (text, text + 0xEC)
    assert names[text + 8] == "schedule+0x8"


def test_offsets_of_per_cpu_variables_are_no_addresses() -> None:
    # As those of x86-64 are until Linux 6.14.
    text = 0xFFFFFFFF81000000
    names = CodeNames(_machine([("this_cpu_off", 0x8, 8), ("schedule", text, 0xEC)], 1 << 63))
    assert names.reach == (text, text + 0xEC)


def test_a_capture_makes_no_table_of_a_symbol_without_a_size() -> None:
    # kallsyms_token_index stands before a megabyte without names.
    machine = _machine([("table", 0x1000, 0x20), ("kallsyms_token_index", 0x2000, 0)], 0)
    with pytest.raises(LookupError, match="far behind kallsyms_token_index"):
        symbol_at(machine, 0x18831)
    named = _resolve(machine, [0x1008, 0x2010, 0x2FF0, 0x3000, 0x18831])
    assert named == {("table", 0x1000, 0x20), ("kallsyms_token_index", 0x2000, 0xFF1)}
