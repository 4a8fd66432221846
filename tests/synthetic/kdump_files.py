# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kdump files, as makedumpfile writes them, for tests of how files are opened."""

from __future__ import annotations

import struct
import zlib
from typing import Dict, Iterator, List, Tuple

from .elf_files import VMCOREINFO, note

BLOCK = 4096
NAMES = ("Linux", "host", "6.1.0-test", "#1 SMP", "x86_64", "(none)")
SUB_BLOCKS = 2

PARTS: Dict[str, Tuple[int, int]] = {
    "header": (1, 464),
    "the rest of its block": (464, BLOCK),
    "sub header": (BLOCK, BLOCK + 104),
    "VMCOREINFO": (BLOCK + 104, BLOCK * (1 + SUB_BLOCKS)),
    "bitmaps": (BLOCK * 3, BLOCK * 5),
    "descriptors": (BLOCK * 5, BLOCK * 5 + 24 * 48),
}
"""First byte of each part, and the byte after it; the bytes of pages follow."""


def page(pfn: int) -> bytes:
    """Return what is in a page of the kernel."""
    return struct.pack("<Q", pfn * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) * (BLOCK // 8)


def kdump(
    pages: int = 64, excluded: int = 16, *, split: Tuple[int, int] = (0, 0), order: str = "<"
) -> bytes:
    """
    Return a kdump file (version 6) of a 64-bit kernel.

    :param pages: How many page frames there are.
    :param excluded: How many of them, from the first on, were not dumped.
    :param split: The page frames of this file, if it is one of several.
    """
    info = "".join(f"{name}={value}\n" for name, value in VMCOREINFO.items()).encode()
    first, last = split if any(split) else (excluded, pages)
    header = struct.pack(order + "8si", b"KDUMP   ", 6)
    header += b"".join(name.encode().ljust(65, b"\0") for name in NAMES)
    header = header.ljust(424, b"\0")
    header += struct.pack(order + "Iiiii", 1, BLOCK, SUB_BLOCKS, 2, pages)
    sub = struct.pack(order + "QiiQQ", 0, 31, int(any(split)), *split)
    notes = note(b"VMCOREINFO", 0, info)
    told = len(notes) - len(info.ljust(-(-len(info) // 4) * 4)), len(info)
    sub += struct.pack(order + "QQ", BLOCK + 104 + told[0], told[1])
    sub += struct.pack(order + "QQQQ", BLOCK + 104, len(notes), 0, 0)
    sub += struct.pack(order + "QQQ", *split, pages) + notes
    existing = (1 << pages) - 1
    dumped = existing >> excluded << excluded
    bitmaps = existing.to_bytes(BLOCK, "little") + dumped.to_bytes(BLOCK, "little")
    at = BLOCK * (3 + 2) + 24 * (last - first)
    descriptors, data = b"", b""
    for pfn in range(first, last):
        packed = zlib.compress(page(pfn))
        descriptors += struct.pack(order + "qIIQ", at + len(data), len(packed), 1, 0)
        data += packed
    blocks = header.ljust(BLOCK, b"\0") + sub.ljust(SUB_BLOCKS * BLOCK, b"\0") + bitmaps
    return blocks + descriptors + data


def flattened(data: bytes, piece: int = 1000) -> bytes:
    """Return a file as a stream of pieces, the first of them once more at the end."""
    start = b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)
    pieces: List[bytes] = [start.ljust(BLOCK, b"\0")]
    for at in (*range(0, len(data), piece), 0):
        part = data[at : at + piece]
        pieces.append(struct.pack(">qq", at, len(part)) + part)
    return b"".join(pieces) + struct.pack(">qq", -1, -1)


def cuts(size: int) -> Iterator[int]:
    """Yield lengths to cut a file to: around the end of each part, and some in between."""
    for start, end in (*PARTS.values(), (PARTS["descriptors"][1], size)):
        yield from sorted({start, start + 1, (start + end) // 2, end - 1})
