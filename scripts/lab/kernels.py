# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The table of kernels.

A row is one call of its family's: :meth:`_Family.stock` for a kernel as Debian
ships it, :meth:`_Family.built` for one built from the same version's sources
with config fragments from ``configs/``. A row says only what its family does
not say: its name, what it is there for, fragments or another flavour, and those
fields of :class:`Kernel` that differ. A new version, or sources changed by a
function of :mod:`lab.rfc`, is a new family.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Mapping, Optional, Tuple, Union

from . import kunit, rfc
from .architectures import ARCHITECTURES, HERE, Architecture
from .edits import SourceTree
from .named import Named

__all__ = ("KERNELS", "Built", "Kernel", "Stock")


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

    source: str
    """Source package, as ``linux-source-6.1``."""
    suites: Tuple[str, ...]
    """Suites to look in, the first that has it wins."""
    fragments: Tuple[str, ...]
    """Config fragments merged over ``configs/guest.config``, in this order."""
    edit: Optional[Callable[[SourceTree], None]] = None
    """Changes the sources."""
    breaker: bool = False
    """Whether the module that breaks things, and the kernel's own such modules, are built."""

    @property
    def package(self) -> str:
        """Pattern for the name of the package with the sources."""
        return re.escape(self.source)


@dataclass(frozen=True)
class Kernel:
    """One row of the table."""

    name: str
    """Name on the command line."""
    about: str
    """What it is there for, in a few words."""
    page_type: str
    """Name of the page type encoding that must be detected."""
    origin: Union[Stock, Built]
    """Where it comes from."""
    architecture: str = HERE
    """Debian's word for it: a name in :data:`lab.architectures.ARCHITECTURES`."""
    allocator: str = "SLUB"
    """``SLAB`` or ``SLUB``."""
    special: str = "numa"
    """The guest that tells most about it after the plain one; empty for none in CI."""
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
    kexec: bool = False
    """Whether it can load a crash kernel, and both have a disk without modules."""
    memory_mib: int = 0
    """Memory that it needs, whatever the guest would have."""
    parameters: str = ""
    """Added to the command line of all its guests."""
    patience: int = 1
    """How many times longer than usual to wait for it."""
    board: Tuple[str, ...] = ()
    """Options of the emulator that all its guests have."""
    recent: bool = False
    """Whether it takes an emulator newer than the installed one."""
    tools: Tuple[str, ...] = ()
    """Debian packages that building it needs besides those that all need."""

    @property
    def stock(self) -> bool:
        """Whether it comes from Debian as it is."""
        return isinstance(self.origin, Stock)

    @property
    def machine(self) -> Architecture:
        """What its guests are run and compiled with."""
        return ARCHITECTURES[self.architecture]

    @property
    def broken(self) -> bool:
        """Whether it is there to be broken on purpose; no guest of the matrix boots it."""
        return isinstance(self.origin, Built) and self.origin.breaker


# What a config fragment settles about a kernel.
_SETTLED: Mapping[str, Mapping[str, Any]] = {
    "bare": {"kfence": False, "numa": False, "slub_debug": False},
    # kmemleak looks for leaks all the time, and allocates as it does.
    "kasan": {"memory_mib": 512, "patience": 5, "parameters": "kmemleak=off"},
    # MTE, and an emulator that has it right.
    "kasan-hw-tags": {"board": ("-M", "mte=on"), "recent": True},
    "page-owner": {"page_owner": True},
    "shuffled": {"tools": ("gcc-12-plugin-dev",), "patience": 3},
    "slab": {"allocator": "SLAB"},
    "slub-tiny": {"slub_debug": False},
}


@dataclass(frozen=True)
class _Family:
    """Kernels of one version: what they have in common."""

    version: str
    """The version, as in ``linux-source-6.1``."""
    suites: Tuple[str, ...]
    """Suites that have it, the one to take first."""
    page_type: str
    """Name of the page type encoding."""
    releases: str = ""
    """Pattern for Debian's releases, without the flavour, if it is not ``VERSION.N…``."""
    symbols: bool = True
    """Whether Debian has debug symbols of them."""
    kfence: bool = True
    """Whether they have KFENCE."""
    edit: Optional[Callable[[SourceTree], None]] = None
    """Changes the sources."""

    def stock(
        self, name: str, about: str, *, flavour: str = "cloud-amd64", **differs: Any
    ) -> Kernel:
        """
        Return the row of a kernel as Debian ships it.

        :param flavour: Debian's word for the end of a release: config and architecture.
        :param differs: Fields of :class:`Kernel` that are not as the family has them.
        """
        releases = self.releases or rf"{re.escape(self.version)}\.\d+\S*"
        origin = Stock(f"{releases}-{flavour}", self.suites, self.symbols)
        return self._row(name, about, origin, differs)

    def built(self, name: str, about: str, fragments: str, **differs: Any) -> Kernel:
        """
        Return the row of a kernel built here.

        :param fragments: Config fragments by name, in one string; what they settle need
            not be said again.
        :param differs: Fields of :class:`Kernel` that are not as the family has them.
        """
        names = tuple(fragments.split())
        source = f"linux-source-{self.version}"
        origin = Built(source, self.suites, names, self.edit, "breaking" in names)
        settled: Dict[str, Any] = {}
        for fragment in names:
            settled.update(_SETTLED.get(fragment, {}))
        return self._row(name, about, origin, {**settled, **differs})

    def _row(
        self, name: str, about: str, origin: Union[Stock, Built], differs: Mapping[str, Any]
    ) -> Kernel:
        fields = {"kfence": self.kfence, **differs}
        return Kernel(name, about, self.page_type, origin, **fields)


_5_10 = _Family(
    "5.10",
    ("bullseye", "bullseye-security"),
    "page-flag-5.3",
    releases=r"5\.10\.0-\d+",
    kfence=False,
)
_6_1 = _Family("6.1", ("bookworm", "bookworm-security"), "page-flag-5.11", releases=r"6\.1\.0-\d+")
_DEBIAN_6_1 = replace(_6_1, kfence=False)
_RFC_3 = replace(_6_1, page_type="rfc-v3", edit=rfc.rfc_v3)
_ALT_2 = replace(_6_1, page_type="alternative-2", edit=rfc.alternative_2)
_6_12 = _Family("6.12", ("trixie", "bookworm-backports"), "top-byte")
_TOLD_6_12 = replace(_6_12, edit=kunit.print_errors)
_7 = _Family("7.3", ("trixie-backports", "sid", "forky"), "top-byte", releases=r"7\.\d+\.\d+\S*")

_7_2 = replace(_7, version="7.2", releases=r"7\.2\.\d+\S*")


def _passed(version: str, about: str, **differs: Any) -> Kernel:
    # "debian-VERSION", of a version that Debian has moved on from: no debug symbols.
    family = _Family(version, ("trixie-backports",), "top-byte", symbols=False)
    return family.stock(f"debian-{version}", about, **differs)


def _foreign(family: _Family, architecture: str, about: str, **differs: Any) -> Kernel:
    # "debian-VERSION-ARCHITECTURE", of a kernel of another architecture.
    name = f"debian-{family.version.replace('7.3', '7')}-{differs.pop('suffix', architecture)}"
    flavour = differs.pop("flavour", architecture)
    # A CPU is a thread of an emulator, and dump_page() is called with registers of x86-64.
    settled = {"architecture": architecture, "patience": 3, "prints": False, "numa": False}
    return family.stock(name, about, flavour=flavour, **{**settled, **differs})


# In the order in which they tell most when time runs out. Variants of one
# source that share most objects stand next to each other.
_CI = (
    _RFC_3.built("slab-6.1-rfc3", "SLAB, active count in page_type (RFC v3)", "slab"),
    _ALT_2.built(
        "slab-6.1-alt2",
        "SLAB, s_mem as an offset beside active (Alternative 2)",
        "slab",
        special="kfence",
    ),
    _7.stock(
        "debian-7", "newest Debian kernel: SLUB with sheaves", special="busy", cma=True, kexec=True
    ),
    _6_1.built("slab-6.1", "SLAB in struct slab", "slab", special="busy-numa"),
    _6_12.stock(
        "debian-6.12", "Debian 13: SLUB, page types in the top byte", special="debug", kexec=True
    ),
    _5_10.stock("debian-5.10", "Debian 11: SLUB in struct page", special="busy", kexec=True),
    _5_10.built("slab-5.10", "SLAB in struct page", "slab"),
    _6_1.built("slab-6.1-debug", "SLAB with CONFIG_DEBUG_SLAB", "slab debug-slab"),
    _RFC_3.built("slub-6.1-rfc3", "SLUB, slab as a page type (RFC v3)", "slub", special="kfence"),
    _RFC_3.built(
        "slub-6.1-plain",
        "the same, free pointers neither hardened nor randomised",
        "slub plain-freelists",
        special="busy",
    ),
    _DEBIAN_6_1.stock("debian-6.1", "Debian 12: SLUB in struct slab", special="debug", kexec=True),
    _passed("6.19", "SLUB with CPU slabs and sheaves", special="busy"),
    _passed("7.0", "SLUB with sheaves, barns in the nodes", special="busy-numa"),
    _passed("7.1", "SLUB with sheaves, barns beside the nodes", special="debug"),
    _passed("6.18", "SLUB with CPU slabs and the first sheaves", special="busy"),
    _passed("6.17", "the last SLUB without sheaves", special="busy"),
    _passed("6.16", "SLUB before struct slab got flags of its own", special="kfence"),
    _foreign(
        _6_12,
        "arm64",
        "arm64: addresses of 52 bits",
        flavour="cloud-arm64",
        special="",
        numa=True,
    ),
)


_BUILT_ARM64 = {"architecture": "arm64", "prints": False, "numa": False, "patience": 3}

# Other architectures, for the full matrix alone.
_FOREIGN = (
    _6_12.built(
        "slub-6.12-arm64-hwtags",
        "arm64: KASAN by MTE, tags in pointers and memory",
        "small slub kasan-hw-tags",
        special="busy",
        **_BUILT_ARM64,
    ),
    _6_12.built(
        "slub-6.12-arm64-swtags",
        "arm64: KASAN by software, tags in pointers",
        "small slub kasan-sw-tags",
        special="busy",
        **{**_BUILT_ARM64, "patience": 5, "memory_mib": 512},
    ),
    _foreign(_DEBIAN_6_1, "arm64", "arm64: addresses of 48 bits", flavour="cloud-arm64", numa=True),
    _foreign(_7, "arm64", "arm64: SLUB with sheaves", flavour="cloud-arm64", numa=True),
    _foreign(
        _6_12,
        "arm64",
        "arm64: pages of 16 KiB",
        flavour="arm64-16k",
        suffix="arm64-16k",
        memory_mib=512,
    ),
    _foreign(_6_12, "s390x", "s390x: big-endian"),
    _foreign(_7, "s390x", "s390x: big-endian, SLUB with sheaves"),
    _foreign(_DEBIAN_6_1, "s390x", "s390x: big-endian, SLUB in struct slab"),
    _foreign(_6_12, "riscv64", "riscv64: the memory map below the direct map"),
    _foreign(
        _6_12,
        "ppc64el",
        "ppc64el: pages of 64 KiB",
        flavour="powerpc64le-64k",
        suffix="ppc64el-64k",
        memory_mib=512,
    ),
)

# Configurations, for the full matrix alone. Each costs a download or a build.
_FULL = (
    _6_12.built("slub-6.12-tiny", "SLUB_TINY: no CPU slabs, no SLUB_DEBUG", "small slub-tiny"),
    _6_12.built(
        "slub-6.12-kasan",
        "KASAN, lockdep, kmemleak, profiling: all that can lie behind an object",
        "small slub page-owner kasan",
        special="debug",
    ),
    _6_12.built(
        "slub-6.12-shuffled",
        "RANDSTRUCT: members of structures in random order; KCSAN",
        "small slub shuffled",
        special="busy",
    ),
    _6_1.built(
        "slub-6.1-bare",
        "no SLUB_DEBUG, CPU partial slabs, merging, NUMA, cgroups or huge pages; PREEMPT",
        "small slub bare preempt",
    ),
    _7.built("slub-7-tiny", "SLUB_TINY: sheaves without capacity", "small slub-tiny"),
    _7.built(
        "slub-7-profiled",
        "MEM_ALLOC_PROFILING: a vector for every slab, within it where there is room",
        "small slub-profiled",
    ),
    _5_10.built(
        "slub-5.10-debug",
        "SLUB in struct page with SLUB_DEBUG_ON and PREEMPT",
        "slub slub-debug-on preempt",
    ),
    _7.built(
        "slub-7-hardened",
        "kmalloc's caches partitioned, none merged; all wiped, poisoned, tracked and unmapped",
        "small hardened",
        special="busy",
    ),
    _7_2.stock("debian-7.2", "SLUB with sheaves, before the newest", special="busy"),
    _7.stock(
        "debian-7-rt", "newest Debian kernel with PREEMPT_RT: locks that sleep", flavour="rt-amd64"
    ),
    _DEBIAN_6_1.stock(
        "debian-6.1-rt",
        "Debian 12 with PREEMPT_RT: CPU slabs under locks that sleep",
        flavour="rt-amd64",
        prints=False,
    ),
    _6_12.stock(
        "debian-6.12-rt",
        "Debian 13 with PREEMPT_RT, as it came into the kernel",
        flavour="rt-amd64",
        special="busy",
        prints=False,
    ),
    _5_10.stock(
        "debian-5.10-rt",
        "Debian 11 with PREEMPT_RT patched in: SLUB under raw spinlocks",
        flavour="rt-amd64",
        special="busy",
        prints=False,
    ),
    _TOLD_6_12.built(
        "slub-6.12-breaking",
        "SLUB that is broken on purpose: KUnit, LKDTM and a module of ours",
        "slub plain-freelists breaking slub-kunit",
        special="debug",
    ),
    _RFC_3.built(
        "slab-6.1-rfc3-breaking",
        "the same for SLAB (RFC v3)",
        "slab breaking",
    ),
    _6_1.built("slub-6.1-owner", "SLUB with CONFIG_PAGE_OWNER", "slub page-owner", special="owner"),
)

KERNELS: Named[Kernel] = Named(
    "kernel", (*_CI, *(replace(row, ci=False) for row in (*_FULL, *_FOREIGN)))
)
"""Every kernel by name, the most telling first."""
