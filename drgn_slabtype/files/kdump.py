# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Headers of kdump files
----------------------

QEMU's ``dump-guest-memory`` in the format ``kdump-zlib`` fills in the machine of
the ``struct new_utsname`` in the header and nothing else of it. libkdumpfile then
believes none of it, and drgn opens the file only if it is told the platform.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Optional

from drgn import Architecture, Platform

_FLATTENED = b"makedumpfile\0\0\0\0"
_FLATTENED_HEADER = 4096  # bytes before the first piece
_PIECE = struct.Struct(">qq")  # where the piece belongs, and its size
_SIGNATURE = b"KDUMP   "
_NAMES = struct.Struct("<8si65s65s65s65s65s65s")

# As uname -m has them, where they are not drgn's own names.
_ARCHITECTURES = {"i386": "I386", "i686": "I386", "ppc64le": "PPC64"}


def missing_platform(path: str) -> Optional[Platform]:
    """
    Return the platform of a kdump file whose header names a machine and no kernel.

    :return: ``None`` for all other files, whose platform drgn finds by itself.
    """
    try:
        with open(path, "rb") as file:
            header = _header(file)
    except OSError:
        return None
    if len(header) < _NAMES.size:
        return None
    signature, _, system, node, release, version, machine, _ = _NAMES.unpack(header)
    if signature != _SIGNATURE or all(name[0] for name in (system, node, release, version)):
        return None
    name = machine.partition(b"\0")[0].decode("ascii", "replace")
    architecture = getattr(Architecture, _ARCHITECTURES.get(name, name.upper()), None)
    return Platform(architecture) if isinstance(architecture, Architecture) else None


def _header(file: BinaryIO) -> bytes:
    start = file.read(_NAMES.size)
    if not start.startswith(_FLATTENED):
        return start
    # A stream of pieces, of which QEMU writes the header first.
    file.seek(_FLATTENED_HEADER)
    piece = file.read(_PIECE.size)
    if len(piece) < _PIECE.size or _PIECE.unpack(piece)[0] != 0:
        return b""
    return file.read(_NAMES.size)
