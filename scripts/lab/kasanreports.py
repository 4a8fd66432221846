# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Objects in KASAN's own words.

A stopped guest is made to report objects, ``kasan_report()`` called from outside:
which object it is, of which cache, who allocated and who freed it. ``object`` has
to say the same. Run as a program by the lab, ``choose`` or ``compare`` with the
folder of a dump; writes JSON.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
from drgn import Program

from drgn_slabtype import slab_object
from drgn_slabtype.answers.lookup import lookup
from drgn_slabtype.answers.states import ObjectState, object_states
from drgn_slabtype.answers.tracks import Track
from drgn_slabtype.machine import machine

from . import askpages
from .boot import running
from .guests import Guest
from .library import KernelFiles
from .pagewords import open_dump, printer
from .process import run_python
from .qemu import Machine

__all__ = ("FILE", "compare", "reported")

FILE = "kasan_report.json"
"""Name of the file with what was printed."""
_SECONDS = 8  # under load, until it is stopped
_EACH = 12  # objects of each state that are asked about
_EVENT = re.compile(r"(Allocated|Freed) by task (\d+)(?: on cpu (\d+) at ([\d.]+)s)?:")
_FRAME = re.compile(r" (\S+\+0x[0-9a-f]+)(?:/0x[0-9a-f]+)?")
_OBJECT = re.compile(r"belongs to the object at ([0-9a-f]{16})")
_CACHE = re.compile(r"belongs to the cache (\S+) of size")


def choose(prog: Program) -> Dict[str, Any]:
    """
    Return the objects to ask about, and the addresses that are needed for it.

    :return: ``objects`` of each state; ``function``, of code; ``flags``: that of
        ``kasan_flags``, which keeps what was reported already from being reported again;
        and what :func:`.pagewords.printer` returns.
    """
    reading = lookup(machine(prog))
    whole, found = reading.whole, []
    for state in (ObjectState.IN_USE, ObjectState.FREE, ObjectState.WAITING):
        some: List[np.ndarray] = []
        for number in range(len(reading.caches)):
            objects = object_states(whole.allocator.collect(number, whole.index))
            some.append(objects.address[objects.state == state][:1])
        addresses = np.concatenate(some)
        step = max(1, len(addresses) // _EACH)
        found += addresses[::step][:_EACH].tolist()
    return {
        "objects": found,
        "function": prog.symbol("kasan_report").address,
        "flags": prog.symbol("kasan_flags").address,
        **printer(prog),
    }


def reported(kernel: KernelFiles, guest: Guest, keep: Optional[Path] = None) -> Dict[str, Any]:
    """
    Boot a busy guest, stop and dump it, let it report objects, and compare.

    :param keep: A folder in which a capture of the dump and what was printed are left.
    :return: ``objects`` and ``events`` compared, and what differs.
    :raises LabError: if it does not work.
    """
    with running(kernel, guest) as started, tempfile.TemporaryDirectory() as name:
        time.sleep(_SECONDS)
        started.stop()
        folder = Path(name)
        started.dump(folder / "vmcore")
        assert kernel.vmlinux is not None
        (folder / "vmlinux").symlink_to(kernel.vmlinux)
        _ask(started, folder)
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / FILE, keep / FILE)
            core = ["-c", str(folder / "vmcore"), "-s", str(folder / "vmlinux")]
            kept = ["-o", str(keep / "capture.xz")]
            run_python(["-m", "drgn_slabtype", "capture", *core, *kept])
        answer = run_python(["-m", "lab.kasanreports", "compare", str(folder)]).stdout
    found: Dict[str, Any] = json.loads(answer)
    return found


def _ask(stopped: Machine, folder: Path) -> None:
    # What the guest prints about objects of its dump, into a file beside that.
    chosen = json.loads(run_python(["-m", "lab.kasanreports", "choose", str(folder)]).stdout)
    words: List[Dict[str, object]] = []
    with askpages.printing(stopped, chosen) as caller:
        for address in chosen["objects"]:
            caller.stub.write(chosen["flags"], bytes(8))
            start = stopped.console.stat().st_size
            caller.call(chosen["function"], address, 8, seconds=60)
            words.append(
                {"object": address, "lines": askpages.said(stopped.console, start, "BUG: ")}
            )
    (folder / FILE).write_text(json.dumps(words, indent=1) + "\n")


_Event = Tuple[str, int, Optional[int], Optional[float], List[str]]


def _events(lines: List[str]) -> Iterator[_Event]:
    # Each event that a report tells: allocated or freed, PID, CPU, time, call trace.
    for at, line in enumerate(lines):
        if match := _EVENT.match(line):
            frames = []
            for frame in lines[at + 1 :]:
                name = _FRAME.fullmatch(frame)
                if name is None:
                    break
                frames.append(name.group(1))
            event, pid, cpu, when = match.groups()
            seconds = None if when is None else float(when)
            yield event.lower(), int(pid), None if cpu is None else int(cpu), seconds, frames


def compare(prog: Program, words: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Compare what ``object`` says of each object with the kernel's report of it."""
    differ, events = [], 0
    for one in words:
        text = "\n".join(one["lines"])
        info = slab_object(prog, one["object"])
        name = f"object 0x{one['object']:x} of {info.cache} ({info.state})"
        for what, pattern, own in (
            ("object", _OBJECT, f"{info.object or 0:016x}"),
            ("cache", _CACHE, info.cache),
        ):
            match = pattern.search(text)
            if match is None or match.group(1) != own:
                differ.append(f"{name}: {what} is {match and match.group(1)}, not {own}")
        ours = {track.event: _told(track) for track in info.tracks}
        theirs = {event[0]: event for event in _events(one["lines"])}
        events += len(theirs)
        for event in {**ours, **theirs}:
            if not _same(ours.get(event), theirs.get(event)):
                differ.append(f"{name}: {theirs.get(event)}, not {ours.get(event)}")
    return {"objects": len(words), "events": events, "differ": differ}


def _same(ours: Optional[_Event], theirs: Optional[_Event]) -> bool:
    if ours is None or theirs is None or ours[:-1] != theirs[:-1]:
        return False
    # The outermost frame lies in assembly, where labels within functions have names, too.
    return len(ours[-1]) == len(theirs[-1]) and ours[-1][:-1] == theirs[-1][:-1]


def _told(track: Track) -> _Event:
    # Microseconds, cut off.
    when = None if track.when is None else track.when // 1000 / 10**6
    assert track.pid is not None
    return track.event, track.pid, track.cpu, when, list(track.stack)


def main() -> int:
    """Choose objects of a dump, or compare them with the kernel's words; write JSON."""
    command, folder = sys.argv[1], Path(sys.argv[2])
    prog = open_dump(folder, str(folder / "vmcore"))
    if command == "choose":
        json.dump(choose(prog), sys.stdout)
    else:
        json.dump(compare(prog, json.loads((folder / FILE).read_text())), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
