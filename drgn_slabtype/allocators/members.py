# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the members lie that findings name."""

from __future__ import annotations

from typing import Iterable, Iterator

from ..ledger import Suspect
from ..machine.columns import Rows


def at_member(rows: Rows, row: int, suspects: Iterable[Suspect]) -> Iterator[Suspect]:
    """
    Yield what is wrong with one structure, with the address of the member that each names.

    Where the word is known already, it is that of another structure.

    :param rows: Structures of that kind.
    """
    for one in suspects:
        if one.member is None or one.word is not None or not rows.structure.has(one.member):
            yield one
        else:
            at = int(rows.addresses[row]) + rows.structure.offset(one.member)
            yield one._replace(word=at)
