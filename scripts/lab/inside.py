# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Checks inside guests, of the kernel that runs them, while the storm goes on.

The guest gets this Python, what the checker imports and the kernel's vmlinux
as a part of its initramfs, so that it needs no file system but that: kernels as
distributions build them have none that leads to the host. Where a kernel
describes itself by BTF, vmlinux stays outside.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator, List, Sequence, Set

from .boot import initial, running
from .errors import GuestError
from .guests import GUESTS
from .initramfs import member
from .journal import Journal
from .library import KernelFiles
from .process import say
from .soak import wrong

__all__ = ("KERNELS", "run")

KERNELS = ("slab-6.1-rfc3", "debian-6.12", "debian-7")
"""As for the soak."""

_MEMORY_MIB = 1536
_LINE_SECONDS = 1200
_PACKAGES = ("drgn", "_drgn*", "drgn.libs", "numpy", "numpy.libs", "tabulate*", "tqdm", "wcwidth")
_NOT = re.compile(
    r"/(test|tests|idlelib|tkinter|ensurepip|lib2to3|site-packages|turtledemo|config-[^/]*"
    r"|f2py|distutils|pydoc_data|include)(/|$)"
)
_ROOT = Path(__file__).resolve().parent.parent.parent


def run(
    kernels: Sequence[KernelFiles], journal: Journal, checks: int, *, budget_seconds: float
) -> None:
    """
    Check each kernel so many times inside a guest of its own, or until time is up.

    :param journal: Gets a record for each check; what it has is not done again.
    """
    end = time.monotonic() + budget_seconds
    for files in kernels:
        left = checks - journal.count(kernel=files.kernel.name)
        if left > 0 and time.monotonic() < end:
            try:
                for record in _inside(files, left, end):
                    journal.add({"kernel": files.kernel.name, **record})
                    if wrong(record):
                        say(f"{files.kernel.name}: {record['findings'] or record['error']}")
            except GuestError as error:
                say(f"{files.kernel.name}: {error}")


def _inside(files: KernelFiles, checks: int, end: float) -> Iterator[Any]:
    guest = dataclasses.replace(GUESTS["storm-cx16"], name="inside", memory_mib=_MEMORY_MIB, cpus=2)
    symbols = [] if "DEBUG_INFO_BTF" in files.config else ["-s", str(files.vmlinux)]
    with tempfile.TemporaryDirectory(prefix="slabtype-inside-") as name:
        image = Path(name) / "image"
        with image.open("wb") as stream:
            stream.write(initial(files, first="storm").read_bytes())
            stream.write(bytes(-stream.tell() % 512))
            extra = [files.vmlinux] if symbols and files.vmlinux else []
            # Beside the storm's many tasks, one that is nice gets no time.
            for part in _archive(["-k", "--no-nice", *symbols], checks, extra):
                stream.write(part)
        with running(files, guest, image=image) as machine:
            for _ in range(checks):
                if time.monotonic() > end:
                    return
                yield json.loads(machine.wait_for("inside", _LINE_SECONDS))


def _archive(target: Sequence[str], checks: int, extra: Sequence[Path]) -> Iterator[bytes]:
    python = Path(sys.executable)
    real = python.resolve()
    arguments = [str(real), "-m", "lab.calls", str(checks), *target]
    packages = Path(sysconfig.get_path("purelib"))
    places = [str(_ROOT / "scripts"), str(_ROOT), str(packages)]
    environment = [
        f"PYTHONPATH={os.pathsep.join(places)}",
        f"PYTHONHOME={sys.base_prefix}",
        "HOME=/",
        "LC_ALL=C.UTF-8",
        "PYTHONUNBUFFERED=1",
        "OPENBLAS_NUM_THREADS=1",
    ]
    made: Set[str] = set()
    files = dict.fromkeys([real, *extra, *_imported(packages)])
    libraries = _libraries([file for file in files if _is_code(file)])
    for file, data in (
        *((file, None) for file in (*files, *libraries)),
        (Path("/inside/arguments"), "\n".join(arguments) + "\n"),
        (Path("/inside/environment"), "\n".join(environment) + "\n"),
    ):
        for folder in reversed(file.parents[:-1]):
            if str(folder) not in made:
                made.add(str(folder))
                yield member(str(folder)[1:], 0o040755)
        yield member(str(file)[1:], 0o100755, file.read_bytes() if data is None else data.encode())
    yield member("TRAILER!!!", 0)


def _imported(packages: Path) -> Iterator[Path]:
    library = Path(sysconfig.get_path("stdlib"))
    folders = [library, _ROOT / "drgn_slabtype", _ROOT / "scripts" / "lab"]
    for pattern in _PACKAGES:
        folders += packages.glob(pattern)
    for top in folders:
        for file in [top] if top.is_file() else sorted(top.rglob("*")):
            inner = str(file)[len(str(top)) :]
            if file.is_file() and not _NOT.search(inner):
                yield file


def _is_code(file: Path) -> bool:
    return ".so" in file.name or file == Path(sys.executable).resolve()


def _libraries(files: Sequence[Path]) -> List[Path]:
    # What they are linked with, under the names by which it is looked for.
    found: Set[Path] = set()
    for start in range(0, len(files), 64):
        listed = subprocess.run(
            ["ldd", *map(str, files[start : start + 64])],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        found |= {Path(path) for path in re.findall(r"(?:=> |^\t)(/\S+) \(", listed, re.M)}
    known = {file.resolve() for file in files}
    return sorted(path for path in found if path.resolve() not in known or path not in files)
