# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The table of kernels.

To add one, add an entry here: a :class:`Stock` kernel names its package in
Debian, a :class:`Built` one the source package, config fragments from
``configs/`` and, if the sources are changed, a function of :mod:`lab.rfc`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, Optional, Tuple, Union

from . import rfc
from .edits import SourceTree
from .errors import LabError

__all__ = ("KERNELS", "Built", "Kernel", "Stock", "find")


@dataclass(frozen=True)
class Stock:
    """A kernel as Debian ships it."""

    image: str
    """Pattern for the release in ``linux-image-RELEASE``; the newest match is taken."""
    suites: Tuple[str, ...]
    """Suites to look in, the first that has one wins."""
    symbols: bool = True
    """Whether there is a ``linux-image-RELEASE-dbg``; without, the kernel's BTF has to do."""

    @property
    def package(self) -> str:
        """Pattern for the name of the package that decides about the release."""
        return f"linux-image-({self.image}){'-dbg' if self.symbols else ''}"


@dataclass(frozen=True)
class Built:
    """A kernel built here from Debian's sources."""

    package: str
    """Source package, as ``linux-source-6.1``."""
    suites: Tuple[str, ...]
    """Suites to look in, the first that has it wins."""
    fragments: Tuple[str, ...]
    """Config fragments merged over ``configs/guest.config``, in this order."""
    edit: Optional[Callable[[SourceTree], None]] = None
    """Changes the sources."""


@dataclass(frozen=True)
class Kernel:
    """One row of the table."""

    name: str
    """Name on the command line."""
    about: str
    """What it is there for, in a few words."""
    allocator: str
    """``SLAB`` or ``SLUB``."""
    page_type: str
    """Name of the page type encoding that must be detected."""
    origin: Union[Stock, Built]
    """Where it comes from."""
    special: str = "numa"
    """The guest that tells most about it after the plain one."""
    kfence: bool = True
    """Whether KFENCE is built in."""
    numa: bool = True
    """Whether it can have more than one node."""
    slub_debug: bool = True
    """Whether SLUB is built with CONFIG_SLUB_DEBUG; means nothing for SLAB."""
    ci: bool = True
    """Whether ``matrix --ci`` has the time for it."""
    page_owner: bool = False
    """Whether CONFIG_PAGE_OWNER is."""
    prints: bool = True
    """Whether it prints while all but one CPU stand still, as dump_page() has to."""
    cma: bool = False
    """Whether CONFIG_DMA_CMA is."""

    @property
    def stock(self) -> bool:
        """Whether it comes from Debian as it is."""
        return isinstance(self.origin, Stock)


_6_1 = ("linux-source-6.1", ("bookworm", "bookworm-security"))
_6_12 = ("linux-source-6.12", ("trixie", "bookworm-backports"))
_7 = ("linux-source-7.3", ("trixie-backports", "sid", "forky"))
_5_10 = ("linux-source-5.10", ("bullseye", "bullseye-security"))
_BACKPORTS = ("trixie-backports",)

# In the order in which they tell most when time runs out. Variants of one
# source that share most objects stand next to each other.
_TABLE = (
    Kernel(
        "slab-6.1-rfc3",
        "SLAB, active count in page_type (RFC v3)",
        "SLAB",
        "rfc-v3",
        Built(*_6_1, ("slab",), rfc.rfc_v3),
    ),
    Kernel(
        "slab-6.1-alt2",
        "SLAB, s_mem as an offset beside active (Alternative 2)",
        "SLAB",
        "alternative-2",
        Built(*_6_1, ("slab",), rfc.alternative_2),
        special="kfence",
    ),
    Kernel(
        "debian-7",
        "newest Debian kernel: SLUB with sheaves",
        "SLUB",
        "top-byte",
        Stock(r"7\.\d+\.\d+\S*-cloud-amd64", ("trixie-backports", "sid", "forky")),
        special="busy",
        cma=True,
    ),
    Kernel(
        "slab-6.1",
        "SLAB in struct slab",
        "SLAB",
        "page-flag-5.11",
        Built(*_6_1, ("slab",)),
        special="busy-numa",
    ),
    Kernel(
        "debian-6.12",
        "Debian 13: SLUB, page types in the top byte",
        "SLUB",
        "top-byte",
        Stock(r"6\.12\.\d+\S*-cloud-amd64", ("trixie", "bookworm-backports")),
        special="debug",
    ),
    Kernel(
        "debian-5.10",
        "Debian 11: SLUB in struct page",
        "SLUB",
        "page-flag-5.3",
        Stock(r"5\.10\.0-\d+-cloud-amd64", ("bullseye", "bullseye-security")),
        special="busy",
        kfence=False,
    ),
    Kernel(
        "slab-5.10",
        "SLAB in struct page",
        "SLAB",
        "page-flag-5.3",
        Built(*_5_10, ("slab",)),
        kfence=False,
    ),
    Kernel(
        "slab-6.1-debug",
        "SLAB with CONFIG_DEBUG_SLAB",
        "SLAB",
        "page-flag-5.11",
        Built(*_6_1, ("slab", "debug-slab")),
    ),
    Kernel(
        "slub-6.1-rfc3",
        "SLUB, slab as a page type (RFC v3)",
        "SLUB",
        "rfc-v3",
        Built(*_6_1, ("slub",), rfc.rfc_v3),
        special="kfence",
    ),
    Kernel(
        "slub-6.1-plain",
        "the same, free pointers neither hardened nor randomised",
        "SLUB",
        "rfc-v3",
        Built(*_6_1, ("slub", "plain-freelists"), rfc.rfc_v3),
        special="busy",
    ),
    Kernel(
        "debian-6.1",
        "Debian 12: SLUB in struct slab",
        "SLUB",
        "page-flag-5.11",
        Stock(r"6\.1\.0-\d+-cloud-amd64", ("bookworm", "bookworm-security")),
        special="debug",
        kfence=False,
    ),
    # Debian has no debug symbols of these.
    Kernel(
        "debian-6.19",
        "SLUB with CPU slabs and sheaves",
        "SLUB",
        "top-byte",
        Stock(r"6\.19\.\d+\S*-cloud-amd64", _BACKPORTS, symbols=False),
        special="busy",
    ),
    Kernel(
        "debian-7.0",
        "SLUB with sheaves, barns in the nodes",
        "SLUB",
        "top-byte",
        Stock(r"7\.0\.\d+\S*-cloud-amd64", _BACKPORTS, symbols=False),
        special="busy-numa",
    ),
    Kernel(
        "debian-7.1",
        "SLUB with sheaves, barns beside the nodes",
        "SLUB",
        "top-byte",
        Stock(r"7\.1\.\d+\S*-cloud-amd64", _BACKPORTS, symbols=False),
        special="debug",
    ),
    Kernel(
        "debian-6.18",
        "SLUB with CPU slabs and the first sheaves",
        "SLUB",
        "top-byte",
        Stock(r"6\.18\.\d+\S*-cloud-amd64", _BACKPORTS, symbols=False),
        special="busy",
    ),
    Kernel(
        "debian-6.17",
        "the last SLUB without sheaves",
        "SLUB",
        "top-byte",
        Stock(r"6\.17\.\d+\S*-cloud-amd64", _BACKPORTS, symbols=False),
        special="busy",
    ),
    Kernel(
        "debian-6.16",
        "SLUB before struct slab got flags of its own",
        "SLUB",
        "top-byte",
        Stock(r"6\.16\.\d+\S*-cloud-amd64", _BACKPORTS, symbols=False),
        special="kfence",
    ),
    # Configurations, for the full matrix alone. Each costs a download or a build.
    Kernel(
        "slub-6.12-tiny",
        "SLUB_TINY: no CPU slabs, no SLUB_DEBUG",
        "SLUB",
        "top-byte",
        Built(*_6_12, ("small", "slub-tiny")),
        slub_debug=False,
        ci=False,
    ),
    Kernel(
        "slub-6.1-bare",
        "no SLUB_DEBUG, CPU partial slabs, merging, NUMA, cgroups or huge pages; PREEMPT",
        "SLUB",
        "page-flag-5.11",
        Built(*_6_1, ("small", "slub", "bare", "preempt")),
        kfence=False,
        numa=False,
        slub_debug=False,
        ci=False,
    ),
    Kernel(
        "slub-7-tiny",
        "SLUB_TINY: sheaves without capacity",
        "SLUB",
        "top-byte",
        Built(*_7, ("small", "slub-tiny")),
        slub_debug=False,
        ci=False,
    ),
    Kernel(
        "slub-7-profiled",
        "MEM_ALLOC_PROFILING: a vector for every slab, within it where there is room",
        "SLUB",
        "top-byte",
        Built(*_7, ("small", "slub-profiled")),
        ci=False,
    ),
    Kernel(
        "slub-5.10-debug",
        "SLUB in struct page with SLUB_DEBUG_ON and PREEMPT",
        "SLUB",
        "page-flag-5.3",
        Built(*_5_10, ("slub", "slub-debug-on", "preempt")),
        kfence=False,
        ci=False,
    ),
    Kernel(
        "debian-7-rt",
        "newest Debian kernel with PREEMPT_RT: locks that sleep",
        "SLUB",
        "top-byte",
        Stock(r"7\.\d+\.\d+\S*-rt-amd64", ("trixie-backports", "sid", "forky")),
        ci=False,
    ),
    Kernel(
        "debian-6.1-rt",
        "Debian 12 with PREEMPT_RT: CPU slabs under locks that sleep",
        "SLUB",
        "page-flag-5.11",
        Stock(r"6\.1\.0-\d+-rt-amd64", ("bookworm", "bookworm-security")),
        kfence=False,
        prints=False,
        ci=False,
    ),
    Kernel(
        "slub-6.1-owner",
        "SLUB with CONFIG_PAGE_OWNER",
        "SLUB",
        "page-flag-5.11",
        Built(*_6_1, ("slub", "page-owner")),
        special="owner",
        page_owner=True,
        ci=False,
    ),
)

KERNELS: Dict[str, Kernel] = {kernel.name: kernel for kernel in _TABLE}
"""Every kernel by name, the most telling first."""


def find(name: str) -> Kernel:
    """
    Return the kernel of that name.

    :raises LabError: if there is none.
    """
    try:
        return KERNELS[name]
    except KeyError:
        raise LabError(f"no kernel {name!r}; there are {', '.join(KERNELS)}") from None
