# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a kernel says of itself, and what was concluded from it so far."""

from __future__ import annotations

from typing import List, Mapping, NoReturn, Optional, Tuple

from drgn import PlatformFlags, Program, Type

from ..errors import LayoutError, MissingDebugInfoError
from .sources import Field, enumerators, fields, vmcoreinfo_number


class Evidence:
    """
    Types, enumerators and VMCOREINFO of one kernel.

    :param info: VMCOREINFO by its keys.
    :param origin: Where types are from, if not from debug info: a sentence.
    :raises MissingDebugInfoError: if there is no ``struct page``.
    """

    def __init__(self, prog: Program, info: Mapping[str, str], origin: Optional[str]) -> None:
        self.prog = prog
        self.info = info
        self.evidence: List[str] = [] if origin is None else [origin]
        self.notes: List[str] = []
        self.page_type = self.type("struct page")
        self.page = fields(self.page_type)
        self.pageflags = enumerators(prog, "pageflags")
        self.pagetype = enumerators(prog, "pagetype")
        if not info:
            self.notes.append("there is no VMCOREINFO to confirm the debug info")

    def type(self, name: str) -> Type:
        """
        Return a type.

        :raises MissingDebugInfoError: if there is none of the name.
        """
        try:
            return self.prog.type(name)
        except LookupError:
            raise MissingDebugInfoError(
                f"no debug info for {name}: load the vmlinux of this kernel"
            ) from None

    def number(self, name: str) -> Optional[int]:
        """Return a ``NUMBER()`` of VMCOREINFO, ``None`` if it is not there."""
        return vmcoreinfo_number(self.info, name)

    def contradiction(self, key: str, theirs: int, ours: str) -> NoReturn:
        """
        Give up, as VMCOREINFO says something else than the debug info.

        :raises LayoutError: always.
        """
        raise LayoutError(
            f"VMCOREINFO has {key} = {theirs}, but {ours}:"
            " the debug info is not that of this kernel, or its layout is not known"
        )

    def slab_struct(self) -> Tuple[str, Type]:
        """Return the structure with the members of a slab, by name and type."""
        # Since Linux kernel commit d122019bf061 ("mm: Split slab into its own
        # type") (in v5.17).
        try:
            type = self.prog.type("struct slab")
        except LookupError:
            return "page", self.page_type
        return "slab", type

    def shift(self, field: Field, start: int) -> int:
        """Return the first bit of a member of the 32-bit word that starts at a bit offset."""
        # drgn counts from the most significant bit on big endian.
        offset = field.bit_offset - start
        platform = self.prog.platform
        if platform is not None and not platform.flags & PlatformFlags.IS_LITTLE_ENDIAN:
            return 32 - offset - field.bit_size
        return offset
