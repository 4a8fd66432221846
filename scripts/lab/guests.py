# SPDX-License-Identifier: LGPL-2.1-or-later

"""The table of guests: machines and kernel command lines to boot a kernel with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Tuple

from .errors import LabError
from .kernels import Kernel

__all__ = ("GUESTS", "Guest", "find", "guests_for")


@dataclass(frozen=True)
class Guest:
    """One way to boot a kernel."""

    name: str
    """Name on the command line."""
    about: str
    """What it is there for, in a few words."""
    parameters: str = ""
    """Added to the kernel's command line."""
    memory_mib: int = 256
    """Memory of the machine."""
    cpus: int = 4
    """CPUs of the machine."""
    nodes: int = 1
    """NUMA nodes, each with the same part of memory and CPUs."""
    seconds: int = 3
    """How long the load runs before it is stopped and the oracle is asked."""
    busy: bool = False
    """Stopped at random moments while the load runs; there is no oracle then."""
    suits: Callable[[Kernel], bool] = lambda kernel: True
    """Whether it says anything about a kernel."""

    @property
    def options(self) -> Tuple[str, ...]:
        """Arguments for QEMU."""
        arguments = ["-m", f"{self.memory_mib}M", "-smp", str(self.cpus)]
        if self.nodes > 1:
            for node in range(self.nodes):
                first = node * self.cpus // self.nodes
                last = (node + 1) * self.cpus // self.nodes - 1
                arguments += [
                    "-object",
                    f"memory-backend-ram,id=memory{node},size={self.memory_mib // self.nodes}M",
                    "-numa",
                    f"node,nodeid={node},memdev=memory{node},cpus={first}-{last}",
                ]
        return tuple(arguments)


_TABLE = (
    Guest("plain", "4 CPUs, one node"),
    Guest("numa", "two nodes: alien caches, lists for each node", nodes=2, memory_mib=384),
    Guest(
        "debug",
        "slub_debug=FZPU: red zones, poison, tracks",
        "slub_debug=FZPU",
        memory_mib=384,
        suits=lambda kernel: kernel.allocator == "SLUB",
    ),
    Guest(
        "kfence",
        "KFENCE takes an allocation every 5 ms",
        "kfence.sample_interval=5",
        suits=lambda kernel: kernel.kfence,
    ),
    Guest("nomerge", "no two caches merged", "slab_nomerge"),
    Guest(
        "guard",
        "debug_pagealloc with guard pages",
        "debug_pagealloc=on debug_guardpage_minorder=1",
        suits=lambda kernel: not kernel.stock,
    ),
    Guest(
        "owner",
        "page_owner=on: who allocated and freed each page",
        "page_owner=on",
        suits=lambda kernel: kernel.page_owner,
    ),
    Guest("busy", "stopped at random moments under load", busy=True),
    Guest("busy-numa", "the same on two nodes", busy=True, nodes=2, memory_mib=384),
)

GUESTS: Dict[str, Guest] = {guest.name: guest for guest in _TABLE}
"""Every guest by name."""


def find(name: str) -> Guest:
    """
    Return the guest of that name.

    :raises LabError: if there is none.
    """
    try:
        return GUESTS[name]
    except KeyError:
        raise LabError(f"no guest {name!r}; there are {', '.join(GUESTS)}") from None


def guests_for(kernel: Kernel) -> Tuple[Guest, ...]:
    """Return the guests that say something about a kernel."""
    return tuple(guest for guest in _TABLE if guest.suits(kernel))
