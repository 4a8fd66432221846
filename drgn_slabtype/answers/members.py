# SPDX-License-Identifier: LGPL-2.1-or-later
"""Members of C types by where they lie."""

from __future__ import annotations

from typing import Optional

from drgn import Type, TypeKind, sizeof


def member_at(type: Type, offset: int) -> Optional[str]:
    """
    Return the member at some offset of a type, ``d_name.hash`` or ``slots[3]``.

    >>> member_at(prog.type("struct list_head"), 8)
    'prev'

    :param offset: In bytes.
    :return: ``None`` if there is none: padding, or past the end.
    """
    plain = type.unaliased()
    if plain.kind == TypeKind.ARRAY:
        size = sizeof(plain.type)
        if not size or not 0 <= offset < size * (plain.length or 0):
            return None
        inner = member_at(plain.type, offset % size)
        return None if inner is None else f"[{offset // size}]{_joined(inner)}"
    if plain.kind not in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS):
        return "" if 0 <= offset < sizeof(plain) else None
    for member in plain.members or ():
        inner = member_at(member.type, offset - member.bit_offset // 8)
        if inner is not None:
            return (member.name or "") + (_joined(inner) if member.name else inner)
    return None


def _joined(inner: str) -> str:
    return inner if not inner or inner.startswith("[") else f".{inner}"
