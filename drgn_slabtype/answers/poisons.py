# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Words and bytes that the kernel writes to be recognised by
----------------------------------------------------------

Poisons and magic numbers under the names of the kernel's source, of Linux 5.10
to 7.3. No memory is read here.
"""

from __future__ import annotations

from typing import Iterator, List, Mapping, NamedTuple

from ..machine.architecture import of_name


class Poison(NamedTuple):
    """A value that the kernel writes on purpose."""

    name: str
    """As in the source."""
    meaning: str
    """What it stands for."""

    def __str__(self) -> str:
        return f"{self.name}, {self.meaning}"


# include/linux/poison.h, without POISON_POINTER_DELTA.
_POINTERS: Mapping[int, Poison] = {
    0x40: Poison("PP_SIGNATURE", "the mark of a page of a page pool"),
    0xF5: Poison("VFS_PTR_POISON", "a pointer of a file system that is gone"),
    0x100: Poison("LIST_POISON1", "next of a deleted list entry"),
    0x122: Poison("LIST_POISON2", "prev of a deleted list entry"),
    0x300: Poison("TIMER_ENTRY_STATIC", "a timer that was set up by the compiler"),
    0x400: Poison("TAIL_MAPPING", "what a tail of a compound page has for its mapping"),
    0x500: Poison("MUTEX_POISON_WW_CTX", "the context of a ww_mutex that is gone"),
    0x800: Poison("SKB_LIST_POISON_NEXT", "next of a socket buffer that left its list"),
    0x801: Poison("NET_PTR_POISON", "a pointer of the network stack that is gone"),
    0x1091: Poison("IO_URING_PTR_POISON", "a pointer of io_uring that is gone"),
    0xD390: Poison("STACK_DEPOT_POISON", "a record of the stack depot that is gone"),
    0xEB9F: Poison("BPF_PTR_POISON", "a pointer of BPF that is gone"),
}

_LONG: Mapping[int, Poison] = {
    # include/linux/poison.h, to Linux 6.7
    0x09F911029D74E35B: Poison("RED_INACTIVE", "SLAB's red zone of a free object"),
    0xD84156C5635688C0: Poison("RED_ACTIVE", "SLAB's red zone of an object in use"),
    # include/linux/stackleak.h: -0xBEEF
    0xFFFFFFFFFFFF4111: Poison("STACKLEAK_POISON", "a part of a stack that was erased"),
    # include/linux/slab.h: what kmalloc(0) returns
    0x10: Poison("ZERO_SIZE_PTR", "what kmalloc(0) returns"),
}

# mm/kfence/kfence.h: byte n of a word in memory is 0xaa ^ n
_CANARY = bytes(0xAA ^ n for n in range(8))
_KFENCE = Poison("KFENCE_CANARY_PATTERN_U64", "KFENCE's red zone")

# Words of 32 bits.
_SHORT: Mapping[int, Poison] = {
    # include/linux/poison.h
    0xDEADBEEF: Poison("ATM_POISON", "a destroyed ATM socket, and a habit of many"),
    # include/linux/spinlock_types_raw.h, rwlock_types.h: with debugging
    0xDEAD4EAD: Poison("SPINLOCK_MAGIC", "the mark of a debugged spinlock"),
    0xDEAF1EED: Poison("RWLOCK_MAGIC", "the mark of a debugged rwlock"),
    # include/uapi/linux/magic.h
    0x57AC6E9D: Poison("STACK_END_MAGIC", "the last word of a task's stack"),
    # include/linux/cred.h, to Linux 6.6
    0x43736564: Poison("CRED_MAGIC", "the mark of debugged credentials"),
    0x44656144: Poison("CRED_MAGIC_DEAD", "the mark of credentials that are gone"),
    # include/linux/key.h
    0x18273645: Poison("KEY_DEBUG_MAGIC", "the mark of a debugged key"),
    # include/linux/closure.h
    0xC054DEAD: Poison("CLOSURE_MAGIC_DEAD", "the mark of a closure that is gone"),
    0xC054A11E: Poison("CLOSURE_MAGIC_ALIVE", "the mark of a closure"),
    0xC05451CC: Poison("CLOSURE_MAGIC_STACK", "the mark of a closure on a stack"),
}

_HALF = 4  # bytes

LOCK_OF_NOBODY = Poison("SPINLOCK_OWNER_INIT", "the owner of a debugged lock that nobody holds")
"""
-1 as a pointer (include/linux/spinlock_types_raw.h). It is no poison to go by: most words of
all ones are an error or a number.
"""

# Bytes that memory is filled with: include/linux/poison.h.
_FILLS: Mapping[int, Poison] = {
    0x11: Poison("MUTEX_DEBUG_INIT", "a debugged mutex waiter that was set up"),
    0x12: Poison("ATM_POISON_FREE", "a freed buffer of an ATM driver"),
    0x22: Poison("MUTEX_DEBUG_FREE", "a debugged mutex waiter that is gone"),
    0x5A: Poison("POISON_INUSE", "padding or uninitialised memory"),
    0x5B: Poison("JBD_POISON_FREE", "a freed journal head"),
    0x5C: Poison("JBD2_POISON_FREE", "a freed journal head"),
    0x6B: Poison("POISON_FREE", "poison of a free object"),
    0xA5: Poison("POISON_END", "the last byte of poison"),
    0xA7: Poison("POOL_POISON_FREED", "free memory of a DMA pool"),
    0xA9: Poison("POOL_POISON_ALLOCATED", "uninitialised memory of a DMA pool"),
    0xAA: Poison("PAGE_POISON", "a free page"),
    0xBB: Poison("SLUB_RED_INACTIVE", "red zone of a free object"),
    0xBD: Poison("KEY_DESTROY", "a key that is gone"),
    0xCC: Poison("SLUB_RED_ACTIVE", "red zone of an object in use, or freed init memory"),
}


def fill(byte: int) -> str:
    """Return what memory is that is filled with a byte; empty if the kernel fills none so."""
    found = _FILLS.get(byte)
    return "" if found is None else str(found)


def poisons(
    value: int, word_size: int = 8, architecture: str = "X86_64", byteorder: str = "little"
) -> List[str]:
    """
    Return what the kernel means by a word, if it is one of its own.

    >>> poisons(0xdead000000000100)
    ['LIST_POISON1, next of a deleted list entry']

    :param word_size: Bytes of the word.
    :param architecture: As drgn names it; of another one, poisons that stand for
        pointers are not known.
    :param byteorder: ``little`` or ``big``: which end of the word comes last in memory.
    """
    return list(_poisons(value, word_size, architecture, byteorder))


def _poisons(value: int, word_size: int, architecture: str, byteorder: str) -> Iterator[str]:
    delta = of_name(architecture).poison
    if word_size == 8 and delta is not None and value - delta in _POINTERS:
        yield str(_POINTERS[value - delta])
    if word_size == 8 and value in _LONG:
        yield str(_LONG[value])
    if value in _SHORT:
        yield str(_SHORT[value])
    else:
        for where, half in (("low", value & 0xFFFFFFFF), ("high", value >> 32)):
            if half in _SHORT:
                yield f"its {where} half is {_SHORT[half]}"
    data = value.to_bytes(word_size, byteorder)  # type: ignore[arg-type]
    if data == _CANARY:
        yield str(_KFENCE)
    if whole := _filled(data):
        yield whole
        return
    halves = [("low", data[:_HALF]), ("high", data[_HALF:])]
    if byteorder == "big":
        halves = [("low", data[-_HALF:]), ("high", data[:-_HALF])]
    for where, part in halves:
        # One odd byte in a whole word of poison is told as that.
        odd = word_size - data.count(part[:1])
        if len(part) == _HALF < word_size and odd > 1 and (told := _filled(part)):
            yield f"its {where} half is {told}"


def _filled(data: bytes) -> str:
    # What all of some bytes are, as they lie in memory; empty if that is nothing it is filled with.
    if len(set(data)) == 1 and data[0] in _FILLS:
        return f"{_FILLS[data[0]]}: 0x{data[0]:02x} in every byte"
    if set(data[:-1]) == {0x6B} and data[-1] == 0xA5:
        return f"{_FILLS[0x6B]}, with POISON_END behind it"
    return ""


def damaged_poisons(
    value: int, word_size: int = 8, architecture: str = "X86_64", byteorder: str = "little"
) -> List[str]:
    """
    Return what a word may have been before one bit of it changed, or one byte of poison.

    A decremented poison is what a counter in a freed object leaves.

    >>> damaged_poisons(0x6b6b6b6b6b6b6b6a)
    ['POISON_FREE, poison of a free object: 0x6a instead of 0x6b in byte 0']

    :param word_size: Bytes of the word.
    :param architecture: As drgn names it.
    :param byteorder: ``little`` or ``big``; bytes are numbered from the low end, whichever it is.
    """
    data = value.to_bytes(word_size, "little")
    for usual in set(data):
        odd = [at for at, byte in enumerate(data) if byte != usual]
        if usual in _FILLS and len(odd) == 1:
            at = odd[0]
            told = f"0x{data[at]:02x} instead of 0x{usual:02x} in byte {at}"
            return [f"{_FILLS[usual]}: {told}"]
    found = []
    for bit in range(8 * word_size):
        other = value ^ 1 << bit
        # Small numbers and halves of words are near to many.
        if other >> 32 and (known := poisons(other, word_size, architecture, byteorder)):
            found += [f"{one}, with bit {bit} wrong" for one in known if "half" not in one]
    return found
