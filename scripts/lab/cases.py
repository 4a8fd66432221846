# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The table of what is broken on purpose, and what must be found of it.

What must be found follows from what the kernel leaves in memory, never from
what the check says: a case has a proof there, or a reason why it has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, FrozenSet, NamedTuple, Tuple

from .kernels import Built, Kernel
from .named import Named

__all__ = ("BOOTS", "CASES", "KUNIT", "LOOKS", "Boot", "Case", "Expected")

LOOKS = (
    "write /sys/kernel/slab/lab_victim/validate 1",
    "write /sys/module/breaker/parameters/look 1",
)
"""Has the kernel look: as slub_debug does when it is asked to, and as any user of a cache."""


class Boot(NamedTuple):
    """What decides about what a case leaves behind."""

    allocator: str
    """``SLAB`` or ``SLUB``."""
    letters: FrozenSet[str]
    """Those of ``slub_debug``."""
    version: Tuple[int, int]
    """Version and patch level of the sources."""

    @classmethod
    def of(cls, kernel: Kernel, letters: str) -> Boot:
        """Return that of a kernel booted with some letters."""
        assert isinstance(kernel.origin, Built)
        major, minor = kernel.origin.source.rpartition("-")[2].split(".")
        return cls(kernel.allocator, frozenset(letters), (int(major), int(minor)))


class Expected(NamedTuple):
    """What must be found of a case, or why nothing can be."""

    codes: Tuple[str, ...]
    """Codes that a root may have; none if there must be no finding."""
    why: str = ""
    """What the kernel did about it, or why memory holds no proof."""


Rule = Callable[[Boot], Expected]


@dataclass(frozen=True)
class Case:
    """One thing that is broken."""

    name: str
    """Name on the command line."""
    about: str
    """What is done."""
    command: str
    """What the guest is asked for."""
    expected: Rule
    """What must be found."""
    ci: bool = False
    """Whether it is one of the few that CI has the time for."""


def _found(*codes: str) -> Rule:
    return lambda boot: Expected(codes)


def _none(why: str) -> Rule:
    return lambda boot: Expected((), why)


def _slub(other: Rule, slab: Rule, **letters: Rule) -> Rule:
    # By allocator; of the letters a kernel is booted with, the first named decides.
    def rule(boot: Boot) -> Expected:
        if boot.allocator == "SLAB":
            return slab(boot)
        chosen = next((rule for name, rule in letters.items() if name in boot.letters), other)
        return chosen(boot)

    return rule


_REFUSED = _none("refused: the object is free already")
_IN_USE = _none("bytes of another object in use, which may hold anything")
_SLACK = _none("slack behind the object, which nobody promises anything about")
_FREE = _none("bytes of a free object, which nobody promises anything about without poison")
_PADDING = _none("padding, which holds nothing in particular without poison")
_DEAD = _found("padding")  # the free pointer of an object in use
_BEFORE = _found("padding")  # that of the object before
_TRACK = _none("numbers of the record of who allocated, any of which may be true")
_LEFT_OUT = _none("one object is on no list, as any object in use; the rest is as it should be")
_COUNTED = _none("counted again by the kernel: one of the objects is freed, the other lost")
_WRONG_PLACE = _none("refused: no object begins there")


def _cut(boot: Boot) -> Expected:
    # Until Linux 6.8 (commit 284f17ac13fe) a free object's pointer is reset
    # before it is found out that the object is free.
    if boot.version < (6, 8):
        return Expected(("count-mismatch",), "refused, but the freelist now ends at the object")
    return _REFUSED(boot)


def _twice(refused: Rule, cpus: bool = False, slab: str = "claim-twice") -> Rule:
    # Without debugging, two CPUs keep two freelists.
    def plain(boot: Boot) -> Expected:
        return Expected(("claim-twice",) if cpus and not boot.letters else ("freelist-cycle",))

    return _slub(plain, F=refused, slab=_found(slab))


def _bulk(whole: Rule) -> Rule:
    def other(boot: Boot) -> Expected:
        return (_COUNTED if boot.letters else whole)(boot)

    return _slub(other, slab=_found("claim-twice"))


def _asked(boot: Boot) -> Expected:
    # What was asked for is known with tracks alone, and guarded since Linux 6.2
    # (commit 946fa0dbf2d8).
    guarded = boot.letters >= {"Z", "U"} and boot.version >= (6, 2)
    return Expected(("redzone",)) if guarded else _SLACK(boot)


_INTERIOR = _slub(
    _found("freelist-pointer"), F=_WRONG_PLACE, slab=_found("claim-foreign", "freelist-index")
)
_POINTER = _slub(_found("freelist-pointer"), slab=_none("SLAB keeps no pointers in its objects"))
_CONTENT = _slub(_FREE, P=_found("poison"), slab=_FREE)
_REDZONE = _found("redzone")
_PAGE = _found("page-refcount")

_BREAKER: Dict[str, Tuple[str, Rule]] = {
    "nothing": ("nothing", _none("nothing was done")),
    "double-free": ("an object freed twice", _twice(_cut)),
    "double-free-between": ("twice, another one in between", _twice(_cut)),
    "double-free-cpus": ("twice, on two CPUs", _twice(_cut, cpus=True)),
    "double-free-cpus-between": (
        "twice on two CPUs, another one in between",
        _twice(_cut, cpus=True),
    ),
    "double-free-realloc": ("freed by its old and its new owner", _twice(_cut)),
    "double-free-full": ("twice, of a slab that was full", _twice(_REFUSED)),
    "double-free-partial": ("twice, of a slab that was partly free", _twice(_cut)),
    "double-free-flushed": (
        "twice, the CPU's objects given back in between",
        _twice(_cut),
    ),
    "double-free-flushed-twice": (
        "the same, and given back again",
        _twice(_REFUSED, slab="freelist-duplicate"),
    ),
    "double-free-bulk": ("twice in one kmem_cache_free_bulk()", _bulk(_LEFT_OUT)),
    "double-free-bulk-full": (
        "the same, of a slab that was full",
        _bulk(_found("count-mismatch")),
    ),
    "free-interior": ("a pointer into an object freed", _INTERIOR),
    "free-interior-full": ("the same, of a slab that was full", _INTERIOR),
    "kfree-interior": ("a pointer into an object given to kfree()", _INTERIOR),
    "late-word": ("text over a free object's free pointer", _POINTER),
    "late-word-full": ("the same, of a slab that was full", _POINTER),
    "late-word-bit": ("one bit of a free object's free pointer", _POINTER),
    "late-elsewhere": ("text over four other bytes of it", _CONTENT),
    "late-bit": ("one bit of another byte of it", _CONTENT),
    "overflow-byte": (
        "a byte behind an object in use",
        _slub(_SLACK, Z=_REDZONE, P=_found("padding"), slab=_SLACK),
    ),
    "overflow-word": (
        "the word behind its slack",
        _slub(_IN_USE, P=_DEAD, Z=_PADDING, U=_found("track"), slab=_IN_USE),
    ),
    "underflow-byte": (
        "the byte before an object in use",
        _slub(_SLACK, Z=_REDZONE, P=_BEFORE, U=_TRACK, slab=_SLACK),
    ),
    "underflow-word": (
        "the word before it",
        _slub(_IN_USE, Z=_REDZONE, P=_BEFORE, U=_TRACK, slab=_IN_USE),
    ),
    "overflow-free": (
        "a byte behind a free object",
        _slub(_SLACK, Z=_REDZONE, P=_found("padding"), slab=_SLACK),
    ),
    "kmalloc-overflow-byte": (
        "a byte behind what kmalloc() was asked for",
        _asked,
    ),
    "kmalloc-overflow-word": (
        "the word behind an object of kmalloc()",
        _slub(_IN_USE, Z=_REDZONE, P=_DEAD, U=_found("track"), slab=_IN_USE),
    ),
    "kmalloc-underflow-word": (
        "the word before it",
        _slub(_IN_USE, Z=_REDZONE, P=_BEFORE, U=_TRACK, slab=_IN_USE),
    ),
    "put-slab": ("put_page() of a slab in use", _PAGE),
    "page-twice": ("a page freed twice", _PAGE),
    "large-twice": ("a large kmalloc() freed twice", _PAGE),
    "destroy": ("a cache destroyed with objects in it", _found("cache-destroyed")),
}

_HARMLESS = _none("only reads, or stays within what it was given")
_LKDTM: Dict[str, Tuple[str, Rule]] = {
    "SLAB_LINEAR_OVERFLOW": (
        "a word behind an object of kmalloc(), which is then freed",
        _slub(
            _IN_USE,
            F=_none("repaired or refused when the object was freed"),
            Z=_none("freeing the object has written its red zone anew"),
            P=_DEAD,
            slab=_IN_USE,
        ),
    ),
    "WRITE_AFTER_FREE": (
        "a word of a free object, which is then allocated and freed again",
        _slub(
            # Of an object of 1 KiB the middle is the free pointer.
            _found("freelist-pointer"),
            F=_none("found when the object was allocated; the slab is out of service"),
            P=_none("allocated and freed again since, which poisoned it anew"),
            slab=_FREE,
        ),
    ),
    "READ_AFTER_FREE": ("reads a free object", _HARMLESS),
    "WRITE_BUDDY_AFTER_FREE": (
        "a free page overwritten, which is then allocated and freed again",
        _none("contents of a free page, which nobody promises anything about"),
    ),
    "READ_BUDDY_AFTER_FREE": ("reads a free page", _HARMLESS),
    "SLAB_INIT_ON_ALLOC": ("looks whether objects are cleared", _HARMLESS),
    "BUDDY_INIT_ON_ALLOC": ("looks whether pages are cleared", _HARMLESS),
    "SLAB_FREE_DOUBLE": ("an object freed twice", _twice(_cut)),
    "SLAB_FREE_CROSS": (
        "an object freed into another cache",
        _slub(
            _none("SLUB goes by the slab: the object is back where it belongs"),
            F=_none("refused: the object is of another cache"),
            slab=_found("claim-foreign"),
        ),
    ),
    "SLAB_FREE_PAGE": (
        "a page given to kmem_cache_free()",
        _none("refused: the kernel stops, as there is no such cache"),
    ),
}

# Each time validate_slab_cache() is entered. Its second test looks three times:
# at a wrong pointer; at a count that it has made fit to what was left of the
# freelist, with the pointer put right again; and when that has been counted anew.
_KUNIT: Dict[str, Tuple[str, Rule]] = {
    "test_clobber_zone": ("a byte behind an object in use", _REDZONE),
    "test_next_pointer": ("a byte of a free object's free pointer", _found("freelist-pointer")),
    "test_next_pointer 2": ("the pointer put right after a repair", _found("count-mismatch")),
    "test_next_pointer 3": ("the same once more", _none("repaired by the kernel")),
    "test_first_word": ("the first byte of a free object", _found("poison")),
    "test_clobber_50th_byte": ("the 50th byte of a free object", _found("poison")),
    "test_clobber_redzone_free": ("a byte behind a free object", _REDZONE),
    "test_kmalloc_redzone_access": ("two bytes behind what kmalloc() was asked for", _REDZONE),
}
KUNIT = Named(
    "test", [Case(name, about, "load slub_kunit", rule) for name, (about, rule) in _KUNIT.items()]
)
"""Dumps of the kernel's own tests, in the order in which the kernel looks."""

_CI = ("double-free-between", "late-bit", "overflow-byte", "destroy")

CASES: Named[Case] = Named(
    "case",
    [
        *(
            Case(
                name,
                about,
                f"write /sys/module/breaker/parameters/case {name}",
                rule,
                name in _CI,
            )
            for name, (about, rule) in _BREAKER.items()
        ),
        *(
            Case(name, about, f"load lkdtm cpoint_name=DIRECT cpoint_type={name}", rule)
            for name, (about, rule) in _LKDTM.items()
        ),
    ],
)
"""Every case by name."""

BOOTS = ("", "F", "Z", "P", "U", "FZPU")
"""Letters of ``slub_debug`` to boot SLUB with; SLAB is booted plain."""
