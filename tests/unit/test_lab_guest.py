# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's guest program: which file knows which, and that compilers have nothing to say."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import List

import pytest
from lab import initramfs
from lab.architectures import ARCHITECTURES, HERE

SOURCES = sorted(Path(initramfs.__file__).with_name("guest").glob("*.c"))
LEAVES = [source for source in SOURCES if source.stem not in ("init", "ground")]

every_leaf = pytest.mark.parametrize("source", LEAVES, ids=lambda source: str(source.name))


def _known(source: Path) -> List[str]:
    return re.findall(r'^#include "(.*)"$', source.read_text(), re.MULTILINE)


@every_leaf
def test_leaf_knows_the_ground_and_itself(source: Path) -> None:
    assert _known(source) == ["ground.h", f"{source.stem}.h"]
    assert _known(source.with_suffix(".h")) == []


def test_storm_knows_the_ground_and_nothing_else_of_the_other_program() -> None:
    storm = [source for source in initramfs.first_sources("storm") if source.stem != "ground"]
    assert {name for source in storm for name in _known(source)} == {"../ground.h", "storm.h"}


def test_crowd_knows_the_ground_alone() -> None:
    crowd = [source for source in initramfs.first_sources("crowd") if source.stem != "ground"]
    assert {name for source in crowd for name in _known(source)} == {"../ground.h"}


def test_main_file_knows_all_and_the_ground_none() -> None:
    folder = LEAVES[0].parent
    assert _known(folder / "init.c") == ["ground.h", *(f"{leaf.stem}.h" for leaf in LEAVES)]
    assert _known(folder / "ground.c") == ["ground.h"]
    assert _known(folder / "ground.h") == []
    assert sorted(folder.glob("*.h")) == [
        source.with_suffix(".h") for source in SOURCES if source.stem != "init"
    ]


COMPILED = [
    *((HERE, first) for first in ("", "storm", "crowd", "crash", "second")),
    *((name, "") for name in ARCHITECTURES if name != HERE),
]


@pytest.mark.parametrize(("architecture", "first"), COMPILED)
def test_compiles_without_a_warning(tmp_path: Path, architecture: str, first: str) -> None:
    compiler = ARCHITECTURES[architecture].compiler
    sources = initramfs.first_sources(first) if first else SOURCES
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    if architecture == HERE and platform.machine() != "x86_64":
        pytest.skip("the guest is one of x86-64")
    command = [compiler, *initramfs.FLAGS, "-Werror", "-Wmissing-prototypes", "-Wshadow"]
    made = [*command, "-o", str(tmp_path / "init"), *map(str, sources)]
    done = subprocess.run(made, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
