# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One address
-----------

Which object it lies in, who holds that object and which place says so; or what
it is instead.
"""

from __future__ import annotations

from dataclasses import replace

from drgn import IntegerLike, Program

from ..machine import machine
from .address import AddressInfo
from .describe import describe
from .lookup import lookup
from .what import meanings, word_of


def slab_object(prog: Program, addr: IntegerLike) -> AddressInfo:
    """
    Return what an address is.

    >>> info = slab_object(prog, 0xffff888003a1c488)
    >>> info.cache, hex(info.object), info.offset, info.state, info.places
    ('dentry', '0xffff888003a1c480', 8, 'free', ('cpu freelist of CPU 2, position 3',))

    :param addr: Any address: of an object or inside one, of a page, of code. Of a
        word that leads nowhere, ``meanings`` says what else it can be.
    :raises ValueError: if *addr* has more than 64 bits.
    :raises LayoutError: if the kernel's layout is not understood.
    """
    address = word_of(addr)
    reading = lookup(machine(prog))
    info = describe(reading, address)
    return info if info.is_known else replace(info, meanings=meanings(reading, address))
