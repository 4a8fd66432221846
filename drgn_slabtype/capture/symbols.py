# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Symbols of code
---------------

Records of who called hold addresses of code. A capture names the functions.
"""

from __future__ import annotations

import bisect
from itertools import accumulate
from typing import Dict, Iterable, List, Optional, Set, Tuple

import numpy as np
from drgn import SymbolBinding

from ..distinct import distinct
from ..machine import Machine
from ..machine.memory import U64
from ..machine.symbols import label_reaches
from ..regions import Region, merge
from .describe import Name

_BLOCK_BYTES = 1 << 20
# Modules are loaded where relative branches to and from the kernel reach.
_REACH = 1 << 31
_NEAR_SYMBOLS = 32  # that contain an address, counted back from it: aliases and nested labels


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
            found.append(distinct(words[(words >= low) & (words < high)]))
    addresses = distinct(np.concatenate([np.zeros(0, np.uint64), *found]))
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
    labels: Dict[Tuple[str, int], List[int]] = {}
    for address in addresses:
        at = bisect.bisect_right(starts, address)
        near = [entry[-1] for entry in known[max(at - _NEAR_SYMBOLS, 0) : at][::-1]]
        inside = [symbol for symbol in near if address < symbol.address + symbol.size]
        if inside:
            found.add((inside[0].name, inside[0].address, inside[0].size))
        elif (
            near
            and not near[0].size
            and near[0].address >= ends[at - 1]
            and label_reaches(machine, near[0].address, address)
        ):
            labels.setdefault((near[0].name, near[0].address), []).append(address)
    for (name, start), reached in labels.items():
        # A label reaches as far as it is asked for, and as the kernel's own symbols let it:
        # `_end` has nothing behind it, though modules are loaded there.
        end = _reach_of(machine, name, reached)
        if end is not None:
            found.add((name, start, end - start + 1))
    return found


def _reach_of(machine: Machine, name: str, addresses: List[int]) -> Optional[int]:
    # The last of some addresses, in order, that the kernel's own symbols call by a name.
    low, high = 0, len(addresses)
    while low < high:
        middle = (low + high) // 2
        try:
            named = machine.prog.symbol(addresses[middle]).name == name
        except LookupError:
            named = False
        low, high = (middle + 1, high) if named else (low, middle)
    return addresses[low - 1] if low else None
