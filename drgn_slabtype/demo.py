# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Demonstration
-------------

The captures that ship with the package, checked as they are and with one count
changed, so that both answers can be seen without a kernel at hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Iterator, List, Literal, NamedTuple

from drgn import Object, PlatformFlags, Program
from drgn.helpers.linux.list import list_for_each_entry
from drgn.helpers.linux.slab import for_each_slab_cache

from .capture import is_capture
from .check import check
from .errors import TargetError
from .findings import Outcome, Report
from .machine import page_type_layout
from .shapes import HIDDEN
from .target import TargetOptions, describe, open_target

_CAPTURES = Path(__file__).with_name("captures")
_VICTIM = "kmalloc-64"


class Act(NamedTuple):
    """One part of the demonstration."""

    title: str
    """What was done to which kernel."""
    report: Report
    """What the check said."""
    as_expected: Annotated[bool, HIDDEN]


def captures() -> List[Path]:
    """Return the captures that ship with the package."""
    return sorted(path for path in _CAPTURES.glob("*") if path.is_file() and is_capture(str(path)))


def demo() -> List[Act]:
    """
    Check each capture of the package twice, the second time with one count off by one.

    >>> for act in demo():
    ...     print(act.report.outcome.value)
    consistent
    inconsistent

    :raises TargetError: if the package was built without captures.
    """
    paths = captures()
    if not paths:
        raise TargetError(f"{_CAPTURES}: no captures are installed there")
    return [act for path in paths for act in _acts(path)]


def _acts(path: Path) -> Iterator[Act]:
    prog = open_target(TargetOptions(core=str(path)))
    report = _report(prog)
    name = f"Linux {report.target.release} with {report.layout.allocator}"
    yield Act(f"{name}, as it was", report, report.outcome is Outcome.CONSISTENT)
    prog = open_target(TargetOptions(core=str(path)))
    damage = raise_count(prog, _VICTIM)
    report = _report(prog)
    yield Act(f"{name}, with {damage}", report, report.outcome is Outcome.INCONSISTENT)


def _report(prog: Program) -> Report:
    report = check(prog)
    report.target = describe(prog)
    return report


def raise_count(prog: Program, name: str) -> str:
    """
    Make the kernel's count of objects in use in one slab one too high.

    The change lies over the program's memory; the file it reads stays as it is.

    :param name: The slab cache; the first partial slab of its first node is taken.
    :return: What was changed, in words.
    :raises TargetError: if that cache has no partial slab.
    """
    slab = _partial_slab(prog, name)
    layout = page_type_layout(prog)
    member, step = {
        None: ("inuse", 1),
        "word": ("active", 1),
        "packed": ("active", 1),
        # RFC v3 keeps the count negated in the page type word.
        "page_type": ("page_type", -1),
    }[layout.active]
    _add(prog, slab, member, step)
    count = "inuse" if layout.active is None else "active"
    return f"{count} of {name} slab 0x{slab.value_():x} one too high"


def _partial_slab(prog: Program, name: str) -> Object:
    layout = page_type_layout(prog)
    for cache in for_each_slab_cache(prog):
        if cache.name.string_() != name.encode():
            continue
        try:
            node = cache.node[0]
        except AttributeError:
            # Since Linux 7.1, nodes are in struct kmem_cache_per_node_ptrs.
            node = cache.per_node[0].node
        head = node.partial if layout.active is None else node.slabs_partial
        type, link = f"struct {layout.slab_struct}", "slab_list"
        for slab in list_for_each_entry(type, head.address_of_(), link):
            return slab
    raise TargetError(f"{name} has no partial slab to change")


def _add(prog: Program, slab: Object, name: str, step: int) -> None:
    # Lay changed bytes over one member, which may be a bit field.
    platform = prog.platform
    assert platform is not None
    member = slab.type_.type.member(name)
    bits = member.bit_field_size or 8 * member.type.size
    address = slab.value_() + member.bit_offset // 32 * 4
    little = bool(platform.flags & PlatformFlags.IS_LITTLE_ENDIAN)
    order: Literal["little", "big"] = "little" if little else "big"
    word = int.from_bytes(prog.read(address, 4), order)
    shift = member.bit_offset % 32
    if not little:
        shift = 32 - shift - bits
    mask = (1 << bits) - 1 << shift
    word = word & ~mask | word + (step << shift) & mask
    changed = word.to_bytes(4, order)
    prog.add_memory_segment(
        address, 4, lambda address, count, offset, physical: changed[offset : offset + count]
    )
