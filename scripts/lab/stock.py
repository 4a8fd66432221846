# SPDX-License-Identifier: LGPL-2.1-or-later

"""Kernels as Debian ships them."""

from __future__ import annotations

import lzma
import re
from pathlib import Path
from typing import Dict, Set

from . import cache
from .debian import Archive, Package, unpack
from .errors import LabError
from .kernels import Kernel, Stock
from .process import say

__all__ = ("MODULES", "PERSISTENT", "fetch", "recipe")

MODULES = (
    "qemu_fw_cfg",
    "virtio",
    "virtio_ring",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_balloon",
)
"""Modules that a guest loads where they are not built in, in this order."""

PERSISTENT = ("libnvdimm", "nd_btt", "nd_pmem", "nd_e820")
"""Those that a guest with persistent memory loads besides."""

_TRIES = 3


def recipe(origin: Stock) -> str:
    """Return the key of everything in this repository that a stock kernel depends on."""
    without = () if origin.symbols else ("without symbols",)
    return cache.key(1, origin.image, origin.suites, MODULES, PERSISTENT, *without)


def fetch(kernel: Kernel, archive: Archive, folder: Path) -> Dict[str, str]:
    """
    Take a kernel from Debian's packages into a folder of the cache.

    :param folder: Gets ``vmlinuz``, ``config`` and ``modules/``, and ``vmlinux`` if
        there are debug symbols. Without those, of a release that Debian has
        moved on from, there may be nothing but ``vmlinuz``.
    :return: What to remember of it: ``release``, ``package``, ``version``.
    :raises LabError: if a package or a file in it is missing.
    """
    origin = kernel.origin
    assert isinstance(origin, Stock)
    archive = archive.of(kernel.architecture)
    why = ""
    for chosen in archive.every(origin.package, origin.suites)[:_TRIES]:
        matched = re.fullmatch(origin.package, chosen.name)
        assert matched is not None
        try:
            _unpack(origin, matched[1], chosen, archive, folder)
        except LabError as error:
            # A mirror may be without files of the newest release yet.
            say(f"{chosen.name}: {error}")
            why = why or str(error)
            continue
        return {"release": matched[1], "package": chosen.name, "version": chosen.version}
    raise LabError(why)


def _unpack(origin: Stock, release: str, chosen: Package, archive: Archive, folder: Path) -> None:
    if origin.symbols:
        file = archive.download(chosen, folder)
        say(f"unpacking vmlinux of {release}")
        # The same file is also there under other names, as links.
        wanted = rf"usr/lib/debug/.*/(?:vmlinux|vmlinux-{re.escape(release)})"
        unpack(file, wanted, folder)[0].rename(folder / "vmlinux")
        file.unlink()
    missing = _unpack_image(release, chosen.suite, archive, folder)
    if missing if origin.symbols else "vmlinuz" in missing:
        raise LabError(f"the packages of {release} lack {', '.join(sorted(missing))}")


def _unpack_image(release: str, suite: str, archive: Archive, folder: Path) -> Set[str]:
    # One package has image, config and modules before 6.19, several afterwards.
    # Returns what none of them has.
    escaped = re.escape(release)
    patterns = {
        "vmlinuz": rf"boot/vmlinu[xz]-{escaped}|usr/lib/modules/{escaped}/vmlinuz",
        "config": rf"boot/config-{escaped}|usr/lib/modules/{escaped}/config",
        "modules": rf".*/(?:{'|'.join((*MODULES, *PERSISTENT))})\.ko(?:\.xz)?",
    }
    missing = set(patterns)
    for part in ("binary", "base", "modules", "image"):
        if not missing:
            break
        try:
            package = archive.newest(rf"linux-{part}-{escaped}", [suite])
        except LabError:
            continue
        file = archive.download(package, folder)
        for name in sorted(missing):
            target = folder / name if name == "modules" else folder
            try:
                found = unpack(file, patterns[name], target)
            except LabError:
                continue
            missing.discard(name)
            if name != "modules":
                found[0].rename(folder / name)
        file.unlink()
    for module in (folder / "modules").glob("*.ko.xz"):
        module.with_suffix("").write_bytes(lzma.decompress(module.read_bytes()))
        module.unlink()
    return missing
