# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who called: stack traces and the symbols of code
------------------------------------------------

Records of allocations hold addresses of code, or handles of the stack depot
that lead to such addresses. A capture keeps the traces and names the functions.
"""

from __future__ import annotations

import bisect
from itertools import accumulate
from typing import Dict, Iterable, Iterator, List, Set, Tuple

import numpy as np
from drgn import SymbolBinding, TypeKind

from ..machine import Machine
from ..machine.columns import Structure
from ..machine.memory import U64
from ..regions import Region, merge, region
from .describe import Name

_MAX_FRAMES = 256  # the most CONFIG_STACKDEPOT_MAX_FRAMES allows
_ALIGN_SHIFT = 4  # records begin at multiples of 16 bytes
_BLOCK_BYTES = 1 << 20
# Modules are loaded where relative branches to and from the kernel reach.
_REACH = 1 << 31
_NEAR_SYMBOLS = 32  # that contain an address, counted back from it: aliases and nested labels


def stack_traces(machine: Machine, handles: U64) -> Iterator[Region]:
    """
    Yield the stack depot's records of some handles.

    :param handles: ``depot_stack_handle_t``; what leads nowhere is ignored.
    :raises LookupError: if the kernel has no stack depot.
    """
    source = machine.memory
    parts = machine.structure("union handle_parts")
    raw = np.unique(handles[handles != 0]).astype(f"{source.byteorder}u4")
    if not len(raw):
        return
    pools = _pools(machine, parts, raw)
    yield region("stack traces", pools, source.word_size)
    gathered = source.gather(pools, source.word_size)
    pool = gathered.bytes.view(source.word)[:, 0].astype(np.uint64)
    offset = parts.column(raw.view(np.uint8).reshape(-1, 4), "offset") << np.uint64(_ALIGN_SHIFT)
    used = source.is_kernel_address(pool)
    records = (pool + offset)[used]
    layout = machine.structure("struct stack_record")
    rows = machine.rows("struct stack_record", records, layout.offset("entries"))
    frames = np.minimum(rows["size"], np.uint64(_MAX_FRAMES))
    sizes = np.uint64(layout.offset("entries")) + frames * np.uint64(source.word_size)
    # An overwritten handle may lead anywhere; a record knows its own handle.
    own = rows.ok & (rows["handle"] == raw[used].astype(np.uint64))
    yield region("stack traces", rows.addresses[own], sizes[own], code=True)


def _pools(machine: Machine, parts: Structure, raw: U64) -> U64:
    # Addresses of the pointers to the pools that handles name.
    data = raw.view(np.uint8).reshape(-1, 4)
    # Since Linux kernel commit 961c949b012f ("lib/stackdepot: rename slab to
    # pool") (in v6.3), and a6c1d9cb9a68 ("stackdepot: rename pool_index to
    # pool_index_plus_1") (in v6.9).
    if parts.has("pool_index_plus_1"):
        name, index = "stack_pools", parts.column(data, "pool_index_plus_1") - np.uint64(1)
    elif parts.has("pool_index"):
        name, index = "stack_pools", parts.column(data, "pool_index")
    else:
        name, index = "stack_slabs", parts.column(data, "slabindex")
    pools = machine.prog[name]
    is_array = pools.type_.kind == TypeKind.ARRAY
    start = pools.address_ if is_array else pools.value_()
    return np.uint64(start) + index * np.uint64(machine.memory.word_size)


def code_symbols(machine: Machine, regions: Iterable[Region]) -> Set[Name]:
    """
    Return the symbols that words of regions marked as such lead to.

    Any word that can be an address in the kernel or a module counts, also one
    that overwrote something else.
    """
    source = machine.memory
    try:
        text = machine.prog.symbol("_stext").address
    except LookupError:
        return set()
    low, high = max(text - _REACH, 0), min(text + _REACH, (1 << 8 * source.word_size) - 1)
    found: List[U64] = []
    ranges = merge([each for each in regions if each.code])
    for start, end in zip(ranges.starts.tolist(), ranges.ends.tolist()):
        start = -(-start // source.word_size) * source.word_size
        for _, data in source.blocks(start, max(start, end), _BLOCK_BYTES):
            whole = data[: len(data) // source.word_size * source.word_size]
            words = whole.view(source.word).astype(np.uint64)
            found.append(np.unique(words[(words >= low) & (words < high)]))
    addresses = np.unique(np.concatenate([np.zeros(0, np.uint64), *found]))
    return _resolve(machine, addresses.tolist()) if len(addresses) else set()


def _resolve(machine: Machine, addresses: List[int]) -> Set[Name]:
    # As Program.symbol() answers for each; but that searches all symbols every
    # time. Of those that contain the address the one counts that starts
    # nearest, then the shortest, then the one with the strongest binding. What
    # none contains belongs to the label before it.
    precedence = {SymbolBinding.GLOBAL: 0, SymbolBinding.UNIQUE: 0, SymbolBinding.WEAK: 1}
    known = [
        (symbol.address, -symbol.size, -precedence.get(symbol.binding, 2), -number, symbol)
        for number, symbol in enumerate(machine.prog.symbols())
    ]
    known.sort(key=lambda entry: entry[:4])
    starts = [entry[0] for entry in known]
    ends = list(accumulate((entry[0] - entry[1] for entry in known), max))
    found: Set[Name] = set()
    labels: Dict[Tuple[str, int], int] = {}
    for address in addresses:
        at = bisect.bisect_right(starts, address)
        near = [entry[-1] for entry in known[max(at - _NEAR_SYMBOLS, 0) : at][::-1]]
        inside = [symbol for symbol in near if address < symbol.address + symbol.size]
        if inside:
            found.add((inside[0].name, inside[0].address, inside[0].size))
        elif near and not near[0].size and near[0].address >= ends[at - 1]:
            labels[near[0].name, near[0].address] = address
    # A label reaches as far as it is asked for, no further.
    return found | {(name, start, last - start + 1) for (name, start), last in labels.items()}
