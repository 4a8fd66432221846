# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Exceptions
----------

Every error this package raises on purpose derives from :class:`SlabTypeError`.
A :exc:`drgn.FaultError` is memory that is not there, not an error of this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drgn.helpers import ValidationError

if TYPE_CHECKING:
    from .findings import Finding


class SlabTypeError(Exception):
    """
    Base class of all errors raised by this package.

    >>> try:
    ...     check(prog, caches=["dentri"])
    ... except SlabTypeError as error:
    ...     print(error)
    there is no slab cache named dentri; did you mean dentry?
    """


class LayoutError(SlabTypeError, LookupError):
    """
    The kernel's layout is not one this package knows, or a member it needs is missing.

    >>> try:
    ...     slab_get_inuse(next(for_each_slab("dentry")))
    ... except LayoutError as error:
    ...     print(error)
    the slabs of SLAB have no inuse count
    """


class MissingDebugInfoError(LayoutError):
    """
    The types, symbols or VMCOREINFO needed to read the kernel are absent.

    >>> from drgn import Architecture, Platform, Program
    >>> try:
    ...     page_type_layout(Program(Platform(Architecture.X86_64)))
    ... except MissingDebugInfoError as error:
    ...     print(error)
    no debug info for struct page: load the vmlinux of this kernel
    """


class UnsupportedError(SlabTypeError, ValueError):
    """
    The kernel is understood, but not one this package can check (SLOB, no vmemmap).

    >>> from drgn import Architecture, Platform, Program
    >>> try:
    ...     census(Program(Platform(Architecture.ARM)))
    ... except UnsupportedError as error:
    ...     print(error)
    32-bit kernels are not supported: they have no virtual memory map
    """


class TargetError(SlabTypeError):
    """
    What was asked for cannot be opened as a Linux kernel with its debug info.

    >>> try:
    ...     open_target(TargetOptions(core="nowhere/vmcore"))
    ... except TargetError as error:
    ...     print(error)
    nowhere/vmcore: no such file or directory
    """


class ArgumentError(TargetError, ValueError):
    """
    A value that cannot be meant: no such cache, CPU, state, type …; the message says what can.

    It is a ``ValueError`` and a :class:`TargetError`: some values only this kernel knows.

    >>> try:
    ...     objects(prog, "dentry", "freed")
    ... except ArgumentError as error:
    ...     print(error)
    freed is no state: these are in use, free, waiting, unknown
    """


class UnknownNameError(ArgumentError, KeyError):
    """
    A name that a mapping of this package does not have; the message says which it has.

    >>> try:
    ...     ENCODINGS["rfc"]
    ... except UnknownNameError as error:
    ...     print(str(error).partition(",")[0])
    rfc is no layout: these are page-flag-4.18
    """

    def __str__(self) -> str:
        # Not that of KeyError, which is for a bare key.
        return Exception.__str__(self)


class CorruptionError(SlabTypeError, ValidationError):
    """
    Raised by ``validate_*`` functions for the first inconsistency they meet.

    >>> try:
    ...     validate_slab_cache("dentry")
    ... except CorruptionError as error:
    ...     print(error.finding.code, hex(error.finding.slab))
    """

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding
        """The :class:`Finding` that describes the damage."""
