# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What damage looks like, wherever it is
--------------------------------------

A signature has no address in it, no CPU, node or process, and nothing of how far
the kernel had come: the same mistake leaves the same signature in every dump.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

from .shapes import Key, shown

_ID_DIGITS = 12
_KERNEL = ("allocator", "layout", "version")
_OFF = {"+1": "one too many", "-1": "one too few", "more": "too many", "fewer": "too few"}

# What a name of a cache has that differs from boot to boot; partitions since Linux 7.3, which
# a compiler that knows the types of allocations may choose instead.
_RANDOM_KMALLOC = re.compile(r"kmalloc-(?:rnd|part)-\d+-")
_OF_A_CGROUP = re.compile(r"\(\d+:.*\)$")  # before Linux 5.9
_NAMELESS = re.compile(r"\(cache 0x[0-9a-f]+\)")
_ADDRESS = re.compile(r"(0x)?[0-9a-f]{12,16}")
# What a place has of its own.
_OWNER = re.compile(r" of (CPU|node) \d+|,? position \d+| \d+$")
# What compilers put behind the name of a function.
_CLONE = re.compile(r"\.(isra|constprop|part|cold|llvm|lto_priv)\b.*$")


@dataclass(frozen=True)
class Signature:
    """
    What one root finding looks like; what is not known is ``None`` or empty.

    Two are the same damage if their :attr:`id` is the same, whatever the kernel.
    """

    code: str
    """Of the finding."""
    cache: Optional[str] = None
    """Name of the cache; of one that kmalloc() chose at random, its size class."""
    place: Optional[str] = None
    """Where free objects are recorded, or what of an object is damaged; without its owner."""
    written: Optional[str] = None
    """What is there instead: ``text``, ``zeroes``, ``POISON_FREE``, ``pointer to dentry`` …"""
    offset: Optional[int] = None
    """Where that begins, in bytes from the object; negative before it."""
    difference: Optional[str] = None
    """By how much a count is off: ``+1``, ``-1``, ``more``, ``fewer``."""
    allocated: Tuple[str, ...] = ()
    """The functions that allocated the object, innermost first, where tracks are kept."""
    freed: Tuple[str, ...] = ()
    """Those that freed it."""
    before: Tuple[str, ...] = ()
    """Those that allocated what lies before it, where that ran over into it."""
    allocator: Optional[str] = None
    """``SLUB`` or ``SLAB``."""
    layout: Optional[str] = None
    """How the kernel marks its pages."""
    version: Optional[str] = None
    """The first two numbers of its release."""

    @property
    @shown(Key(after=""))
    def id(self) -> str:
        """Short name of the damage, the same for all kernels."""
        return digest([self.damage()])

    @property
    def kernel(self) -> str:
        """The kind of kernel, in words."""
        return " ".join(filter(None, (self.version, self.allocator, self.layout)))

    def damage(self) -> Dict[str, object]:
        """Return all that is not about the kernel, what is not known left out."""
        told = {name: here for name, here in vars(self).items() if name not in _KERNEL}
        return {name: here for name, here in told.items() if here not in (None, ())}

    def __str__(self) -> str:
        told = [self.code + (f" in {self.cache}" if self.cache else "")]
        told += [self.place] if self.place else []
        told += [self.written] if self.written else []
        told += [f"at {self.offset:+}"] if self.offset is not None else []
        told += [_OFF.get(self.difference, self.difference)] if self.difference else []
        for word, by in (("allocated", self.allocated), ("freed", self.freed)):
            told += [f"{word} by {' < '.join(by)}"] if by else []
        told += [f"behind what {' < '.join(self.before)} allocated"] if self.before else []
        return ", ".join(told)


def digest(parts: Iterable[object]) -> str:
    """Return a short name for some plain values."""
    text = json.dumps(list(parts), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


def size_class(cache: str) -> str:
    """
    Return the name of a cache without what differs from boot to boot.

    >>> size_class("kmalloc-rnd-07-64")
    'kmalloc-64'
    """
    name = _OF_A_CGROUP.sub("", _RANDOM_KMALLOC.sub("kmalloc-", cache))
    return _ADDRESS.sub("#", _NAMELESS.sub("(no name)", name))


def kind_of_place(place: str) -> str:
    """
    Return a place without whose it is.

    >>> kind_of_place("main sheaf of CPU 3")
    'main sheaf'
    """
    return _ADDRESS.sub("#", _OWNER.sub("", place))


def function(frame: str) -> Optional[str]:
    """
    Return the function of a frame; ``None`` if it has no name.

    >>> function("__d_alloc.isra.0+0x2b")
    '__d_alloc'
    """
    name = frame.partition("+0x")[0]
    return None if name.startswith("0x") else _CLONE.sub("", name)


_OF_THE_ALLOCATOR = re.compile(
    r"_*(k[mvz]*alloc|kfree|kvfree|kmem_cache_|slab_|krealloc|kvrealloc|kmemdup|kstrn?dup"
    r"|kv?asprintf|kcalloc|set_track|stack_trace_save|save_stack|stack_depot|kasan_|kmsan_|kfence_"
    r"|poison_(slab|kmalloc)_|unpoison_|memdup_user|vmemdup_user|free_to_|alloc_debug|free_debug"
    r"|alloc_from_|refill_|new_slab)"
)


def from_caller(stack: Sequence[str]) -> Sequence[str]:
    """
    Return a call trace from whoever asked the allocator on, outwards.

    >>> from_caller(["set_track_prepare+0x4", "kmem_cache_alloc+0x1f", "d_alloc+0x2b"])
    ['d_alloc+0x2b']

    :param stack: Innermost first; one that is all of the allocator's is returned whole.
    """
    for at, frame in enumerate(stack):
        if not _OF_THE_ALLOCATOR.match(function(frame) or ""):
            return stack[at:]
    return stack


def first_caller(stack: Sequence[str]) -> Optional[str]:
    """Return the frame of a call trace that asked the allocator; ``None`` if it has no frames."""
    return next(iter(from_caller(stack)), None)


def callers(stack: Iterable[str], count: int) -> Tuple[str, ...]:
    """
    Return the functions of a call trace that are not the allocator's own.

    :param stack: Innermost first; it ends where a name is missing.
    :param count: How many at most.
    """
    found: List[str] = []
    for frame in stack:
        name = function(frame)
        if name is None or len(found) == count:
            break
        if not _OF_THE_ALLOCATOR.match(name):
            found.append(name)
    return tuple(found)
