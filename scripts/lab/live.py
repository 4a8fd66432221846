# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The checker run inside a guest, on the kernel that runs it.

The guest sees the host's root over 9P, read-only, so that it has this Python,
this checkout and the kernel's vmlinux as they are; what it writes goes to one
folder. Its load goes on meanwhile.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple, Sequence, Tuple

from .boot import running
from .errors import GuestError
from .guests import Guest
from .library import KernelFiles

__all__ = ("Answer", "run_inside")

_MEMORY_MIB = 1024  # debug info and an interpreter need more than the load does
# numpy asks for cmpxchg16b, which it does not use. SLAB does not either.
_CPU = ("-cpu", "Nehalem")


class Answer(NamedTuple):
    """What a program inside a guest came to."""

    status: int
    """Its exit status."""
    output: str
    """What it wrote to its standard output."""
    errors: str
    """What it wrote to its standard error."""


def _shares(folder: Path) -> Tuple[str, ...]:
    common = "security_model=none,multidevs=remap"
    return (
        "-virtfs",
        f"local,path=/,mount_tag=host,readonly=on,{common}",
        "-virtfs",
        f"local,path={folder},mount_tag=lab,{common}",
    )


def run_inside(
    kernel: KernelFiles, guest: Guest, arguments: Sequence[str], *, timeout_seconds: float
) -> Answer:
    """
    Run this Python inside a guest.

    :param arguments: For the interpreter, as ``-m drgn_slabtype``.
    :raises GuestError: if the guest fails, or is not done in time.
    """
    if "9P_FS" not in kernel.config:
        raise GuestError(f"{kernel.kernel.name} has no 9P file system built in")
    with tempfile.TemporaryDirectory(prefix="slabtype-live-") as name:
        folder = Path(name)
        paths = [path for path in sys.path if path]
        command = [sys.executable, *arguments]
        script = folder / "run"
        script.write_text(
            "#!/bin/sh\n"
            f"export PYTHONPATH={shlex.quote(os.pathsep.join(paths))} HOME=/ LC_ALL=C.UTF-8\n"
            f"exec {shlex.join(command)} >output 2>errors\n"
        )
        script.chmod(0o755)
        for written in ("output", "errors"):
            (folder / written).touch()
        roomy = dataclasses.replace(
            guest,
            memory_mib=max(guest.memory_mib, _MEMORY_MIB),
            cx16=kernel.kernel.allocator == "SLUB",
        )
        options = [*_shares(folder), *([] if roomy.cx16 else _CPU)]
        with running(kernel, roomy, (f"lab.live={folder}",), options) as machine:
            status = int(machine.wait_for("live", timeout_seconds))
        return Answer(status, (folder / "output").read_text(), (folder / "errors").read_text())
