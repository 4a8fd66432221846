# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Call traces
-----------

Names of code, and the stack depot, which keeps each call trace once and gives
out handles. Handles are found in memory that users can overwrite, so that none
is trusted here.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, List, Tuple

from drgn import FaultError, Object, cast, reinterpret

if TYPE_CHECKING:
    from . import Machine

_MAX_FRAMES = 256  # the most CONFIG_STACKDEPOT_MAX_FRAMES allows
# Stack depot records begin at multiples of 16 bytes, since Linux kernel commit
# cd11016e5f52 ("mm, kasan: stackdepot implementation. Enable stackdepot for
# SLAB") (in v4.6).
_DEPOT_ALIGN = 4


def symbolise(machine: Machine, address: int) -> str:
    """Return an address of code or data as ``symbol+0xoffset``, or in hex."""
    # A call that does not come back can be the last instruction of a function,
    # and the address it would return to the first one behind it.
    for inside in (address, address - 1):
        with contextlib.suppress(LookupError, OverflowError):
            symbol = machine.prog.symbol(inside)
            return f"{symbol.name}+0x{address - symbol.address:x}"
    return f"0x{address:x}"


def frames(machine: Machine, addresses: List[int]) -> Tuple[str, ...]:
    """Return the names of a call trace, which may end before the list does."""
    found = []
    for address in addresses:
        if not address:
            break
        found.append(symbolise(machine, address))
    return tuple(found)


def depot_stack(machine: Machine, handle: Object) -> Tuple[str, ...]:
    """
    Return a call trace from the stack depot.

    drgn's ``stack_depot_fetch()`` follows any handle; this one may have been
    overwritten, and counts only if the record it leads to says the same.

    :param handle: ``depot_stack_handle_t``
    """
    try:
        if not handle:
            return ()
        record = _depot_record(machine, handle)
        if record.handle.handle.value_() != handle.value_():
            return ()
        size = min(record.size.value_(), _MAX_FRAMES)
        return frames(machine, [record.entries[at].value_() for at in range(size)])
    except (AttributeError, FaultError, LookupError, TypeError):
        return ()


def _depot_record(machine: Machine, handle: Object) -> Object:
    parts = reinterpret("union handle_parts", handle)
    # Since Linux kernel commit 961c949b012f ("lib/stackdepot: rename slab to
    # pool") (in v6.3).
    try:
        pools = machine.prog["stack_pools"]
    except KeyError:
        pool = machine.prog["stack_slabs"][parts.slabindex]
    else:
        # Since Linux kernel commit a6c1d9cb9a68 ("stackdepot: rename pool_index
        # to pool_index_plus_1") (in v6.9).
        if hasattr(parts, "pool_index_plus_1"):
            pool = pools[parts.pool_index_plus_1 - 1]
        else:
            pool = pools[parts.pool_index]
    address = pool.value_() + (parts.offset.value_() << _DEPOT_ALIGN)
    return cast("struct stack_record *", Object(machine.prog, "void *", value=address))
