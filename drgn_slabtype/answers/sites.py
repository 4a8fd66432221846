# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Memory by the line of source that allocates it
----------------------------------------------

With CONFIG_MEM_ALLOC_PROFILING (Linux 6.10) every call site counts what it has
allocated and not freed, as ``/proc/allocinfo`` shows; pages too, not just slabs.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional

import numpy as np
from drgn import FaultError, Program
from drgn.helpers.common.format import escape_ascii_string

from ..errors import TargetError
from ..machine import Machine, machine
from ..machine.percpu import per_cpu_addresses
from ..records import Rows, line
from ..shapes import Bytes

_MOST_SITES = 1 << 20


class Site(NamedTuple):
    """A call site."""

    bytes: Bytes
    """Allocated there and not freed."""
    calls: int
    """Allocations that make it up."""
    function: str
    """The function."""
    file: str
    """Its source file."""
    line: int
    """The line in it."""
    module: Optional[str]
    """Name of the module; ``None`` for the kernel itself."""

    def __repr__(self) -> str:
        return line(self)


def allocation_sites(prog: Program) -> List[Site]:
    """
    Return what each call site of the kernel has allocated and not freed, most bytes first.

    Those of modules are not told. A site that holds nothing is left out.

    >>> try:
    ...     for site in allocation_sites(prog)[:10]:
    ...         print(site.bytes, site.file, site.line)
    ... except TargetError as error:
    ...     print(error)
    this kernel has no memory allocation profiling

    :raises TargetError: if the kernel does not count that.
    """
    kernel = machine(prog)
    try:
        # include/linux/alloc_tag.h: an array in a section of its own.
        tag = kernel.structure("struct alloc_tag")
        counters = kernel.structure("struct alloc_tag_counters")
        start, end = (prog.symbol(f"__{name}_alloc_tags").address for name in ("start", "stop"))
    except (LookupError, TypeError):  # not there, or named and nothing more
        raise TargetError("this kernel has no memory allocation profiling") from None
    count = min((end - start) // tag.size, _MOST_SITES)
    rows = kernel.rows(
        "struct alloc_tag", np.uint64(start) + np.arange(count, dtype=np.uint64) * tag.size
    )
    copies = per_cpu_addresses(kernel, rows["counters"])
    found = kernel.rows("struct alloc_tag_counters", copies.reshape(-1))
    totals = {
        name: found[name].reshape(copies.shape).sum(axis=1).view(np.int64)
        for name in ("bytes", "calls")
        if counters.has(name)
    }
    sites = []
    for at in np.flatnonzero((totals["bytes"] != 0) | (totals["calls"] != 0)).tolist():
        function, file, module = (
            _text(kernel, int(rows[f"ct.{name}"][at]))
            for name in ("function", "filename", "modname")
        )
        size, calls = (int(totals[name][at]) for name in ("bytes", "calls"))
        line = int(rows["ct.lineno"][at])
        sites.append(Site(size, calls, function or "?", file or "?", line, module))
    return Rows(sorted(sites, key=lambda site: -site.bytes))


def _text(kernel: Machine, address: int) -> Optional[str]:
    if not address:
        return None
    try:
        text = kernel.prog.read_c_string(address, max_size=256)
    except FaultError:
        return None
    return escape_ascii_string(text, escape_backslash=True)
