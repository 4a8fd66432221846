# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which functions of a kernel its guests are stopped in."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import entries
from lab.entries import Function, functions

_SYMBOLS = """
   Num:    Value          Size Type    Bind   Vis      Ndx Name
     1: 0000000000000000     0 FILE    LOCAL  DEFAULT  ABS page_alloc.c
     2: ffffffff81000000    16 FUNC    LOCAL  DEFAULT    1 rmqueue_bulk
     3: 0000000000000000     0 FILE    LOCAL  DEFAULT  ABS slub.c
     4: ffffffff81001000    64 FUNC    LOCAL  DEFAULT    1 get_partial_node.part.0
     5: ffffffff81002000    64 FUNC    LOCAL  DEFAULT    1 get_partial_node.part.0.cold
     6: ffffffff81003000  0x40 FUNC    LOCAL  DEFAULT    1 __slab_free
     7: ffffffff81004000    64 FUNC    LOCAL  DEFAULT    1 order_show
     8: ffffffff81005000    64 OBJECT  LOCAL  DEFAULT    1 slab_state
     9: 0000000000000000     0 FILE    LOCAL  DEFAULT  ABS vmscan.c
    10: ffffffff81006000    64 FUNC    LOCAL  DEFAULT    1 shrink_slab
    11: ffffffff81007000    64 FUNC    GLOBAL DEFAULT    1 kmem_cache_free
    12: ffffffff81008000    64 FUNC    GLOBAL DEFAULT    1 schedule
"""


def test_functions_of_the_allocator_that_do_something(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "output", lambda arguments: _SYMBOLS)
    assert functions(Path("vmlinux")) == [
        Function("__slab_free", 0xFFFFFFFF81003000, 64),
        Function("get_partial_node", 0xFFFFFFFF81001000, 64),
        Function("kmem_cache_free", 0xFFFFFFFF81007000, 64),
    ]
