# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The kernel's own numbers of the dumped moment.

The guest reads them into locked memory as its last act (``guest/oracle.c``), so
they are taken out of the dump itself. Saved, an oracle is a folder:

- ``slabinfo``, ``vmstat``, ``zoneinfo``, ``buddyinfo``, …: as in ``/proc``;
- ``kpageflags``, ``kpagecount``: 64-bit words, little-endian whatever the guest
  is, one for each page frame from 0 up;
- ``slab.json``: ``/sys/kernel/slab`` (SLUB): for each name its attributes as
  text, or under ``"alias_of"`` the directory that the name is a link to;
- ``oracle.json``: how it was taken.
"""

from __future__ import annotations

import array
import json
import re
import struct
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple

from .elfcore import Core
from .errors import GuestError

__all__ = ("KPF", "CacheNumbers", "Oracle", "read_guest", "save")

_HEADER = "16sQQQQQ"
_MAGIC = b"SLABTYPE-ORACLE1"
_WORDS = ("proc/kpageflags", "proc/kpagecount")

KPF = {
    "SLAB": 7,
    "BUDDY": 10,
    "COMPOUND_HEAD": 15,
    "COMPOUND_TAIL": 16,
    "NOPAGE": 20,
    "OFFLINE": 23,
    "PGTABLE": 26,
}
"""Bits of ``/proc/kpageflags`` that pages are compared with."""


class CacheNumbers(NamedTuple):
    """One line of ``/proc/slabinfo``."""

    active_objects: int
    """Objects in use, as far as the kernel knows."""
    num_objects: int
    """Objects in all slabs."""
    object_size: int
    """Bytes from one object to the next."""
    objects_per_slab: int
    """Objects in a slab of the usual order."""
    pages_per_slab: int
    """Pages of a slab of the usual order."""
    limit: int
    """SLAB: the most objects in a CPU's array."""
    batchcount: int
    """SLAB: objects moved at once."""
    shared: int
    """SLAB: factor for the shared array."""
    active_slabs: int
    """Slabs with objects in use."""
    num_slabs: int
    """All slabs."""
    shared_available: int
    """SLAB: objects in the shared arrays."""


_SLABINFO_LINE = re.compile(
    r"^(\S+) +(\d+) +(\d+) +(\d+) +(\d+) +(\d+) : tunables +(\d+) +(\d+) +(\d+)"
    r" : slabdata +(\d+) +(\d+) +(\d+)",
    re.MULTILINE,
)


def read_guest(core: Core, line: str, order: str) -> Dict[str, bytes]:
    """
    Take the oracle out of a dump.

    :param line: What the guest said: ``pfn=N bytes=N tries=N changed=NAME``, *bytes* being
        those of a page.
    :param order: Byte order of the guest, which the core's headers need not be in.
    :return: Contents by file name.
    :raises GuestError: if it is damaged.
    """
    match = re.match(r"pfn=(\d+) bytes=(\d+)", line)
    if match is None:
        raise GuestError(f"the guest said {line!r}")
    at, step = int(match.group(1)), int(match.group(2))
    page = core.read(at * step, step)
    header = struct.Struct(order + _HEADER)
    magic, length, total, tries, num_pages, num_lists = header.unpack_from(page)
    if magic != _MAGIC:
        raise GuestError("there is no oracle where the guest said")
    lists = _words(page[header.size : header.size + num_lists * 8], order)
    pfns: List[int] = []
    for pfn in lists:
        pfns.extend(_words(core.read(pfn * step, step), order))
    data = b"".join(core.read(pfn * step, step) for pfn in pfns[:num_pages])
    if sum(_words(data, order)) & 0xFFFFFFFFFFFFFFFF != total:
        raise GuestError("the oracle in the dump is damaged: its sum differs")
    if "changed=-" not in line:
        raise GuestError(f"the kernel's numbers did not come to rest: {line}")
    files = {"": json.dumps({"tries": tries}).encode()}
    position = 0
    while position < length:
        end = data.index(b"\n", position)
        name, size = data[position:end].decode().rsplit(" ", 1)
        files[name] = data[end + 1 : end + 1 + int(size)]
        position = end + 1 + int(size)
    for name in _WORDS:
        if name in files:
            files[name] = _little(_words(files[name], order))
    return files


def _words(data: bytes, order: str) -> array.array[int]:
    # 64-bit words of a guest's memory.
    words = array.array("Q", data)
    if (order == "<") != (sys.byteorder == "little"):
        words.byteswap()
    return words


def _little(words: array.array[int]) -> bytes:
    if sys.byteorder != "little":
        words.byteswap()
    return words.tobytes()


def save(files: Dict[str, bytes], folder: Path) -> None:
    """Write an oracle's files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    caches: Dict[str, Dict[str, str]] = {}
    for name, data in files.items():
        if name == "":
            (folder / "oracle.json").write_bytes(data + b"\n")
        elif match := re.fullmatch(r"sys/kernel/slab/([^/]+)", name):
            caches[match.group(1)] = {"alias_of": data.decode().rsplit("/", 1)[-1]}
        elif match := re.fullmatch(r"sys/kernel/slab/([^/]+)/([^/]+)", name):
            caches.setdefault(match.group(1), {})[match.group(2)] = data.decode().rstrip("\n")
        else:
            (folder / name.rsplit("/", 1)[-1]).write_bytes(data)
    if caches:
        (folder / "slab.json").write_text(json.dumps(caches, indent=1, sort_keys=True) + "\n")


class Oracle:
    """A saved oracle."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __bool__(self) -> bool:
        return (self._folder / "oracle.json").exists()

    def _words(self, name: str) -> array.array[int]:
        return array.array("Q", (self._folder / name).read_bytes())

    @property
    def kpageflags(self) -> array.array[int]:
        """``KPF_*`` bits of each page frame."""
        return self._words("kpageflags")

    @property
    def kpagecount(self) -> array.array[int]:
        """Map count of each page frame."""
        return self._words("kpagecount")

    @property
    def slabinfo(self) -> Dict[str, CacheNumbers]:
        """``/proc/slabinfo``, by cache; empty with SLUB but without CONFIG_SLUB_DEBUG."""
        file = self._folder / "slabinfo"
        text = file.read_text() if file.exists() else ""
        return {
            match.group(1): CacheNumbers(*(int(number) for number in match.groups()[1:]))
            for match in _SLABINFO_LINE.finditer(text)
        }

    @property
    def vmstat(self) -> Dict[str, int]:
        """``/proc/vmstat``."""
        lines = (self._folder / "vmstat").read_text().splitlines()
        return {name: int(value) for name, value in (line.split() for line in lines)}

    @property
    def sysfs(self) -> Dict[str, Dict[str, str]]:
        """``/sys/kernel/slab``, by name; empty with SLAB and with CONFIG_SLUB_TINY."""
        file = self._folder / "slab.json"
        if not file.exists():
            return {}
        caches: Dict[str, Dict[str, str]] = json.loads(file.read_text())
        return caches
