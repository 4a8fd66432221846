# SPDX-License-Identifier: LGPL-2.1-or-later

"""The table of guests: machines and kernel command lines to boot a kernel with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Tuple

from .architectures import ARCHITECTURES, HERE
from .kernels import Kernel
from .named import Named
from .stock import PERSISTENT

__all__ = ("CRASH_BUSY", "GUESTS", "Guest", "fitted", "guests_for", "suits")


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
    possible: int = 0
    """CPUs that could be plugged in, those of the machine among them; 0 for no more."""
    processor: str = ""
    """Added to the name of its CPUs."""
    plugged: Tuple[int, ...] = ()
    """Addresses of 128 MiB each that its kernel plugs in when it boots."""
    cx16: bool = False
    """Whether its CPUs have cmpxchg16b. That of QEMU 7.2 is not atomic where each
    CPU has a thread of its own, so they share one then, and are slow."""
    recent: bool = False
    """Whether it needs a QEMU that is newer than Debian 12's, see :mod:`lab.emulator`."""
    seconds: int = 3
    """How long the load runs before it is stopped and the oracle is asked."""
    busy: bool = False
    """Stopped at random moments while the load runs; there is no oracle then."""
    first: str = ""
    """Program that is started first and becomes the ordinary one: ``storm``, a load that goes
    on and comes to caches the ordinary one leaves alone, runs out of memory, and has slabs
    given back; ``crowd``, which leaves millions of objects; or ``crash``, which loads a
    crash kernel, see :mod:`lab.crash`."""
    modules: Tuple[str, ...] = ()
    """Modules that it loads besides those that all guests load, in this order."""
    patience: int = 1
    """How many times longer than usual to wait for it."""
    measured: bool = False
    """Whether it is there to be measured, and not to be compared."""
    suits: Callable[[Kernel], bool] = lambda kernel: True
    """Whether it says anything about a kernel."""
    architecture: str = HERE
    """Which of its machines is meant."""

    @property
    def crash(self) -> bool:
        """Whether it panics, and its crash kernel writes the dump."""
        return self.first == "crash"

    @property
    def options(self) -> Tuple[str, ...]:
        """Arguments for QEMU."""
        alone = self.cx16 and not self.recent
        arguments = ["-accel", f"tcg,thread={'single' if alone else 'multi'}"]
        if self.architecture == HERE:
            arguments += ["-cpu", ("Nehalem" if self.cx16 else "Nehalem,-cx16") + self.processor]
        arguments += ARCHITECTURES[self.architecture].processor
        slots = f",slots={len(self.plugged)},maxmem=32G" if self.plugged else ""
        arguments += ["-m", f"{self.memory_mib}M{slots}", "-smp", self._cpus]
        for number, address in enumerate(self.plugged):
            arguments += [
                "-object",
                f"memory-backend-ram,id=plugged{number},size=128M",
                "-device",
                f"pc-dimm,id=dimm{number},memdev=plugged{number},addr={address:#x}",
            ]
        if self.nodes > 1:
            for node in range(self.nodes):
                first = node * self.cpus // self.nodes
                last = (node + 1) * self.cpus // self.nodes - 1
                arguments += [
                    "-object",
                    f"memory-backend-ram,id=memory{node},size={self.memory_mib // self.nodes}M",
                    "-numa",
                    # More nodes than CPUs: most of them have memory alone.
                    f"node,nodeid={node},memdev=memory{node}"
                    + (f",cpus={first}-{last}" if first <= last else ""),
                ]
        return tuple(arguments)

    @property
    def _cpus(self) -> str:
        return f"{self.cpus},maxcpus={self.possible}" if self.possible else str(self.cpus)


def _has_slub_debug(kernel: Kernel) -> bool:
    return kernel.allocator == "SLUB" and kernel.slub_debug


_NUMA = Guest(
    "numa",
    "two nodes: alien caches, lists for each node",
    nodes=2,
    memory_mib=384,
    suits=lambda kernel: kernel.numa,
)
_DEBUG = Guest(
    "debug",
    "slub_debug=FZPU: red zones, poison, tracks",
    "slub_debug=FZPU",
    memory_mib=384,
    suits=_has_slub_debug,
)
_KFENCE = Guest(
    "kfence",
    "KFENCE takes an allocation every 5 ms",
    "kfence.sample_interval=5",
    suits=lambda kernel: kernel.kfence,
)
_STORM = Guest(
    "storm",
    "stopped at random moments under a load that comes to every cache",
    cpus=2,
    busy=True,
    first="storm",
)
_CX16 = Guest(
    "cx16",
    "freelist and counters of a slab change at once, by cmpxchg16b",
    "slub_debug=-",
    cx16=True,
    suits=lambda kernel: kernel.allocator == "SLUB",
)

_CRASH = Guest(
    "crash",
    "panics, and a crash kernel writes its memory in all formats",
    "crashkernel=192M unknown_nmi_panic",
    memory_mib=512,
    first="crash",
    suits=lambda kernel: kernel.stock and kernel.kexec,
)


def _is_stock_here(kernel: Kernel) -> bool:
    return kernel.stock and kernel.architecture == HERE


# A busy guest is stopped at random moments, and is else like the one it is named after.
_TABLE = (
    Guest("plain", "4 CPUs, one node"),
    _NUMA,
    _DEBUG,
    _KFENCE,
    Guest("nomerge", "no two caches merged", "slab_nomerge"),
    Guest(
        "large",
        "memory on both sides of the hole below 4 GiB: another zone",
        memory_mib=5120,
    ),
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
    Guest(
        "cma",
        "an area for contiguous memory, lent to movable pages meanwhile",
        "cma=32M",
        suits=lambda kernel: kernel.cma,
    ),
    Guest("busy", "stopped at random moments under load", busy=True),
    replace(_NUMA, name="busy-numa", about="the same on two nodes", busy=True),
    replace(_KFENCE, name="busy-kfence", about="the same with KFENCE", busy=True),
    replace(_DEBUG, name="busy-debug", about="the same with slub_debug=FZPU", busy=True),
    _CX16,
    replace(_CX16, name="busy-cx16", about="stopped at random moments with cmpxchg16b", busy=True),
    Guest(
        "crowd",
        "4 GiB with millions of objects, for measurements",
        memory_mib=4096,
        first="crowd",
        patience=20,
        measured=True,
    ),
    Guest(
        "wide",
        "32 nodes, 72 possible CPUs, addresses of 57 bits",
        memory_mib=1024,
        nodes=32,
        possible=72,
        processor=",+la57",
        suits=_is_stock_here,
    ),
    Guest(
        "holes",
        "memory plugged in, with holes before it",
        "memhp_default_state=online",
        memory_mib=384,
        plugged=(0x1_4000_0000, 0x1_9000_0000, 0x3_0800_0000),
        suits=_is_stock_here,
    ),
    Guest(
        "persistent",
        "persistent memory beside the ordinary: struct pages of a device",
        "memmap=66M!130M",
        memory_mib=384,
        modules=PERSISTENT,
        suits=_is_stock_here,
    ),
    _STORM,
    replace(
        _STORM,
        name="storm-cx16",
        about="the same with cmpxchg16b",
        cx16=True,
        recent=True,
        suits=_CX16.suits,
    ),
    _CRASH,
)

CRASH_BUSY = replace(_CRASH, name="crash-busy", about="panics under load", cpus=2, busy=True)
"""The guest of the trial of crashes, which is in no row of the matrix."""

GUESTS: Named[Guest] = Named("guest", _TABLE)
"""Every guest by name."""


def guests_for(kernel: Kernel) -> Tuple[Guest, ...]:
    """Return the guests that say something about a kernel, as it needs them."""
    return tuple(fitted(guest, kernel) for guest in _TABLE if suits(guest, kernel))


def suits(guest: Guest, kernel: Kernel) -> bool:
    """Return whether a guest says anything about a kernel."""
    some = kernel.machine.guests
    return (not some or guest.name in some) and guest.suits(kernel)


def fitted(guest: Guest, kernel: Kernel) -> Guest:
    """Return a guest with the memory and the parameters that a kernel needs."""
    return replace(
        guest,
        memory_mib=max(guest.memory_mib, kernel.memory_mib),
        parameters=f"{guest.parameters} {kernel.parameters}".strip(),
        architecture=kernel.architecture,
    )
