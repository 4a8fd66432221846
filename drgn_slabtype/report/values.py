# SPDX-License-Identifier: LGPL-2.1-or-later
"""How single values are spelled, the same in every format."""

from __future__ import annotations

from typing import Optional

from ..records import plural as plural
from ..shapes import Value

# No count of objects, slabs or pages comes near; every 64-bit kernel address is beyond.
_FIRST_ADDRESS = 1 << 47


def address(value: Optional[int]) -> Optional[str]:
    """Return an address as ``0x…``."""
    return None if value is None else f"0x{value:x}"


def value(value: Value) -> Value:
    """Return what was expected or found, with addresses as ``0x…``."""
    if isinstance(value, int) and value >= _FIRST_ADDRESS:
        return f"0x{value:x}"
    return value


def printable(text: str) -> str:
    """
    Return text that no terminal acts upon.

    Names from the target are escaped where they are read; this is for
    everything else, such as paths.
    """
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def size(size_bytes: int) -> str:
    """Return a number of bytes with the unit that suits it."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return plural(size_bytes, "byte")
