# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a kernel says of itself against its debug info.

Run on the dumps with a ``vmlinux`` that the lab has in its cache;
``DRGN_SLABTYPE_DUMPS`` names another folder of folders with them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from subprocess import run
from typing import Any, Dict, List, Tuple

import pytest
from drgn import Program, Type, TypeKind, sizeof

from drgn_slabtype.btf.blob import Blob
from drgn_slabtype.btf.variables import VARIABLES
from drgn_slabtype.capture import roots
from drgn_slabtype.capture.describe import find_variables
from drgn_slabtype.errors import TargetError
from drgn_slabtype.machine import machine
from drgn_slabtype.target import TargetOptions, open_target

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
_DUMPS = Path(os.environ.get("DRGN_SLABTYPE_DUMPS", _CACHE / "drgn-slabtype/lab/dumps"))
_FOLDERS: List[Path] = sorted(
    path.parent for path in _DUMPS.glob("*/plain-*/vmlinux") if path.exists()
)
_RUNNING = Path("/sys/kernel/btf/vmlinux")

on_dumps = [
    pytest.mark.skipif(not _FOLDERS, reason=f"there are no dumps with a vmlinux in {_DUMPS}"),
    pytest.mark.parametrize("folder", _FOLDERS, ids=lambda folder: folder.parent.name),
]


def both(folder: Path) -> Tuple[Program, Program]:
    """Return a dump with its debug info, and without."""
    core, vmlinux = str(folder / "vmcore"), str(folder / "vmlinux")
    try:
        own = open_target(TargetOptions(core=core, default_symbols=False))
    except TargetError as why:
        pytest.skip(str(why))
    assert machine(own).btf
    return open_target(TargetOptions(core=core, symbols=[vmlinux], default_symbols=False)), own


def layout(type: Type) -> Dict[str, Any]:
    """Return where everything in a type is."""
    found: Dict[str, Any] = {"size": type.size}
    for member in type.members or ():
        inner = member.type
        found[f"{member.name} at {member.bit_offset}"] = (
            inner.kind.name,
            member.bit_field_size,
            layout(inner) if member.name is None else None,
        )
    return found


def element(type: Type) -> str:
    """Return the name of what a type is, or is an array of, whatever other names it has."""
    while type.kind in (TypeKind.ARRAY, TypeKind.TYPEDEF):
        type = type.type
    return f"{element(type.type)} *" if type.kind == TypeKind.POINTER else type.type_name()


class TestDumps:
    """Each dump that has both."""

    pytestmark = on_dumps

    def test_check_gives_the_same_answer(self, folder: Path) -> None:
        both(folder)
        answers = []
        for symbols in ([], ["-s", str(folder / "vmlinux")]):
            command = [sys.executable, "-m", "drgn_slabtype", "check", "-c", f"{folder}/vmcore"]
            command += ["--no-default-symbols", "--format", "json", *symbols]
            answers.append(json.loads(run(command, capture_output=True, check=False).stdout))
        own, debug_info = (answer["layout"].pop("evidence") for answer in answers)
        for answer in answers:
            for cost in ("reads", "bytes_read", "peak_memory", "seconds"):
                del answer["totals"][cost]
        assert own[1:] == debug_info
        assert own[0].startswith("types from the kernel's own BTF")
        assert answers[0] == answers[1]

    def test_types_are_the_same(self, folder: Path) -> None:
        debug_info, own = both(folder)
        compared = 0
        for name in roots.TYPES:
            try:
                theirs = debug_info.type(name)
            except LookupError:
                continue
            ours = own.type(name)
            assert ours.kind == theirs.kind
            if ours.kind in (TypeKind.STRUCT, TypeKind.UNION):
                assert layout(ours) == layout(theirs), name
            elif ours.kind == TypeKind.ENUM:
                assert [(e.name, e.value) for e in ours.enumerators or ()] == [
                    (e.name, e.value) for e in theirs.enumerators or ()
                ], name
            compared += 1
        assert compared > 40

    def test_variables_are_the_same(self, folder: Path) -> None:
        debug_info, own = both(folder)
        theirs = dict(find_variables(machine(debug_info), [*VARIABLES, *roots.PER_CPU_VARIABLES]))
        ours = dict(find_variables(machine(own), [*VARIABLES, *roots.PER_CPU_VARIABLES]))
        # One of arm64's hypervisor has a symbol of another name.
        if not debug_info.symbols("vmemmap_base"):
            theirs.pop("vmemmap_base", None)
        # Defined in assembly, it has a symbol but no debug info.
        ours.pop("phys_base", None)
        assert {name: variable.address_ for name, variable in ours.items()} == {
            name: variable.address_ for name, variable in theirs.items()
        }
        for name, variable in theirs.items():
            assert element(ours[name].type_) == element(variable.type_), name
            # Some arrays are as long as there is room for, and so is a string.
            if "[]" not in str(VARIABLES.get(name)) and name != "linux_banner":
                assert sizeof(ours[name]) == sizeof(variable), name


@pytest.mark.skipif(not os.access(_RUNNING, os.R_OK), reason="the running kernel has no BTF")
def test_btf_of_the_running_kernel_is_whole() -> None:
    blob = Blob(_RUNNING.read_bytes())
    assert len(blob) > 10000
    assert blob.numbers("list_head")
