# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A capture of arm64 as KASAN's tag modes would have left its memory.

Each pointer to an object of a slab gets a tag in its top byte, those that hardened
freelists hold too. Struct pages, the kernel's image and per-CPU memory have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Tuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program

from drgn_slabtype.allocators.slub.freelists import Encoding, decode
from drgn_slabtype.capture import open_capture
from drgn_slabtype.machine import machine
from drgn_slabtype.reading import Reading, Scope

from .counting import read_through

U64 = npt.NDArray[np.uint64]

_TOP = np.uint64(56)
_WORD = 8


def tags_of(addresses: U64) -> U64:
    """Return a tag for each address: any but 0xff, which stands for none, and 0xfe."""
    mixed = (addresses >> np.uint64(3)) * np.uint64(0x9E3779B97F4A7C15)
    found: U64 = (mixed >> _TOP) % np.uint64(0xFE)
    return found


def tagged_capture(path: Path) -> Tuple[Program, int]:
    """
    Return a program that reads a capture whose pointers have tags.

    :return: The program, and how many words of freelists have one.
    """
    prog, source = open_capture(str(path)), open_capture(str(path))
    known = machine(source)
    memory = known.memory
    whole = Reading(known, Scope())
    starts, spans = whole.index.addresses[whole.index.marked], whole.index.spans
    spans = spans[whole.index.marked]
    order = np.argsort(starts)
    starts, ends = starts[order], (starts + spans)[order]
    hidden = _free_pointers(whole)

    def points_to_object(words: U64) -> npt.NDArray[np.bool_]:
        at = np.searchsorted(starts, words, "right").astype(np.int64) - 1
        found: npt.NDArray[np.bool_] = (at >= 0) & (words < ends[np.maximum(at, 0)])
        return found

    def tagged(address: int, data: bytes) -> bytes:
        words = np.frombuffer(data, "<u8").copy()
        which = points_to_object(words)
        mask = (np.uint64(0xFF) ^ tags_of(words)) << _TOP
        words[which] ^= mask[which]
        for place in range(address, address + len(data), _WORD):
            if place in hidden:
                words[(place - address) // _WORD] ^= np.uint64(hidden[place])
        return words.tobytes()

    def read(address: int, size: int, offset: int, physical: bool) -> bytes:
        begin, end = address // _WORD * _WORD, -(-(address + size) // _WORD) * _WORD
        try:
            data = source.read(begin, end - begin, physical)
        except FaultError:  # the end of what is there, in mid-word: no pointer
            data = source.read(address, size, physical)
            data = bytes(address - begin) + data + bytes(end - address - size)
        whence = begin + memory.linear_base if physical else begin
        data = tagged(whence & (1 << 64) - 1, data)
        return data[address - begin : address - begin + size]

    read_through(prog, path, read)
    return prog, len(hidden)


def _free_pointers(whole: Reading) -> Dict[int, int]:
    # What to change in each word that holds a hardened pointer.
    index, caches = whole.index, whole.allocator.caches
    places = np.concatenate(
        [
            one.addresses
            for some in whole.allocator.regions(index)
            for one in some.regions
            if one.what == "free pointers"
        ]
    )
    memory = whole.machine.memory
    stored = memory.gather(places, _WORD).bytes.view("<u8")[:, 0].astype(np.uint64)
    owner = whole.allocator.ownership.cache[index.rows_of_addresses(places)]
    secret = caches.rows["random"][owner]
    leads = decode(Encoding.SWAPPED, stored, places, 0) ^ secret
    mask = (np.uint64(0xFF) ^ tags_of(leads)) << _TOP
    some = leads != 0
    return dict(zip(places[some].tolist(), mask[some].tolist()))
