# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who allocated a page
--------------------

With ``page_owner=on``, a kernel of ``CONFIG_PAGE_OWNER`` keeps for each page who
allocated it and who freed it last, in memory beside the memory map
(``struct page_ext``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Optional, Tuple, Union

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.mm import page_to_pfn

from ..machine import Machine, machine
from ..machine.memmap import section_addresses
from ..machine.symbols import depot_stack
from .printed import flag_table, format_flags
from .sections import pages_per_section

# Since Linux kernel commit b1d5488a2528 ("mm: fix use-after free of page_ext
# after race with memory-offline") (in v6.1), the lowest bit marks a section
# that is being taken offline.
_INVALID = 1
# gfp_migratetype(): __GFP_MOVABLE and __GFP_RECLAIMABLE, the same bits from
# Linux 4.14 on.
_MIGRATE_SHIFT, _MIGRATE_MASK = 3, 3


@dataclass(frozen=True)
class PageOwner:
    """What the kernel keeps of a page; ``None`` is what this release does not keep."""

    allocated: bool
    """Whether it has not been freed since."""
    order: int
    """Of the allocation."""
    gfp_mask: int
    """Of the allocation, as a number."""
    gfp: str
    """Names of the mask, empty if the target does not have them."""
    migratetype: str
    """Mobility that was asked for, as the kernel names it."""
    stack: Tuple[str, ...]
    """Call trace of the allocation, innermost first; empty if there is none."""
    free_stack: Tuple[str, ...]
    """That of the last time it was freed."""
    has_stack: bool = True
    """Whether the kernel kept the first one, which the target may lack."""
    has_free_stack: bool = True
    """The same of the second one."""
    pid: Optional[int] = None
    """Thread that allocated it."""
    tgid: Optional[int] = None
    """Process that allocated it."""
    comm: Optional[str] = None
    """Name of the task that allocated it."""
    ts_nsec: Optional[int] = None
    """When it was allocated, in nanoseconds since boot."""
    free_ts_nsec: Optional[int] = None
    """When it was freed last; 0 if never."""
    free_pid: Optional[int] = None
    """Thread that freed it last."""
    free_tgid: Optional[int] = None
    """Process that freed it last."""
    migrate_reason: Optional[str] = None
    """Why its content was moved here from another page, if it was."""


def page_owner(page: Object) -> Union[PageOwner, str, None]:
    """
    Return who allocated a page and who freed it last.

    :param page: ``struct page *``
    :return: ``None`` if the kernel does not keep it; text if it does and has
        nothing about this page, or the target lacks it.
    """
    prog = page.prog_
    try:
        enabled = prog["page_owner_inited"].key.enabled.counter.value_()
    except (AttributeError, FaultError, LookupError):
        return None
    if not enabled:
        return None
    try:
        address = _page_ext(machine(prog), int(page_to_pfn(page).value_()))
        if not address:
            return "There is not page extension available."
        flags = Object(prog, "struct page_ext", address=address).flags.value_()
        bits = machine(prog).enumerators("page_ext_flags")
        if not flags >> bits["PAGE_EXT_OWNER"] & 1:
            return "page_owner info is not present (never set?)"
        offset = prog["page_owner_ops"].offset.value_()
        owner = Object(prog, "struct page_owner", address=address + offset).read_()
        return _record(machine(prog), owner, bool(flags >> bits["PAGE_EXT_OWNER_ALLOCATED"] & 1))
    except FaultError as error:
        return f"page_owner info is not in the target: {error}"
    except (AttributeError, LookupError) as error:
        return f"page_owner of this kernel is not understood: {error}"


def _page_ext(machine: Machine, pfn: int) -> int:
    # struct page_ext * of a page, or 0.
    source = machine.memory
    numbers = np.array([pfn // pages_per_section(machine)], np.uint64)
    sections = section_addresses(machine, numbers)
    if not source.is_kernel_address(sections)[0]:
        return 0
    section = Object(machine.prog, "struct mem_section", address=int(sections[0]))
    # The section's pointer is where the entry of page frame 0 would be.
    base = section.page_ext.value_()
    if not base or base & _INVALID:
        return 0
    place = np.uint64(pfn * machine.prog["page_ext_size"].value_())
    return int((np.array([base], np.uint64) + place)[0])


def _record(machine: Machine, owner: Object, allocated: bool) -> PageOwner:
    def member(name: str) -> Any:
        # Since when: pid and ts_nsec 5.11, free_ts_nsec 5.13, tgid and comm
        # 5.18, free_pid and free_tgid 6.10.
        return getattr(owner, name).value_() if hasattr(owner, name) else None

    gfp, reason = member("gfp_mask"), member("last_migrate_reason")
    comm = owner.comm.string_() if hasattr(owner, "comm") else None
    return PageOwner(
        allocated=allocated,
        order=member("order"),
        gfp_mask=gfp,
        gfp=format_flags(table, gfp) if (table := flag_table(machine, "gfpflag_names")) else "",
        migratetype=_name(machine, "migratetype_names", gfp >> _MIGRATE_SHIFT & _MIGRATE_MASK),
        stack=depot_stack(machine, owner.handle),
        free_stack=depot_stack(machine, owner.free_handle),
        has_stack=bool(owner.handle),
        has_free_stack=bool(owner.free_handle),
        pid=member("pid"),
        tgid=member("tgid"),
        comm=None if comm is None else escape_ascii_string(comm, escape_backslash=True),
        ts_nsec=member("ts_nsec"),
        free_ts_nsec=member("free_ts_nsec"),
        free_pid=member("free_pid"),
        free_tgid=member("free_tgid"),
        migrate_reason=None if reason == -1 else _name(machine, "migrate_reason_names", reason),
    )


def _name(machine: Machine, table: str, number: int) -> str:
    # An entry of an array of strings.
    try:
        names = machine.prog[table]
        if not 0 <= number < (names.type_.length or 0):
            return str(number)
        return escape_ascii_string(names[number].string_(), escape_backslash=True)
    except (FaultError, LookupError):
        return str(number)


def owner_lines(owner: Union[PageOwner, str, None]) -> Iterator[str]:
    """Yield what ``dump_page_owner()`` prints, but for the sizes of functions."""
    if owner is None:
        return
    if isinstance(owner, str):
        yield owner
        return
    yield f"page_owner tracks the page as {'allocated' if owner.allocated else 'freed'}"
    known = owner.gfp or not owner.gfp_mask  # pages allocated before it ran have no mask
    mask = f"{owner.gfp_mask:#x}({owner.gfp})" if known else f"{owner.gfp_mask:#x}"
    line = f"page last allocated via order {owner.order}, migratetype {owner.migratetype}"
    line += f", gfp_mask {mask}"
    if owner.pid is not None:
        line += f", pid {owner.pid}"
    if owner.tgid is not None:
        line += f", tgid {owner.tgid}"
    if owner.comm is not None:
        line += f" ({owner.comm})"
    if owner.ts_nsec is not None:
        line += f", ts {owner.ts_nsec}"
    if owner.free_ts_nsec is not None:
        line += f", free_ts {owner.free_ts_nsec}"
    yield line
    if not owner.has_stack:
        yield "page_owner allocation stack trace missing"
    yield from _frames(owner.stack, owner.has_stack)
    if not owner.has_free_stack:
        yield "page_owner free stack trace missing"
    else:
        freed = ""
        if owner.free_pid is not None:
            freed = f"pid {owner.free_pid} tgid {owner.free_tgid} "
        yield f"page last free {freed}stack trace:"
        yield from _frames(owner.free_stack, True)
    if owner.migrate_reason is not None:
        yield f"page has been migrated, last migrate reason: {owner.migrate_reason}"


def _frames(stack: Tuple[str, ...], kept: bool) -> Iterator[str]:
    if kept and not stack:
        yield " (not in the target)"
    for frame in stack:
        yield f" {frame}"
