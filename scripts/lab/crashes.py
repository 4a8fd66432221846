# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Crashes where they hurt: in the middle of the allocator's work, and after damage.

A guest under load is stopped where a CPU enters a function of its allocator, goes on
some instructions alone and panics there; or busy caches of it are damaged, and it
panics at once. The crash kernel writes the dump in all formats, and each is checked
as people get it: of the one, nothing may be found, and what is excused must name who
is at work; of the other, the damage is found in all of them that have its pages.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from . import crash, injuries
from .calls import check
from .crash import CUT, Crashing
from .entries import functions
from .errors import GuestError
from .gdbstub import GdbStub
from .guests import CRASH_BUSY, fitted
from .journal import Journal
from .library import KernelFiles
from .process import say
from .stops import unwitnessed, walk

__all__ = ("KERNELS", "numbers", "run", "trouble")

KERNELS = ("debian-6.1", "debian-7")
"""CPU slabs, and sheaves; of either makedumpfile knows the slab pages, or does not."""

# Functions in which a slab, a list or a sheaf is half of what it will be.
_BUSY = """
    __slab_free __slab_alloc ___slab_alloc get_partial_node get_from_partial_node put_cpu_partial
    __unfreeze_partials deactivate_slab new_slab allocate_slab discard_slab free_to_partial_list
    __refill_objects_node refill_objects refill_sheaf __pcs_replace_empty_main
    __pcs_replace_full_main barn_replace_empty_sheaf barn_replace_full_sheaf kfree
    kmem_cache_alloc_noprof kmem_cache_alloc kmem_cache_free
""".split()
_REACH = 6  # functions that are tried until a CPU comes to one
_AT_ONCE = 3  # injuries
_MOST_DEATHS = 3
_WARM_SECONDS = (0.5, 2.0)


def run(
    kernels: Sequence[KernelFiles], journal: Journal, count: int, *, budget_seconds: float
) -> None:
    """
    Let each kernel panic so many times, in turn within and after damage, or until time is up.

    :param journal: Gets a record for each crash; what it has is not done again.
    """
    end = time.monotonic() + budget_seconds
    deaths = 0
    turns = True
    while turns:
        turns = False
        for files in kernels:
            done = journal.count(kernel=files.kernel.name)
            if done >= count or time.monotonic() > end:
                continue
            turns = True
            try:
                journal.add(_one(files, done))
            except GuestError as error:
                deaths += 1
                say(f"{files.kernel.name}: {error}")
                if deaths > _MOST_DEATHS * len(kernels):
                    raise


def _one(files: KernelFiles, number: int) -> Dict[str, Any]:
    name = files.kernel.name
    chance = random.Random(f"{name} {number}")
    record: Dict[str, Any] = {"kernel": name, "function": None, "steps": 0, "injuries": []}
    # The crash kernel lies where the first one has put it; breakpoints are where it was linked to.
    with tempfile.TemporaryDirectory(prefix="slabtype-crash-") as folder:
        guest = fitted(CRASH_BUSY, files.kernel)
        with crash.loaded(files, guest, Path(folder), ("nokaslr",)) as crashing:
            time.sleep(chance.uniform(*_WARM_SECONDS))
            crashing.machine.stop()
            if number % 2:
                names = list(injuries.KINDS[files.kernel.allocator])
                chance.shuffle(names)
                record["injuries"] = injuries.injure(
                    files, crashing.machine, names, _AT_ONCE, f"{name} {number}"
                )
            else:
                record.update(_enter(files, crashing, chance))
            dumps = crashing.panic()
            record["formats"] = {
                format: _judge(files, path, record["injuries"])
                for format, path in dumps.items()
                if format != CUT
            }
    what = record["function"] or ", ".join(one["name"] for one in record["injuries"])
    say(f"{name}: panicked: {what}: {_wrong(record) or 'as it has to be'}")
    return record


def _enter(files: KernelFiles, crashing: Crashing, chance: random.Random) -> Dict[str, Any]:
    assert files.vmlinux is not None
    known = {one.name: one for one in functions(files.vmlinux)}
    names = [name for name in _BUSY if name in known]
    chance.shuffle(names)
    stub = GdbStub(crashing.machine.gdb_path)
    try:
        for name in names[:_REACH]:
            steps, at = walk(stub, known[name], chance)
            if at is not None:
                return {"function": name, "steps": steps, "pc": hex(at)}
    finally:
        stub.close()
    raise GuestError("no CPU came to the functions that were tried")


def _judge(files: KernelFiles, dump: Path, hurt: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    done = check(["-c", str(dump), "-s", str(files.vmlinux)])
    judged: Dict[str, Any] = {"status": done.status, "error": "", "findings": []}
    judged.update(found=[], missed=[], left_out=[])
    if not done.report:
        return {**judged, "error": done.errors or "no report"}
    findings = done.report["findings"]
    strange = [one for one in findings if not any(injuries.is_of(one, by) for by in hurt)]
    judged["findings"] = [
        f"{one['code']}: {one['message']}" for one in strange if not one["because"]
    ]
    for injury in hurt:
        found, lost = (
            any(injuries.is_of(one, injury) for one in done.report[shelf])
            for shelf in ("findings", "unavailable")
        )
        # What a dumper has left out cannot be found, and is said to be missing.
        which = "found" if found else "left_out" if lost else "missed"
        judged[which].append(f"{injury['name']} in {injury['cache']}")
    judged["changing"] = len(done.report["changing"])
    judged["unavailable"] = len(done.report["unavailable"])
    judged["unwitnessed"] = list(unwitnessed(done.report["changing"]))
    return judged


def _wrong(record: Mapping[str, Any]) -> List[str]:
    bad = []
    for format, judged in record["formats"].items():
        told = [judged["error"]] if judged["error"] else []
        told += judged["findings"][:1] + [f"missed: {one}" for one in judged["missed"]]
        told += [f"no witness: {one}" for one in judged.get("unwitnessed", ())]
        bad += [f"{format}: {one}" for one in told]
    return bad


def numbers(records: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """Return what came of the crashes of a kernel, in numbers."""
    dumps = [judged for one in records for judged in one["formats"].values()]
    within = [one for one in records if one["function"]]
    hurt = [one for one in records if one["injuries"]]
    return {
        "within the allocator": len(within),
        "functions": len({one["function"] for one in within}),
        "instructions": sum(one["steps"] for one in within),
        "after damage": len(hurt),
        "injuries": sum(len(one["injuries"]) for one in hurt),
        "dumps": len(dumps),
        "found": sum(len(judged["found"]) for judged in dumps),
        "left out by makedumpfile": sum(len(judged["left_out"]) for judged in dumps),
        "missed": sum(len(judged["missed"]) for judged in dumps),
        "false": sum(len(judged["findings"]) for judged in dumps),
        "changing": sum(judged.get("changing", 0) for judged in dumps),
        "without witness": sum(len(judged.get("unwitnessed", ())) for judged in dumps),
    }


def trouble(records: Sequence[Mapping[str, Any]]) -> List[str]:
    """Return what crashes must not have shown, in words."""
    return [
        f"{record['function'] or 'after damage'}: {one}"
        for record in records
        for one in _wrong(record)
    ]
