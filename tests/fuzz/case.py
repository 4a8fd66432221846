# SPDX-License-Identifier: LGPL-2.1-or-later
"""One damaged capture, checked as the command line does it, and what is wrong with the answer."""

from __future__ import annotations

import json
import lzma
import os
import random
import resource
import time
import traceback
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Mapping, Optional, Sequence, Union

from drgn import Program

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.errors import SlabTypeError
from drgn_slabtype.report import present
from drgn_slabtype.target import TargetOptions, describe, open_target

from ..recipes.overlay import Write, overlay
from .damage import Patch, patches, words
from .places import Places
from .words import hostile, root_words

Damage = Union[Sequence[Write], Sequence[Patch]]

_FILE_CASES = 8  # one case in so many damages the file and not the memory
_MEMORY_TIMES = 6  # the memory a capture holds, for what is made of it
_MEMORY_BESIDES = 512 << 20
_SECONDS = 60  # of the processor, so that the load of the machine is none; a check takes one


@dataclass
class Verdict:
    """What became of one case."""

    capture: str
    seed: int
    wrong: str
    """What is wrong with the answer; empty if nothing is."""
    status: Optional[int]
    """Exit status; ``None`` without an answer."""
    seconds: float
    memory: int
    """Bytes that the process had besides what it had before, at most."""
    damage: List[str]
    """Each write as ``ADDRESS=BYTES``, or each patch of the file as ``at OFFSET=BYTES``."""


class Subject:
    """
    A capture on which damage is tried.

    :param path: Of a compressed capture.
    :param roots: Damage words on which much hangs, one or two at a time.
    """

    def __init__(self, path: Path, roots: bool = False) -> None:
        self.name = path.parent.name
        self.path = path
        self.places = Places(open_capture(str(path)))
        self._roots = root_words(open_capture(str(path))) if roots else []
        # Nothing of it is read before a case has damaged it.
        self._fresh = open_capture(str(path))
        self._bytes = lzma.decompress(path.read_bytes())
        self._packed = path.read_bytes()
        self._head = 64 + int.from_bytes(self._bytes[32:40], "little")

    def damage(self, seed: int) -> Damage:
        """Return the damage of a number, always the same."""
        chance = random.Random(f"{self.name} {seed}")
        if self._roots:
            prog = self.places.prog
            return [hostile(prog, self._roots, chance) for _ in range(chance.choice((1, 1, 1, 2)))]
        if seed % _FILE_CASES:
            return words(self.places, chance)
        if seed % (2 * _FILE_CASES):
            return patches(len(self._bytes), min(self._head, len(self._bytes)), chance)
        return patches(len(self._packed), len(self._packed), chance)

    def judge(self, seed: int, damage: Optional[Damage] = None) -> Verdict:
        """
        Check the capture with some damage; in a process of its own, which it leaves changed.

        :param damage: Other damage than that of the number.
        """
        damage = self.damage(seed) if damage is None else damage
        before, memory = time.process_time(), _most_memory()
        _limit_memory(_MEMORY_BESIDES + _MEMORY_TIMES * len(self._bytes))
        status: Optional[int] = None
        try:
            if self._roots or seed % _FILE_CASES:
                overlay(self._fresh, [one for one in damage if isinstance(one, Write)])
                status, wrong = _answer(self._fresh)
            else:
                status, wrong = self._file(seed, damage)
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            ours = [one for one in traceback.extract_tb(error.__traceback__) if _is_ours(one)]
            where = ours[-1] if ours else at
            wrong = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        seconds = time.process_time() - before
        if not wrong and seconds > _SECONDS:
            wrong = f"took {seconds:.0f} seconds"
        memory = _most_memory() - memory
        told = [_told(one) for one in damage]
        return Verdict(self.name, seed, wrong, status, seconds, memory, told)

    def _file(self, seed: int, damage: Damage) -> Any:
        data = bytearray(self._bytes if seed % (2 * _FILE_CASES) else self._packed)
        for patch in damage:
            assert isinstance(patch, Patch)
            data[patch.at : patch.at + len(patch.data)] = patch.data
        fd = os.memfd_create("fuzz")
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        try:
            prog = open_target(TargetOptions(core=f"/proc/self/fd/{fd}", default_symbols=False))
            return _answer(prog)
        except SlabTypeError as error:
            return 2, "" if "\n" not in str(error) else f"not one line: {error}"


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return "drgn_slabtype" in frame.filename


def _told(one: Union[Write, Patch]) -> str:
    if isinstance(one, Write):
        return f"{one.address:x}={one.data.hex()}"
    return f"at {one.at}={one.data.hex()}"


def _most_memory() -> int:
    # A fresh process begins with what its parent has, not with the most it had.
    with open("/proc/self/status", "rb") as file:
        lines = dict(line.split(b":", 1) for line in file)
    return int(lines[b"VmHWM"].split()[0]) << 10


def _limit_memory(more: int) -> None:
    # An allocation greater than what a capture can ask for fails at once.
    with open("/proc/self/statm", "rb") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(prog: Program) -> Any:
    report = check(prog)
    report.target = describe(prog)
    status = report.exit_status
    record = json.loads("".join(present("check", report, "json")))
    ElementTree.fromstring("".join(present("check", report, "junit")))
    text = "".join(present("check", report, "table"))
    counts = {**record["totals"]}
    for cache in record["caches"]:
        counts.update({f"{cache['name']} {name}": cache[name] for name in _CACHE_COUNTS})
    negative = [name for name, number in counts.items() if (number or 0) < 0]
    odd = [one["name"] for one in record["caches"] if _rest(one)]
    unread = [one["message"] for one in record["unavailable"] if one["code"] == "not-read"]
    wrong = ""
    if status not in (0, 1, 3):
        wrong = f"exit status {status}"
    elif negative:
        wrong = f"negative: {', '.join(negative[:3])}"
    elif odd or _rest({**record["totals"], "free": {"all": record["totals"]["free"]}}):
        wrong = f"does not add up: {', '.join(odd[:3])}"
    elif unread:
        wrong = unread[0]
    elif not text.strip() or record["exit_status"] != status:
        wrong = "the report does not fit the exit status"
    return status, wrong


def _rest(counts: Mapping[str, Any]) -> int:
    # What objects there are besides those that are accounted for.
    known = sum(counts[name] for name in ("in_use", "waiting", "unknown"))
    return int(counts["objects"] - known - sum(counts["free"].values()))


_CACHE_COUNTS = ("slabs", "objects", "counted", "in_use", "waiting", "unknown")
