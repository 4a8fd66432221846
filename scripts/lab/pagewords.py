# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Single pages in the kernel's own words.

Which pages of a dump to ask the kernel about, and whether ``page`` says of each
what the kernel's ``dump_page()`` printed. Run as a program by the lab, so that
one broken dump does not end a whole matrix: ``choose`` or ``compare`` with the
folder and the core of a dump; writes JSON.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Set, Tuple

from drgn import FaultError, Program
from drgn.helpers.linux.mm import pfn_to_page

from drgn_slabtype.machine import machine
from drgn_slabtype.pages.blocks import migrate_type, migrate_types, pageblock_order
from drgn_slabtype.pages.dump import dump_page
from drgn_slabtype.pages.flagnames import flag_names
from drgn_slabtype.pages.kinds import TAIL
from drgn_slabtype.pages.kpageflags import kpageflags
from drgn_slabtype.pages.scan import scan
from drgn_slabtype.pages.survey import Survey, survey
from drgn_slabtype.target import TargetOptions, open_target
from lab.askpages import FILE

__all__ = ("Comparison", "Words", "choose", "compare", "load", "open_dump", "printer")

# Where the guest is stopped for it: a function that every CPU enters soon, with
# no lock held that printing needs.
_ENTRY = "sysvec_apic_timer_interrupt"
_UNHASHED = "(____ptrval____)"  # a guest without randomness cannot even hash
_POINTER = re.compile(rf"\b(page|head|mapping):([0-9a-f]{{16}}\b|{re.escape(_UNHASHED)})")
# Other pages that the guest may touch after it was dumped, until it is asked.
_MOVED = 2
_TAINT_RANDSTRUCT = 17
_RAW = re.compile(r"(raw|head): [0-9a-f]{16} ")  # of a tail, those of its head follow
_FRAME = re.compile(r" (\S+)\+(0x[0-9a-f]+)(?:/0x[0-9a-f]+)?")
# What the kernel's own symbol table takes from the next symbol.
_SYMBOL_SIZE = re.compile(r"(\+0x[0-9a-f]+)/0x[0-9a-f]+")


class Words(NamedTuple):
    """What the kernel printed about one page."""

    pfn: int
    what: str
    lines: List[str]


def load(folder: Path) -> List[Words]:
    """Return the kernel's words of a saved oracle; empty if there are none."""
    file = folder / FILE
    if not file.exists():
        return []
    return [Words(**record) for record in json.loads(file.read_text())]


def choose(prog: Program) -> Dict[str, Any]:
    """
    Return the pages to ask about, and the addresses that are needed for it.

    :return: ``pages``: two pages (``pfn``, ``page``, ``what``) of each kind and
        word of ``kpageflags``, in areas of CMA and elsewhere, and a slab of each
        order; ``entry``, ``function``, ``before`` and ``after``: addresses of code;
        ``loglevel``: that of ``console_loglevel``.
    """
    flags = kpageflags(prog)
    found = survey(machine(prog))
    block_order, areas = pageblock_order(machine(prog)), _contiguous_areas(prog, found)
    first: Dict[Tuple[int, int, bool], int] = {}
    last: Dict[Tuple[int, int, bool], int] = {}
    for piece in found.pieces:
        for pfn, kind in enumerate(piece.kinds.tolist(), piece.pfn):
            key = (kind, int(flags[pfn]), pfn >> block_order in areas)
            first.setdefault(key, pfn)
            last[key] = pfn
    heads = scan(machine(prog)).heads
    orders = {int(order): int(pfn) for pfn, order in zip(heads.pfns, heads.orders)}
    slab = found.names.index("slab")
    some = [*first.items(), *last.items()]
    some += [((slab, int(flags[pfn]), False), pfn) for pfn in orders.values()]
    pages = []
    for key, pfn in some:
        name = found.names[key[0] & ~int(TAIL)]
        words = [name, *(["tail"] if key[0] & int(TAIL) else []), *flag_names(key[1])]
        record = {"pfn": pfn, "page": pfn_to_page(prog, pfn).value_(), "what": ", ".join(words)}
        if name != "unreadable" and record not in pages:
            pages.append(record)
    return {
        "pages": pages,
        "function": prog.symbol("dump_page").address,
        **printer(prog),
    }


def printer(prog: Program) -> Dict[str, int]:
    """
    Return the addresses that are needed to let a stopped guest print.

    :return: ``entry``, ``before`` and ``after`` of code; ``loglevel``, that of
        ``console_loglevel``.
    """
    return {
        "entry": prog.symbol(_ENTRY).address,
        "before": _optional(prog, "nbcon_cpu_emergency_enter"),
        "after": _optional(prog, "nbcon_cpu_emergency_exit"),
        "loglevel": prog.symbol("console_printk").address,
    }


def _contiguous_areas(prog: Program, found: Survey) -> Set[int]:
    # The numbers of the blocks of CMA.
    cma, order = migrate_types(machine(prog)).get("MIGRATE_CMA"), pageblock_order(machine(prog))
    if cma is None:
        return set()
    blocks = {pfn >> order for piece in found.pieces for pfn in range(piece.pfn, piece.end)}
    return {block for block in blocks if cma == migrate_type(machine(prog), block << order)}


def _optional(prog: Program, name: str) -> int:
    try:
        return prog.symbol(name).address
    except LookupError:
        return 0


class Comparison(NamedTuple):
    """What came of it."""

    compared: int
    """Pages that were compared: those whose struct page was as it had been dumped."""
    differ: List[str]
    """What differs first, a line for each page."""


def compare(prog: Program, words: List[Words], *, partial: bool = False) -> Comparison:
    """
    Compare what ``page`` prints with the kernel's words, line by line.

    Kernels before Linux 5.12 print a hash of each pointer, always the same.

    :param partial: The target may lack inodes and names of files, as captures do.
    """
    unknown = [" is not in the target"] if partial else []
    unknown += [" is shuffled"] if _is_shuffled(prog) else []
    hashes: Dict[str, str] = {}
    moved: List[str] = []
    differ: List[str] = []
    compared = 0
    for page in words:
        name = f"PFN {page.pfn:#x} ({page.what})"
        try:
            ours = dump_page(pfn_to_page(prog, page.pfn))
        except FaultError as error:
            differ.append(f"{name}: {error}")
            continue
        if _raw(ours) != _raw(page.lines):
            # The program that asks is itself a user of memory.
            if "mmap" not in page.what.split(", "):
                moved.append(f"{name}: another struct page")
            continue
        compared += 1
        missing = [""] * (len(page.lines) - len(ours))
        for mine, theirs in zip([*ours, *missing], page.lines):
            if theirs.startswith("aops:") and mine.endswith(tuple(unknown)):
                continue
            if not (_same(mine, theirs, hashes) or _same_frame(prog, mine, theirs)):
                differ.append(f"{name}: {mine!r}, the kernel says {theirs!r}")
                break
        else:
            if len(ours) > len(page.lines):
                more = ours[len(page.lines) :]
                differ.append(f"{name}: {more}, the kernel no more")
    return Comparison(compared, differ + (moved if len(moved) > _MOVED else []))


def _is_shuffled(prog: Program) -> bool:
    # By the kernel's own word, not by what is compared here.
    try:
        return bool(int(prog["tainted_mask"]) >> _TAINT_RANDSTRUCT & 1)
    except (FaultError, LookupError):
        return False


def _raw(lines: List[str]) -> List[str]:
    return [line for line in lines if _RAW.match(line)]


def _same(mine: str, theirs: str, hashes: Dict[str, str]) -> bool:
    if mine == theirs:
        return True
    left, right = _POINTER.findall(mine), _POINTER.findall(theirs)
    if len(left) != len(right):
        return False
    for (name, pointer), (other, shown) in zip(left, right):
        if name != other or (pointer != shown and not _is_hash(pointer, shown, hashes)):
            return False
    return _plain(mine) == _plain(theirs)


def _same_frame(prog: Program, mine: str, theirs: str) -> bool:
    # The kernel names code by its last symbol, which may be a label inside a function.
    ours, named = _FRAME.fullmatch(mine), _FRAME.fullmatch(theirs)
    if ours is None or named is None:
        return False
    places = _places(prog, *ours.groups())
    return bool(places) and places & _places(prog, *named.groups()) == places


def _places(prog: Program, name: str, offset: str) -> Set[int]:
    return {symbol.address + int(offset, 16) for symbol in prog.symbols(name)}


def _is_hash(pointer: str, shown: str, hashes: Dict[str, str]) -> bool:
    if not int(pointer, 16):
        return False  # NULL is shown as it is
    hashed = shown == _UNHASHED or shown.startswith("00000000")
    return hashed and hashes.setdefault(pointer, shown) == shown


def _plain(line: str) -> str:
    return _SYMBOL_SIZE.sub(r"\1", _POINTER.sub(r"\1:", line))


def open_dump(folder: Path, core: str) -> Program:
    """Open a dump of the lab, with debug info if there is any."""
    vmlinux = folder / "vmlinux"
    symbols = [str(vmlinux)] if vmlinux.exists() else []
    return open_target(TargetOptions(core=core, symbols=symbols, default_symbols=False))


def main() -> int:
    """Choose pages of a dump, or compare them with the kernel's words; write JSON."""
    command, folder, core = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    prog = open_dump(folder, core)
    if command == "choose":
        json.dump(choose(prog), sys.stdout)
    else:
        words = load(folder / "oracle")
        compared, differ = compare(prog, words)
        json.dump({"pages": compared, "differ": differ}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
