# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bitmaps of the kernel's: masks of CPUs and of nodes, as one number."""

from __future__ import annotations

from typing import List

from drgn import Object, PlatformFlags, sizeof

from ..arguments import platform_of


def mask_of(words: Object) -> int:
    """
    Return ``bits`` of a ``struct cpumask`` or a ``nodemask_t``.

    :param words: ``unsigned long []``; bit 0 of the first is CPU or node 0.
    :raises FaultError: if they are not in the target.
    """
    data, width = words.to_bytes_(), sizeof(words[0])
    if platform_of(words.prog_).flags & PlatformFlags.IS_LITTLE_ENDIAN:
        return int.from_bytes(data, "little")
    each = [data[start : start + width] for start in range(0, len(data), width)]
    return int.from_bytes(b"".join(reversed(each)), "big")


def numbers_in(mask: int) -> List[int]:
    """Return the numbers of the bits that are set, in ascending order."""
    return [number for number in range(mask.bit_length()) if mask >> number & 1]
