# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every page of the lab's dumps against the kernel's own words for it.

Run on the dumps that the lab has in its cache; ``DRGN_SLABTYPE_DUMPS`` names
another folder of folders with ``vmcore``, ``vmlinux`` and ``oracle``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import List

import numpy as np
import pytest
from drgn import Program

from drgn_slabtype.pages.flagnames import BITS, flag_names
from drgn_slabtype.pages.kpageflags import kpagecount, kpageflags, write_kernel_files
from drgn_slabtype.target import TargetOptions, open_target

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
_DUMPS = Path(os.environ.get("DRGN_SLABTYPE_DUMPS", _CACHE / "drgn-slabtype/lab/dumps"))
_FOLDERS: List[Path] = sorted(
    path.parents[1] for path in _DUMPS.glob("*/*/oracle/kpageflags") if _DUMPS.is_dir()
)
# DAMON, which newer kernels run by themselves, marks a few pages idle at any
# moment, so also between the kernel's own numbers and the dump.
_MOVING = np.uint64(1 << BITS["idle_page"])
# Between the kernel's own numbers and the dump the guest hands its numbers over
# and is stopped; a few pages are used, mapped or given back meanwhile.
_MOVED = 32


def _name(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name.partition('-')[0]}"


pytestmark = [
    pytest.mark.skipif(not _FOLDERS, reason=f"there are no dumps with an oracle in {_DUMPS}"),
    pytest.mark.parametrize("folder", _FOLDERS, ids=map(_name, _FOLDERS)),
]


def _open(folder: Path) -> Program:
    core, vmlinux = folder / "vmcore", folder / "vmlinux"
    if not (core.exists() and vmlinux.exists()):
        pytest.skip("the dump or its vmlinux is not in the cache any more")
    return open_target(TargetOptions(core=str(core), symbols=[str(vmlinux)], default_symbols=False))


def test_every_page_equals_kpageflags(folder: Path) -> None:
    ours, theirs = kpageflags(_open(folder)), np.fromfile(folder / "oracle/kpageflags", "<u8")
    assert len(ours) == len(theirs)
    differ = np.flatnonzero((ours ^ theirs) & ~_MOVING)
    print(f"{_name(folder)}: {len(ours)} pages compared, {len(differ)} differ")
    told = [(hex(pfn), flag_names(ours[pfn]), flag_names(theirs[pfn])) for pfn in differ[:5]]
    assert len(differ) <= _MOVED, told


def test_every_page_equals_kpagecount(folder: Path) -> None:
    ours, theirs = kpagecount(_open(folder)), np.fromfile(folder / "oracle/kpagecount", "<u8")
    differ = np.flatnonzero(ours != theirs)
    print(f"{_name(folder)}: {len(ours)} pages compared, {len(differ)} differ")
    assert len(ours) == len(theirs)
    assert len(differ) <= _MOVED, [(hex(pfn), ours[pfn], theirs[pfn]) for pfn in differ[:5]]


def test_page_types_of_the_kernel_says_the_same(folder: Path, tmp_path: Path) -> None:
    # tools/vm/page-types of the kernel's sources, since Linux 6.3 tools/mm.
    tool = shutil.which("page-types")
    if tool is None:
        pytest.skip("the kernel's page-types tool is not installed")
    ours = tmp_path / "kpageflags"
    write_kernel_files(_open(folder), str(ours), None)
    theirs = folder / "oracle/kpageflags"
    if ours.read_bytes() != theirs.read_bytes():
        pytest.skip("the guest went on between its own numbers and the dump")
    summaries = [
        subprocess.run([tool, "-F", str(file)], capture_output=True, text=True, check=True).stdout
        for file in (ours, theirs)
    ]
    assert summaries[0] == summaries[1]
    assert f"total {len(np.fromfile(theirs, '<u8'))}" in " ".join(summaries[0].split())
