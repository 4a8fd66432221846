# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Blocks of pages
---------------

Memory is managed in blocks of ``pageblock_nr_pages``. What each is meant for, its
migrate type, is in a few bits of its section's ``pageblock_flags``.
"""

from __future__ import annotations

from typing import Mapping

import numpy as np
from drgn import FaultError

from ..machine import Machine
from ..machine.memmap import section_addresses
from .sections import pages_per_section

_TYPE = 7  # MIGRATETYPE_MASK


def pageblock_order(machine: Machine) -> int:
    """Return ``pageblock_order``: how many pages a block has, as a power of two."""
    # Huge pages of 2 MiB with pages of 4 KiB; a variable where the
    # architecture can have several sizes.
    try:
        return int(machine.prog["pageblock_order"])
    except LookupError:
        return 9


def migrate_types(machine: Machine) -> Mapping[str, int]:
    """Return ``enum migratetype``; ``MIGRATE_CMA`` and ``MIGRATE_ISOLATE`` may not be in it."""
    return machine.enumerators("migratetype")


def migrate_type(machine: Machine, pfn: int) -> int:
    """
    Return the migrate type of the block that a page is in.

    :raises FaultError: if it is not in the target.
    """
    section, within = divmod(pfn, pages_per_section(machine))
    at = section_addresses(machine, np.array([section], np.uint64))
    usage = int(machine.rows("struct mem_section", at)["usage"][0])
    bits = machine.enumerators("pageblock_bits")
    bit = (within >> pageblock_order(machine)) * _width(bits)
    word, shift = divmod(bit, 8 * machine.memory.word_size)
    flags = machine.structure("struct mem_section_usage").offset("pageblock_flags")
    at = np.array([usage + flags + word * machine.memory.word_size], np.uint64)
    if not machine.memory.is_kernel_address(at)[0]:
        raise FaultError("section has no blocks", int(at[0]))
    found = machine.memory.read_word(int(at[0])) >> shift
    # Since Linux 6.17, an isolated block keeps its type and has a bit besides.
    if "PB_migrate_isolate" in bits and found >> bits["PB_migrate_isolate"] & 1:
        return migrate_types(machine)["MIGRATE_ISOLATE"]
    return found & _TYPE


def _width(bits: Mapping[str, int]) -> int:
    # NR_PAGEBLOCK_BITS: a power of two.
    count = bits.get("NR_PAGEBLOCK_BITS", bits.get("__NR_PAGEBLOCK_BITS", 4))
    return 1 << (count - 1).bit_length()
