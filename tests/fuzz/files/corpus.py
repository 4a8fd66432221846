# SPDX-License-Identifier: LGPL-2.1-or-later
"""Inputs that are kept: those of one reader in one compressed file, the smallest first."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path
from typing import Dict, Iterable, List, Sequence, Set, Tuple

from .coverage import Edge, Edges

CORPUS = Path(__file__).parents[1] / "corpus"

_SIZE = struct.Struct("<I")
MOST_BYTES = 16 << 10
"""Of the compressed inputs of one reader."""


def load(name: str, folder: Path = CORPUS) -> List[bytes]:
    """Return the inputs kept for a reader; none if there is no file of it."""
    path = folder / f"{name}.xz"
    if not path.exists():
        return []
    data, at, found = lzma.decompress(path.read_bytes()), 0, []
    while at < len(data):
        (size,) = _SIZE.unpack_from(data, at)
        at += _SIZE.size
        found.append(data[at : at + size])
        at += size
    return found


def save(name: str, inputs: Sequence[bytes], folder: Path = CORPUS) -> int:
    """
    Keep inputs for a reader, as many as there is room for.

    :param inputs: The most important first.
    :return: How many were kept.
    """
    folder.mkdir(exist_ok=True)
    count = len(inputs)
    while True:
        kept = sorted(inputs[:count], key=lambda data: (len(data), data))
        packed = lzma.compress(b"".join(_SIZE.pack(len(data)) + data for data in kept), preset=9)
        if len(packed) <= MOST_BYTES:
            break
        count = count * 9 // 10
    (folder / f"{name}.xz").write_bytes(packed)
    return count


def fewest(found: Iterable[Tuple[bytes, Edges]]) -> List[bytes]:
    """Return inputs that together go all ways that the given ones go, what adds most first."""
    rest: Dict[bytes, Edges] = dict(found)
    missing: Set[Edge] = set().union(*rest.values()) if rest else set()
    kept: List[bytes] = []
    while missing:
        best = max(rest, key=lambda data: (len(rest[data] & missing), -len(data)))
        missing -= rest.pop(best)
        kept.append(best)
    return kept
