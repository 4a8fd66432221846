# SPDX-License-Identifier: LGPL-2.1-or-later

"""Kernels on disk: get one by name, built or fetched once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional

from . import build, cache, stock
from .debian import Archive
from .kernels import KERNELS, Built, Kernel, Stock
from .process import say

__all__ = ("KernelFiles", "get", "present")


@dataclass(frozen=True)
class KernelFiles:
    """A kernel that is ready to boot."""

    kernel: Kernel
    """Its row in the table."""
    folder: Path
    """Where its files are."""
    key: str
    """Stands for its contents."""
    release: str
    """What ``uname -r`` says."""
    version: str
    """Version of the package it was made from."""

    @property
    def vmlinux(self) -> Optional[Path]:
        """The kernel with its debug information; ``None`` if there is none to be had."""
        file = self.folder / "vmlinux"
        return file if file.exists() else None

    @property
    def vmlinuz(self) -> Path:
        """The kernel that is booted."""
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> Dict[str, Path]:
        """Modules that a guest may load, by name; empty if all is built in."""
        return {file.stem: file for file in sorted((self.folder / "modules").glob("*.ko"))}

    @property
    def config(self) -> Dict[str, str]:
        """Its configuration, without ``CONFIG_``; empty if Debian has it no more."""
        options: Dict[str, str] = {}
        file = self.folder / "config"
        for line in file.read_text().splitlines() if file.exists() else ():
            name, equals, value = line.partition("=")
            if equals and name.startswith("CONFIG_"):
                options[name[len("CONFIG_") :]] = value.strip('"')
        return options


def _recipe(kernel: Kernel) -> str:
    origin = kernel.origin
    return build.recipe(kernel) if isinstance(origin, Built) else stock.recipe(origin)


def _folder(kernel: Kernel) -> Path:
    return cache.root() / "kernels" / kernel.name


def present(kernel: Kernel) -> Optional[KernelFiles]:
    """Return the kernel if it is in the cache and was made as it would be made now."""
    folder = _folder(kernel)
    try:
        record = json.loads((folder / "kernel.json").read_text())
    except FileNotFoundError:
        return None
    if record["recipe"] != _recipe(kernel):
        return None
    key = record["contents"]
    return KernelFiles(kernel, folder, key, record["release"], record["version"])


def get(kernel: Kernel, archive: Archive, *, refresh: bool = False) -> KernelFiles:
    """
    Return a kernel, making it first if it is not in the cache.

    :param refresh: Make it again if Debian has a newer version.
    :raises LabError: if it cannot be made.
    """
    found = present(kernel)
    if found is not None and not refresh:
        return found
    with cache.lock(f"kernel-{kernel.name}"):
        found = present(kernel)
        if found is not None and (not refresh or not _is_newer(found, archive)):
            return found
        say(f"getting {kernel.name}: {kernel.about}")
        recipe = _recipe(kernel)
        with cache.entry(_folder(kernel)) as folder:
            if isinstance(kernel.origin, Stock):
                record = stock.fetch(kernel, archive, folder)
            else:
                record = build.build(kernel, archive, folder)
            record["contents"] = cache.key(folder / "vmlinuz", sorted(record.items()))
            record["recipe"] = recipe
            (folder / "kernel.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    found = present(kernel)
    assert found is not None
    _drop_idle_tree(found)
    return found


def _drop_idle_tree(made: KernelFiles) -> None:
    # Sources and objects take gigabytes; they stay only while another kernel
    # is likely to be built from them.
    origin = made.kernel.origin
    if not isinstance(origin, Built):
        return
    siblings = [
        kernel
        for kernel in KERNELS.values()
        if isinstance(kernel.origin, Built)
        and kernel.origin.source == origin.source
        # CI never comes to the kernels that it leaves out.
        and (kernel.ci or not made.kernel.ci)
    ]
    if all(present(kernel) for kernel in siblings):
        build.drop_tree(origin.source, made.version)


def _is_newer(found: KernelFiles, archive: Archive) -> bool:
    origin = found.kernel.origin
    archive = archive.of(found.kernel.architecture)
    return archive.newest(origin.package, origin.suites).version != found.version
