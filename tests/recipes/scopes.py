# SPDX-License-Identifier: LGPL-2.1-or-later
"""Small scopes and the whole machine, asked the same."""

from __future__ import annotations

from typing import Iterable, List, Optional

from drgn import Program

from .library import Located, Lookup, describe, machine

_MOST = 4  # slabs of one damaged kernel that are asked about


class WholeLookup(Lookup):
    """Answers each question by the reading of the whole machine."""

    def at(self, address: int) -> Optional[Located]:
        """Return the slab that an address lies in."""
        return self.widely_at(address)

    def of_page(self, page: int) -> Optional[Located]:
        """Return the slab of a ``struct slab *``."""
        return self.widely(page)


def differences(prog: Program, addresses: Iterable[int]) -> List[str]:
    """
    Return where an answer about an address depends on how much was read for it.

    :param addresses: Of objects and of ``struct slab``; the first few are asked about.
    """
    small = Lookup(machine(prog))
    whole = WholeLookup(machine(prog))
    found = []
    for address in list(dict.fromkeys(addresses))[:_MOST]:
        one, other = describe(small, address), describe(whole, address)
        if one != other:
            found.append(f"0x{address:x}: alone {one}, in the whole machine {other}")
    return found
