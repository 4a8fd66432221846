# SPDX-License-Identifier: LGPL-2.1-or-later

"""
What a kernel says about its own layout: VMCOREINFO, members, enumerators.
"""

from __future__ import annotations

from typing import Dict, Iterator, Mapping, NamedTuple, Optional, Tuple

from drgn import Program, Type, TypeKind

from ..errors import LayoutError

__all__ = (
    "Field",
    "enumerators",
    "fields",
    "parts",
    "vmcoreinfo",
    "vmcoreinfo_integer",
    "vmcoreinfo_number",
)


def vmcoreinfo(prog: Program) -> Mapping[str, str]:
    """
    Return VMCOREINFO as a mapping, empty if there is none.

    Keys are spelled as in the note: ``OSRELEASE``, ``NUMBER(PG_slab)``.
    """
    try:
        text = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    except LookupError:
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def vmcoreinfo_number(info: Mapping[str, str], name: str) -> Optional[int]:
    """
    Return a ``NUMBER()`` of VMCOREINFO, ``None`` if it is not there.

    :raises LayoutError: if it is no number.
    """
    return vmcoreinfo_integer(info, f"NUMBER({name})")


def vmcoreinfo_integer(info: Mapping[str, str], key: str) -> Optional[int]:
    """
    Return a decimal value of VMCOREINFO by its whole key, ``None`` if it is not there.

    :raises LayoutError: if it is no number.
    """
    value = info.get(key)
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        raise LayoutError(f"VMCOREINFO has {key} {value!r}, which is no number") from None


class Field(NamedTuple):
    """A member of a structure."""

    name: str
    """Empty for a member without a name."""
    bit_offset: int
    """From the beginning of the outermost structure, as drgn counts."""
    bit_size: int
    """Zero for arrays."""


def _strip(type: Type) -> Type:
    while type.kind is TypeKind.TYPEDEF:
        type = type.type
    return type


def parts(type: Type, start: int = 0) -> Iterator[Tuple[Type, Field]]:
    """Iterate over the members of a structure, and over those of its unnamed members."""
    for member in _strip(type).members or ():
        inner = _strip(member.type)
        offset = start + member.bit_offset
        size = member.bit_field_size
        if size is None:
            size = 8 * (getattr(inner, "size", None) or 0)
        yield inner, Field(member.name or "", offset, size)
        if member.name is None:
            yield from parts(inner, offset)


def fields(type: Type) -> Dict[str, Field]:
    """Return the members of a structure by name, those of unnamed members included."""
    return {field.name: field for _, field in parts(type) if field.name}


def enumerators(prog: Program, name: str) -> Dict[str, int]:
    """Return the values of an enumeration, empty if there is no such type."""
    try:
        found = prog.type(f"enum {name}").enumerators
    except LookupError:
        return {}
    return {enumerator.name: enumerator.value for enumerator in found or ()}
