# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What functions are given
------------------------

Scripts pass what they have: a name, an address, an object of drgn. What cannot be
meant raises :exc:`~drgn_slabtype.errors.ArgumentError`, a ``ValueError`` that says
what can.
"""

from __future__ import annotations

import operator
import os
from typing import (
    Any,
    Dict,
    Iterable,
    List,
    NoReturn,
    Optional,
    Protocol,
    Sequence,
    TypeVar,
    Union,
)

from drgn import (
    IntegerLike,
    NoDefaultProgramError,
    Object,
    Platform,
    Program,
    Type,
    TypeKind,
    get_default_prog,
)

from .errors import ArgumentError, UnknownNameError


class _HasName(Protocol):
    @property
    def name(self) -> str: ...


_Thing = TypeVar("_Thing", bound=_HasName)

CacheLike = Union[str, int, Object]
"""A slab cache: its name, that of a cache merged into it, ``struct kmem_cache *``, the structure
itself, or its address."""

CacheName = Union[str, int]
"""The same, ready to look for: a name, a pattern or an address."""

_INTEGERS = (TypeKind.INT, TypeKind.BOOL, TypeKind.ENUM)


def program_of(prog: Program) -> Program:
    """
    Return a program.

    :raises ArgumentError: if it is none.
    """
    # Whatever has a cache serves.
    if not hasattr(prog, "cache"):
        require("prog", prog, Program)
    return prog


def platform_of(prog: Program) -> Platform:
    """
    Return what machine a program reads.

    :raises ArgumentError: if it reads none.
    """
    if prog.platform is None:
        raise ArgumentError("prog is a drgn.Program that has opened nothing yet")
    return prog.platform


def require(what: str, given: Any, wanted: type) -> None:
    """
    Complain about an argument that is something else.

    :param what: Its name.
    :param wanted: What it is to be.
    :raises ArgumentError: if it is none.
    """
    if not isinstance(given, wanted):
        raise ArgumentError(f"{what} is {shown(given)}: it is a {wanted.__name__}")


def program_for(given: Any, prog: Optional[Program]) -> Program:
    """
    Return the program of an object, that which is given, or drgn's own default.

    :raises ArgumentError: if there is none.
    """
    if isinstance(given, Object):
        return given.prog_
    try:
        return program_of(get_default_prog() if prog is None else prog)
    except NoDefaultProgramError:
        raise ArgumentError(f"{shown(given)} is of no program: prog=... says of which") from None


def word_of(number: IntegerLike) -> int:
    """
    Return 64 bits as an unsigned number, also of a negative one; of a structure, where it is.

    :raises ArgumentError: if it is neither, or has more bits.
    """
    try:
        value = operator.index(_at(number))
    except TypeError:
        raise ArgumentError(
            f"{shown(number)} is no address: a number is, or an object of drgn"
        ) from None
    if not -(1 << 63) <= value < 1 << 64:
        raise ArgumentError(f"{value:#x} has more than 64 bits")
    return value & (1 << 64) - 1


def address_of(number: IntegerLike) -> int:
    """
    Return an address; of a structure, where it is.

    :raises ArgumentError: if it is none, is negative, or has more than 64 bits.
    """
    # An object of drgn's may be a signed type in which the kernel keeps addresses.
    if isinstance(number, int) and number < 0:
        raise ArgumentError(
            f"{shown(number)} is no address: it is negative; what(prog, {shown(number)}) tells "
            "what it can be"
        )
    return word_of(number)


def word32_of(number: IntegerLike) -> int:
    """
    Return 32 bits as an unsigned number.

    :raises ArgumentError: if it is no number, or has more bits.
    """
    try:
        value = operator.index(number)
    except TypeError:
        raise ArgumentError(f"{shown(number)} is no 32-bit word: a number is") from None
    if not -(1 << 31) <= value < 1 << 32:
        raise ArgumentError(f"{value:#x} is not a 32-bit word")
    return value & (1 << 32) - 1


def quoted(name: str) -> str:
    """Return a name as a sentence has it: in quotes if it is not one word."""
    return name if len(name.split()) == 1 and name == name.strip() else repr(name)


def named(address: int) -> str:
    """Return an address as a sentence has it: ``NULL``, or in hex."""
    return f"0x{address:x}" if address else "NULL"


def is_null(given: Any) -> bool:
    """Return whether something is a pointer that leads nowhere; the number 0 is none."""
    is_pointer = isinstance(given, Object) and given.type_.unaliased_kind() == TypeKind.POINTER
    return is_pointer and not given.value_()


def somewhere(what: str, given: IntegerLike) -> int:
    """
    Return an address that is not NULL.

    :param what: What is looked for there.
    :raises ArgumentError: if it is NULL, no address, or has more than 64 bits.
    """
    address = address_of(given)
    if not address:
        raise ArgumentError(f"NULL is no address of {what}")
    return address


def addresses_of(given: Union[IntegerLike, Iterable[IntegerLike]]) -> List[int]:
    """
    Return the addresses that are given, or the one.

    :raises ArgumentError: if one of them is no address.
    """
    return [address_of(one) for one in several(given)]


def cache_of(cache: CacheLike) -> CacheName:
    """
    Return the name or the address of a slab cache that somebody means.

    :raises ArgumentError: if it is nothing that can be a slab cache.
    """
    if isinstance(cache, str):
        return cache
    if isinstance(cache, int) and not isinstance(cache, bool):
        return address_of(cache)
    if isinstance(cache, Object) and _is(cache, ("kmem_cache",)):
        return word_of(cache)
    raise ArgumentError(
        f"{shown(cache)} is no slab cache: a name is, struct kmem_cache *, or its address"
    )


def structure_of(given: Object, *names: str) -> int:
    """
    Return the address of a structure.

    :param given: A pointer to it, or itself.
    :param names: Of the types that it may have.
    :raises ArgumentError: if it has none of them, or is NULL.
    """
    told = shown(given)
    if isinstance(given, Object) and _is(given, names, numbers=False):
        at = word_of(given)
        if at:
            return at
        told = "NULL"
    wanted = " or ".join(f"struct {name} *" for name in names)
    raise ArgumentError(f"{told} is no {wanted}")


def type_of(prog: Program, type: Union[str, Type]) -> Type:
    """
    Return a C type.

    :raises ArgumentError: if the program has none of that name, or it is no type.
    """
    if isinstance(type, Type):
        return type
    try:
        return prog.type(type)
    except (LookupError, SyntaxError, TypeError) as error:
        raise ArgumentError(f"{shown(type)} is no type of this kernel: {error}") from None


def path_of(what: str, given: Union[str, os.PathLike[str]]) -> str:
    """
    Return the path of a file.

    :param what: Name of the argument.
    :raises ArgumentError: if it is none.
    """
    if isinstance(given, (str, os.PathLike)):
        return os.fspath(given)
    raise ArgumentError(f"{what} is {shown(given)}: it is the path of a file")


def several(given: Any) -> List[Any]:
    """Return what was given one by one, also where it is one alone."""
    if isinstance(given, (str, bytes, Object)) or not isinstance(given, Iterable):
        return [given]
    return list(given)


def one_of(what: str, given: Any, choices: Iterable[str]) -> str:
    """
    Return one of some names.

    :param what: What they are names of.
    :raises ArgumentError: if it is none; it names them all.
    """
    known = list(choices)
    if given not in known:
        raise ArgumentError(_none_of(what, given, known))
    return str(given)


def _none_of(what: str, given: Any, known: Sequence[str]) -> str:
    told = given if isinstance(given, str) and given.strip() else shown(given)
    return f"{told} is no {what}: these are {', '.join(known)}"


class ByName(Dict[str, _Thing]):
    """
    Things by name.

    A name that it does not have raises :exc:`UnknownNameError`.

    :param what: What each of them is.
    """

    def __init__(self, what: str, *things: _Thing) -> None:
        super().__init__((thing.name, thing) for thing in things)
        self._what = what

    def __missing__(self, name: str) -> NoReturn:
        raise UnknownNameError(_none_of(self._what, name, list(self)))


def is_pointer(given: Any) -> bool:
    """Return whether this is an object of drgn's that is no number, though it can be one."""
    return isinstance(given, Object) and given.type_.unaliased_kind() not in _INTEGERS


def at_least(what: str, given: Optional[int], least: int = 0) -> Optional[int]:
    """
    Return a number that is not too small, or ``None``.

    :param what: Name of the argument.
    :raises ArgumentError: if it is too small, or no integer.
    """
    if given is None:
        return None
    try:
        number = least - 1 if is_pointer(given) else operator.index(given)
    except TypeError:
        number = least - 1
    if number < least:
        raise ArgumentError(f"{what} is {shown(given)}: it is a number from {least} on")
    return number


def seconds_of(what: str, given: Optional[float]) -> Optional[float]:
    """
    Return a time in seconds, or ``None``.

    :param what: Name of the argument.
    :raises ArgumentError: if it is negative, or no number.
    """
    if given is None:
        return None
    if not isinstance(given, (int, float)) or not given >= 0:
        raise ArgumentError(f"{what} is {shown(given)}: it is a number of seconds from 0 on")
    return float(given)


def _at(given: Any) -> Any:
    # Where a structure is that lies in memory; of anything else, itself.
    if isinstance(given, Object) and given.type_.unaliased_kind() in (
        TypeKind.STRUCT,
        TypeKind.UNION,
        TypeKind.CLASS,
        TypeKind.ARRAY,
    ):
        return given.address_
    return given


def _is(given: Object, names: Iterable[str], numbers: bool = True) -> bool:
    type = given.type_
    while type.kind == TypeKind.TYPEDEF:
        type = type.type
    if type.kind in _INTEGERS:
        return numbers
    if type.kind == TypeKind.POINTER:
        type = type.type
        while type.kind == TypeKind.TYPEDEF:
            type = type.type
        if type.kind == TypeKind.VOID:
            return numbers
    elif given.address_ is None:
        return False
    return type.kind == TypeKind.STRUCT and type.tag in names


def shown(given: Any) -> str:
    """Return what was given as an error message has it: in one line that ends."""
    if isinstance(given, int) and given >= 1 << 16:
        return hex(given)
    if isinstance(given, Object):
        return str(given.type_.type_name())
    text = " ".join(repr(given).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
