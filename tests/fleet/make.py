# SPDX-License-Identifier: LGPL-2.1-or-later
"""Making a fleet's dumps."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from drgn_slabtype.capture import open_capture

from ..recipes.language import NoVictim
from ..recipes.suites import suite_of
from .files import Original
from .kinds import KINDS

CAPTURES = Path(__file__).parents[1] / "captures"
KERNELS = """
    debian-5.10-plain debian-6.1-plain debian-6.12-plain debian-6.18-plain debian-7-plain
    debian-7.0-plain debian-7-debug slab-5.10-plain slab-6.1-plain slab-6.1-rfc3-plain
""".split()
_FIRST = 1790000000  # seconds: when the first of them crashed
_APART = 3600
SOUND = "sound"


class Made(NamedTuple):
    """One dump of the fleet."""

    path: Path
    kind: str
    """Of the damage, or :data:`SOUND`."""
    kernel: str


class _Kernel:
    def __init__(self, name: str) -> None:
        path = CAPTURES / name / "capture.xz"
        self.name = name
        self.original = Original(path)
        prog = open_capture(str(path))
        self.machine: Any = suite_of(prog).open(prog)


class Maker:
    """Makes dumps of some kernels."""

    def __init__(self, kernels: Sequence[str] = KERNELS) -> None:
        self._names = list(kernels)
        self._kernels: Dict[str, _Kernel] = {}
        self._fitting: Dict[str, List[str]] = {}

    def _kernel(self, name: str) -> _Kernel:
        if name not in self._kernels:
            self._kernels[name] = _Kernel(name)
        return self._kernels[name]

    def fitting(self, kind: str) -> List[str]:
        """Return the kernels that have something a kind of damage can be done to."""
        if kind == SOUND:
            return self._names
        if kind not in self._fitting:
            self._fitting[kind] = [name for name in self._names if self._fits(kind, name)]
        return self._fitting[kind]

    def _fits(self, kind: str, name: str) -> bool:
        try:
            KINDS[kind](self._kernel(name).machine, Random(0))
        except (NoVictim, LookupError, StopIteration):
            return False
        return True

    def make(
        self,
        folder: Path,
        kinds: Sequence[str],
        seed: int = 0,
        kernel: Optional[str] = None,
        compressed: bool = True,
    ) -> Iterator[Made]:
        """
        Write a capture of each kind, by which no name of a file tells what it is.

        :param kernel: That all are of; by turns all that fit, if ``None``.
        """
        for number, kind in enumerate(kinds):
            chance = Random(f"{seed} {number}")
            some = [kernel] if kernel else self.fitting(kind)
            of = self._kernel(some[number // max(len(set(kinds)), 1) % len(some)])
            writes = () if kind == SOUND else KINDS[kind](of.machine, chance)
            path = folder / f"host{number % 7}" / f"{number:04}" / "capture"
            path.parent.mkdir(parents=True, exist_ok=True)
            of.original.write(path, writes, compressed)
            when = _FIRST + number * _APART
            os.utime(path, (when, when))
            yield Made(path, kind, of.name)


def mixed(count: int, sound: int) -> List[str]:
    """
    Return a mixture of all kinds.

    :param count: How many in all.
    :param sound: How many of them are not damaged.
    """
    names = list(KINDS)
    found = [names[number % len(names)] for number in range(count - sound)] + [SOUND] * sound
    Random(0).shuffle(found)
    return found


def write_list(folder: Path, made: Sequence[Made]) -> None:
    """Write down what was made, beside the folder of the dumps."""
    told = {str(one.path.relative_to(folder)): [one.kind, one.kernel] for one in made}
    folder.with_suffix(".json").write_text(json.dumps(told, indent=1))
