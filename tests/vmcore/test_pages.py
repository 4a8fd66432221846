# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every page of the lab's dumps against the kernel's own words for it.

Run on the dumps that the lab has in its cache; ``DRGN_SLABTYPE_DUMPS`` names
another folder of folders with ``vmcore``, ``vmlinux`` and ``oracle``.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Dict, List

import numpy as np
import pytest
from drgn import Program
from lab import pagetypes, pagewords

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


def test_single_pages_are_as_the_kernel_prints_them(folder: Path) -> None:
    words = pagewords.load(folder / "oracle")
    if not words:
        pytest.skip("the kernel of this dump was not asked")
    _, differ = pagewords.compare(_open(folder), words)
    print(f"{_name(folder)}: {len(words)} pages compared, {len(differ)} differ")
    assert differ == []


def _page_types(tool: str, file: Path) -> Dict[int, int]:
    # Number of pages of each word.
    summary = subprocess.run([tool, "-F", str(file)], capture_output=True, text=True, check=True)
    rows = re.findall(r"^(0x[0-9a-f]{16})\s+(\d+)\s", summary.stdout, re.MULTILINE)
    total = re.search(r"^\s+total\s+(\d+)", summary.stdout, re.MULTILINE)
    found = {int(word, 16): int(pages) for word, pages in rows}
    assert total is not None
    assert int(total.group(1)) == sum(found.values())
    return found


def test_page_types_of_the_kernel_says_the_same(folder: Path, tmp_path: Path) -> None:
    # The tool of the kernel's sources, which the lab compiles when it has some.
    tool = pagetypes.find()
    if tool is None:
        pytest.skip("the kernel's page-types tool is neither in the lab's cache nor installed")
    ours = tmp_path / "kpageflags"
    write_kernel_files(_open(folder), str(ours), None)
    theirs = folder / "oracle/kpageflags"
    words = [np.fromfile(file, "<u8") for file in (ours, theirs)]
    moved = int((words[0] != words[1]).sum())
    rows = [_page_types(tool, file) for file in (ours, theirs)]
    assert [sum(row.values()) for row in rows] == [len(word) for word in words]
    names = rows[0].keys() | rows[1].keys()
    off = {name: rows[0].get(name, 0) - rows[1].get(name, 0) for name in names}
    equal = sum(not pages for pages in off.values())
    print(f"{_name(folder)}: {equal} rows equal, {len(names) - equal} differ; {moved} pages moved")
    # A page that moved is missing in one row and one too many in another.
    assert sum(map(abs, off.values())) <= 2 * moved
    if not moved:
        assert rows[0] == rows[1]
