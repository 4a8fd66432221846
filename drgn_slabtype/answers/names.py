# SPDX-License-Identifier: LGPL-2.1-or-later
"""Caches by name, by the name of one that was merged into another, by pattern."""

from __future__ import annotations

import difflib
import fnmatch
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

from ..errors import ArgumentError

_Aliases = Callable[[], Optional[Mapping[int, Tuple[str, ...]]]]

_SUGGESTED = 3


def find_names(
    pattern: str, names: Sequence[str], addresses: Sequence[int], aliases: _Aliases
) -> List[int]:
    """
    Return the positions of the caches that a name means, at least one.

    >>> find_names("kmalloc-[0-9]", ["kmalloc-8", "kmalloc-16", "dentry"], [1, 2, 3], dict)
    [0]

    :param pattern: A name, the name of a cache that was merged into another, or
        either with ``*``, ``?`` and ``[…]`` as in file names.
    :param addresses: ``struct kmem_cache *`` of each.
    :param aliases: Returns the names merged into each cache, by its address;
        called only if no name is *pattern*.
    :raises ArgumentError: if there is none; says which are spelled much like it.
    """
    exact = [at for at, name in enumerate(names) if name == pattern]
    if exact:
        return exact
    merged = aliases() or {}
    known = [(name, *merged.get(address, ())) for name, address in zip(names, addresses)]
    found = [at for at, own in enumerate(known) if pattern in own]
    if not found and any(character in pattern for character in "*?["):
        found = [at for at, own in enumerate(known) if fnmatch.filter(own, pattern)]
    if found:
        return found
    raise ArgumentError(f"there is no slab cache named {pattern}{_suggestion(pattern, known)}")


def _suggestion(pattern: str, known: Sequence[Tuple[str, ...]]) -> str:
    every = dict.fromkeys(name for own in known for name in own)
    close = difflib.get_close_matches(pattern, every, _SUGGESTED)
    # Nobody remembers how a name goes on.
    close += [name for name in every if pattern in name and name not in close]
    close = close[:_SUGGESTED]
    return f"; did you mean {' or '.join(close)}?" if close else ""
