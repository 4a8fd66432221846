#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Refresh the captures that the tests replay from dumps of the lab.

usage: scripts/captures.py DUMP_FOLDER ...

Each folder is one that ``scripts/vmlab dump`` made: ``vmcore``, ``vmlinux`` (not
of kernels without debug symbols), ``manifest.json`` and the kernel's own numbers
in ``oracle/``. What comes of it is ``tests/captures/KERNEL-GUEST/``: the capture,
the manifest, and the numbers a replay is compared with. The RFC v3 capture also
goes into the package, for ``drgn-slabtype demo``.
"""

from __future__ import annotations

import json
import lzma
import shutil
import sys
from pathlib import Path

from drgn_slabtype.capture import write_capture
from drgn_slabtype.target import TargetOptions, open_target

_ROOT = Path(__file__).resolve().parent.parent
_TESTS = _ROOT / "tests" / "captures"
_PACKAGE = _ROOT / "drgn_slabtype" / "captures"
_SHIPPED = "slab-6.1-rfc3-plain"

_TEXT = ("slabinfo", "vmstat", "dump_page.json")
_PER_PAGE = ("kpageflags", "kpagecount")


def refresh(dump: Path) -> Path:
    """
    Write the capture of one dump, with its oracles, for the tests.

    :return: The folder written.
    """
    manifest = json.loads((dump / "manifest.json").read_text())
    folder = _TESTS / f"{manifest['kernel']}-{manifest['guest']}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vmlinux = dump / "vmlinux"
    symbols = [str(vmlinux)] if vmlinux.exists() else []
    target = TargetOptions(core=str(dump / "vmcore"), symbols=symbols, default_symbols=False)
    write_capture(open_target(target), str(folder / "capture.xz"))
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    for name in _TEXT:
        source = dump / "oracle" / name
        if source.exists():
            shutil.copyfile(source, folder / name)
    for name in _PER_PAGE:
        source = dump / "oracle" / name
        if source.exists():
            packed = lzma.compress(source.read_bytes(), preset=9 | lzma.PRESET_EXTREME)
            (folder / f"{name}.xz").write_bytes(packed)
    if folder.name == _SHIPPED:
        _PACKAGE.mkdir(exist_ok=True)
        shutil.copyfile(folder / "capture.xz", _PACKAGE / f"{_SHIPPED}.xz")
    return folder


def main() -> int:
    """Refresh the captures of the dumps named on the command line."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    for name in sys.argv[1:]:
        folder = refresh(Path(name))
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{folder.relative_to(_ROOT)}: {size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
