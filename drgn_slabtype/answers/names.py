# SPDX-License-Identifier: LGPL-2.1-or-later
"""Caches by name, by the name of one that was merged into another, by pattern; symbols by name."""

from __future__ import annotations

import fnmatch
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

from drgn import FaultError

from ..allocators.caches import read_caches
from ..arguments import quoted
from ..errors import ArgumentError, SlabTypeError
from ..machine import Machine
from ..machine.symbols import is_named, symbol_address
from ..spelling import MOST, nearest
from .poisons import poisons

_Aliases = Callable[[], Optional[Mapping[int, Tuple[str, ...]]]]

_MISSPELT = 3  # characters by which a misspelt name is longer or shorter


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
    near = nearest(pattern, (name for own in known for name in own))
    raise ArgumentError(f"there is no slab cache named {quoted(pattern)}{_suggestion(near)}")


def word_format(machine: Machine) -> Tuple[int, str, str]:
    """Return what :func:`poisons` of a machine depend on: its words, its name, its byte order."""
    assert machine.prog.platform is not None
    order = "little" if machine.memory.byteorder == "<" else "big"
    return machine.memory.word_size, machine.prog.platform.arch.name, order


def known_as(machine: Machine, address: int) -> str:
    """
    Return what the kernel means by an address that leads nowhere, to end a sentence with.

    >>> known_as(machine(prog), 0xdead000000000100)
    ': LIST_POISON1, next of a deleted list entry'

    :return: Empty if it is none that the kernel writes on purpose, or can be the number of a page.
    """
    known = poisons(address, *word_format(machine))
    return f": {known[0]}" if known and address >> 32 else ""


def find_symbol(machine: Machine, name: str, offset: int = 0) -> int:
    """
    Return the address of a symbol.

    :param offset: Bytes behind its first.
    :raises ArgumentError: if there is none; says whether it is a slab cache, and which symbols
        and slab caches are spelled much like it.
    """
    try:
        return symbol_address(machine, name, offset)
    except ArgumentError as error:
        caches = _cache_names(machine)
        if name in caches:
            hint = f", but a slab cache: caches {name}, slabs {name} and objects {name} tell of it"
        else:
            symbols = (symbol.name for symbol in machine.prog.symbols() if is_named(symbol))
            near = nearest(name, (one for one in symbols if _is_like(name, one)))
            others = (f"the slab cache {one}" for one in nearest(name, caches) if one not in near)
            hint = _suggestion([*near, *others][:MOST])
        raise ArgumentError(f"{error}{hint}") from None


def _cache_names(machine: Machine) -> List[str]:
    # What cannot be read suggests nothing.
    try:
        return read_caches(machine).names
    except (FaultError, LookupError, SlabTypeError):
        return []


def _is_like(name: str, symbol: str) -> bool:
    # Kernels have some 200,000, and to compare a word with all of them takes seconds.
    return name in symbol or (name[:1] == symbol[:1] and abs(len(name) - len(symbol)) <= _MISSPELT)


def _suggestion(near: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""
