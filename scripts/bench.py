# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Time scan and census of a kernel's memory map against what they can be measured by.

A plain read of the memory map is the least that either can cost; a loop over
all pages that calls drgn's own PageSlab() is what a script without this library
does. All are timed on the same target in the same run, in processor time, so that
the ratios mean something on any machine. What is found once per program is not in
them: it is the first census less any other. On a small dump the fixed costs of every
run outweigh the reading: 4 GiB or more tell what a page costs.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Callable, List, Tuple

from drgn import Program
from drgn.helpers.linux.mm import PageSlab, for_each_page

from drgn_slabtype.check import check
from drgn_slabtype.errors import SlabTypeError
from drgn_slabtype.machine import machine
from drgn_slabtype.pages.census import census
from drgn_slabtype.pages.scan import BLOCK_PAGES, page_ranges, scan
from drgn_slabtype.target import TargetOptions, open_target

SCAN_TO_READ = 2.0  # the scan may take this many times as long as the plain read
CENSUS_TO_READ = 2.0  # and so may the census
LOOP_TO_SCAN = 150.0  # and the loop must take this many times as long as the scan


def read_memory_map(prog: Program) -> None:
    """Read every struct page, in the blocks that the scan reads, and drop it."""
    size, vmemmap = machine(prog).page.size, prog["vmemmap"].value_()
    for start, end in page_ranges(machine(prog)):
        for low in range(start, end, BLOCK_PAGES):
            pages = min(BLOCK_PAGES, end - low)
            prog.read(vmemmap + low * size, pages * size)


def page_slab_loop(prog: Program) -> None:
    """Do what scripts do that have only drgn's helpers."""
    for page in for_each_page(prog):
        PageSlab(page)


def timed(function: Callable[[Program], object], prog: Program) -> float:
    """Return the processor time that a call takes, in seconds."""
    start = time.process_time()
    function(prog)
    return time.process_time() - start


def best(functions: List[Callable[[Program], object]], prog: Program, times: int) -> List[float]:
    """Return the shortest time of each; turns alternate, so that noise hits all alike."""
    rounds = [[timed(function, prog) for function in functions] for _ in range(times)]
    return [min(column) for column in zip(*rounds)]


def measure(prog: Program, times: int) -> Tuple[float, float, float]:
    """Print the times and return the three ratios that have targets."""
    first = timed(census, prog)
    pages = scan(machine(prog)).pages
    read, scanned, counted = best([read_memory_map, scan, census], prog, times)
    loop = timed(page_slab_loop, prog)
    for what, seconds in (
        ("plain read of the memory map", read),
        ("scan", scanned),
        ("census", counted),
        ("first census of a program", first),
        ("loop over PageSlab() of drgn", loop),
    ):
        print(f"{what:32}{seconds * 1e3:12.2f} ms{seconds / pages * 1e9:12.1f} ns a page")
    start = time.process_time()
    totals = check(prog).totals
    checked = time.process_time() - start
    each = checked / max(totals.slabs, 1)
    print(f"{'check':32}{checked * 1e3:12.2f} ms{checked / pages * 1e9:12.1f} ns a page")
    print(f"{'':32}{'':12}   {each * 1e6:12.1f} µs a slab")
    print(f"{pages} pages, {totals.slabs} slabs, {totals.caches} caches, {totals.objects} objects")
    return scanned / read, counted / read, loop / scanned


def main() -> int:
    """Return the exit status: 1 if a target is missed, 2 if there is nothing to measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().split("\n\n")[0])
    parser.add_argument("-c", "--core", metavar="CORE", required=True)
    parser.add_argument("-s", "--symbols", metavar="PATH", action="append", default=[])
    parser.add_argument("-n", "--times", type=int, default=25, help="rounds to take the best of")
    options = parser.parse_args()
    try:
        prog = open_target(TargetOptions(core=options.core, symbols=options.symbols))
        to_read, census_to_read, to_scan = measure(prog, options.times)
    except SlabTypeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    missed = 0
    for what, ratio, target, good in (
        ("scan / plain read", to_read, f"at most {SCAN_TO_READ:g}", to_read <= SCAN_TO_READ),
        (
            "census / plain read",
            census_to_read,
            f"at most {CENSUS_TO_READ:g}",
            census_to_read <= CENSUS_TO_READ,
        ),
        ("loop / scan", to_scan, f"at least {LOOP_TO_SCAN:g}", to_scan >= LOOP_TO_SCAN),
    ):
        print(f"{what:32}{ratio:12.2f}    {target}: {'met' if good else 'MISSED'}")
        missed += not good
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
