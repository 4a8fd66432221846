# SPDX-License-Identifier: LGPL-2.1-or-later

"""Kernels as Debian ships them."""

from __future__ import annotations

import lzma
import re
from pathlib import Path
from typing import Dict

from . import cache
from .debian import Archive, unpack
from .errors import LabError
from .kernels import Kernel, Stock
from .process import say

__all__ = ("MODULES", "fetch", "recipe")

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


def recipe(origin: Stock) -> str:
    """Return the key of everything in this repository that a stock kernel depends on."""
    return cache.key(1, origin.image, origin.suites, MODULES)


def fetch(kernel: Kernel, archive: Archive, folder: Path) -> Dict[str, str]:
    """
    Take a kernel from Debian's packages into a folder of the cache.

    :param folder: Gets ``vmlinux``, ``vmlinuz``, ``config`` and ``modules/``.
    :return: What to remember of it: ``release``, ``package``, ``version``.
    :raises LabError: if a package or a file in it is missing.
    """
    origin = kernel.origin
    assert isinstance(origin, Stock)
    symbols = archive.newest(rf"linux-image-{origin.image}-dbg", list(origin.suites))
    release = symbols.name[len("linux-image-") : -len("-dbg")]
    file = archive.download(symbols, folder)
    say(f"unpacking vmlinux of {release}")
    # The same file is also there under other names, as links.
    vmlinux = unpack(file, rf"usr/lib/debug/.*/(?:vmlinux|vmlinux-{re.escape(release)})", folder)[0]
    vmlinux.rename(folder / "vmlinux")
    file.unlink()

    # One package has image, config and modules before 7.x, three afterwards.
    escaped = re.escape(release)
    patterns = {
        rf"boot/vmlinuz-{escaped}|usr/lib/modules/{escaped}/vmlinuz": "vmlinuz",
        rf"boot/config-{escaped}|usr/lib/modules/{escaped}/config": "config",
        rf".*/(?:{'|'.join(MODULES)})\.ko(?:\.xz)?": "",
    }
    suites = [symbols.suite]
    try:
        packages = [archive.newest(rf"linux-(?:binary|base|modules)-{escaped}", suites)]
        packages = [
            archive.newest(rf"linux-{part}-{escaped}", suites)
            for part in ("binary", "base", "modules")
        ]
    except LabError:
        packages = [archive.newest(rf"linux-image-{escaped}", suites)]
    missing = set(patterns)
    for package in packages:
        file = archive.download(package, folder)
        for pattern in sorted(missing):
            target = folder if patterns[pattern] else folder / "modules"
            try:
                found = unpack(file, pattern, target)
            except LabError:
                continue
            missing.discard(pattern)
            if patterns[pattern]:
                found[0].rename(folder / patterns[pattern])
        file.unlink()
    if missing:
        raise LabError(f"the packages of {release} lack {', '.join(sorted(missing))}")
    for module in (folder / "modules").glob("*.ko.xz"):
        module.with_suffix("").write_bytes(lzma.decompress(module.read_bytes()))
        module.unlink()
    return {"release": release, "package": symbols.name, "version": symbols.version}
