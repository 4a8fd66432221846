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
    """Base class of all errors raised by this package."""


class LayoutError(SlabTypeError, LookupError):
    """The kernel's layout is not one this package knows, or a member it needs is missing."""


class MissingDebugInfoError(LayoutError):
    """The types, symbols or VMCOREINFO needed to read the kernel are absent."""


class UnsupportedError(SlabTypeError, ValueError):
    """The kernel is understood, but not one this package can check (SLOB, no vmemmap)."""


class TargetError(SlabTypeError):
    """What was asked for cannot be opened as a Linux kernel with its debug info."""


class ArgumentError(TargetError, ValueError):
    """
    A value that cannot be meant: no such cache, CPU, state, type …; the message says what can.

    It is a ``ValueError`` and a :class:`TargetError`: some values only this kernel knows.
    """


class CorruptionError(SlabTypeError, ValidationError):
    """Raised by ``validate_*`` functions for the first inconsistency they meet."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding
        """The :class:`~drgn_slabtype.findings.Finding` that describes the damage."""
