# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Damage written into running guests.

A guest under the storm is stopped for a moment, some words of busy caches are
overwritten in it, each in a cache of its own, and it goes on. Then it is checked
as it runs. What was not found in two rounds is looked for once more while the
guest stands still: damage that the guest itself has undone is no longer there.
"""

from __future__ import annotations

import json
import random
import time
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from tabulate import tabulate

from .boot import running
from .calls import check
from .errors import GuestError, LabError
from .gdbstub import GdbStub
from .journal import Journal, kept
from .library import KernelFiles
from .process import run_python, say
from .qemu import Machine
from .soak import guest_for

__all__ = (
    "KERNELS",
    "KINDS",
    "ROUNDS",
    "injure",
    "is_of",
    "kinds",
    "numbers",
    "run",
    "trouble",
)

KERNELS = ("slab-6.1-rfc3", "debian-6.12", "debian-7")
"""As for the soak."""
ROUNDS = 2
"""In how many checks damage must be found."""
_NEEDED = 0.95
_AT_ONCE = 3
# A guest lives longer if an oops ends only who met with the damage.
_WORDS = ("sysctl.kernel.panic_on_oops=0",)
_WARM_SECONDS = (0.5, 1.5)
_TRIES_A_KIND = 3  # that may end with the guest

# Names of recipes, of any kernel that has a victim for one.
_BOTH = """
    list-lock-text list-lock-one-bit next-link-null prev-link-null list-head-prev-wrong
    next-leads-to-itself mark-lost-on-partial cache-pointer-null order-200 size-of-cache-wrong
    constructor-of-cache-garbage partial-slab-lost
"""
KINDS: Mapping[str, Tuple[str, ...]] = {
    "SLAB": (
        *_BOTH.split(),
        *"""
            total-slabs-too-high free-objects-too-high index-twice index-out-of-range
            active-one-too-high active-one-over-num active-below-zero word-idle
            first-object-shifted-by-8 avail-over-limit limit-wrong entry-not-the-kernels
            shared-avail-over-limit num-of-cache-one-too-many batchcount-of-cache-over-limit
            cpu-cache-pointer-garbage full-slab-lost
        """.split(),
    ),
    "SLUB": (
        *_BOTH.split(),
        *"""
            nr-partial-too-high nr-slabs-too-high total-objects-too-low inuse-one-too-high
            inuse-more-than-objects objects-zero head-garbage next-garbage next-misaligned
            next-in-other-slab mark-lost-on-full word-zero cpu-slab-garbage cpu-slab-of-two-cpus
            cpu-partial-counts-too-many cpu-partial-head-garbage min-partial-of-cache-garbage
            order-of-cache-wrong partial-mark-lost sheaf-size-over-capacity sheaf-entry-garbage
            sheaf-entry-also-on-another-cpu sheaf-capacity-too-great barn-counts-too-many-full
            barn-list-prev-null barn-lock-text cpu-sheaves-lock-wrong main-sheaf-null
            sheaf-cache-null full-barn-entry-garbage
        """.split(),
    ),
}
"""What is done to a kernel, by its allocator: names of recipes in ``tests/recipes/``."""


def run(
    kernels: Sequence[KernelFiles], journal: Journal, tries: int, *, budget_seconds: float
) -> None:
    """
    Damage each kernel in each way so many times, or until time is up.

    :param journal: Gets a record for each try; what it has is not done again.
    """
    end = time.monotonic() + budget_seconds
    turns = True
    while turns and time.monotonic() < end:
        turns = False
        for files in kernels:
            names = _left(files, journal, tries)
            if names and time.monotonic() < end:
                turns = True
                _boot(files, journal, *_together(files, journal, names))


def _left(files: KernelFiles, journal: Journal, tries: int) -> List[str]:
    # What was tried least comes first.
    kernel = files.kernel.name
    counts = {
        name: sum(
            journal.count(kernel=kernel, name=name, outcome=outcome)
            for outcome in ("found", "missed", "undone")
        )
        # What a kernel does not have, it will not have next time.
        + journal.count(kernel=kernel, name=name, outcome="no victim") * tries // _TRIES_A_KIND
        # A guest that ends at once would do so for ever.
        + journal.count(kernel=kernel, name=name, outcome="died") // _TRIES_A_KIND
        for name in KINDS[files.kernel.allocator]
    }
    left = [name for name, count in counts.items() if count < tries]
    random.shuffle(left)
    return sorted(left, key=lambda name: counts[name])


def _together(files: KernelFiles, journal: Journal, names: Sequence[str]) -> Tuple[List[str], int]:
    # What to choose from, and how many: what has ended a guest is done alone.
    kernel = files.kernel.name
    deadly = [name for name in names if journal.count(kernel=kernel, name=name, outcome="died")]
    if names[0] in deadly:
        return [names[0]], 1
    return [name for name in names if name not in deadly], _AT_ONCE


def _boot(files: KernelFiles, journal: Journal, names: Sequence[str], count: int) -> None:
    kernel, number = files.kernel.name, len(journal.records)
    hurt: List[Dict[str, Any]] = []
    without: List[str] = []
    told: Dict[str, str] = {}
    try:
        with running(files, guest_for(files), _WORDS) as machine:
            time.sleep(random.uniform(*_WARM_SECONDS))
            machine.stop()
            hurt = injure(files, machine, names, count, f"{kernel} {number}")
            machine.resume()
            # Names are taken in their order, until there are enough.
            chosen = [injury["name"] for injury in hurt]
            asked = names if len(hurt) < count else names[: names.index(chosen[-1])]
            without = [name for name in asked if name not in chosen]
            told = _look(files, machine, hurt)
    except GuestError as error:
        say(f"{kernel}: {error}")
    for injury in hurt:
        record = {
            "kernel": kernel,
            "name": injury["name"],
            "cache": injury["cache"],
            "outcome": told.get(injury["name"], "died"),
            "rounds": injury.get("rounds"),
            "codes": injury.get("codes", []),
            "code": injury["code"],
        }
        journal.add(record)
        say(f"{kernel}: {injury['name']} in {injury['cache']}: {record['outcome']}")
    for name in without:
        journal.add({"kernel": kernel, "name": name, "outcome": "no victim"})


def injure(
    files: KernelFiles, machine: Machine, names: Sequence[str], count: int, seed: str
) -> List[Dict[str, Any]]:
    """
    Damage a stopped guest, each time another cache.

    :param names: Recipes, of which the first that have a victim are taken.
    :param count: How many of them.
    :return: What was done: its name, cache, slab, writes and the code it is found by.
    """
    arguments = [str(machine.qmp_path), str(files.vmlinux), seed, str(count), *names]
    hurt: List[Dict[str, Any]] = json.loads(run_python(["-m", "lab.victims", *arguments]).stdout)
    stub = GdbStub(machine.gdb_path)
    try:
        # Where a CPU runs a user's program, the kernel's addresses may lead nowhere.
        stub.command("Qqemu.PhyMemMode:1", 10)
        for injury in hurt:
            for address, data in injury["writes"]:
                stub.write(address, bytes.fromhex(data))
    finally:
        stub.close()
    return hurt


def _look(files: KernelFiles, machine: Machine, hurt: Sequence[Dict[str, Any]]) -> Dict[str, str]:
    told: Dict[str, str] = {}
    for number in range(1, ROUNDS + 1):
        _seen(files, machine, hurt, told, "found", number)
        if len(told) == len(hurt):
            return told
    # What stands there for everybody to see was missed.
    machine.stop()
    report = _seen(files, machine, hurt, told, "missed", ROUNDS + 1)
    for injury in hurt:
        told.setdefault(injury["name"], "undone")
        if told[injury["name"]] == "missed":
            place = kept(f"missed-{files.kernel.name}-{injury['name']}-{int(time.time())}.json")
            place.write_text(json.dumps({"injury": injury, "stopped": report}, indent=1))
    return told


def _seen(
    files: KernelFiles,
    machine: Machine,
    hurt: Sequence[Dict[str, Any]],
    told: Dict[str, str],
    outcome: str,
    number: int,
) -> Mapping[str, Any]:
    done = check(["--qemu", str(machine.qmp_path), "-s", str(files.vmlinux)])
    machine.qmp.command("query-status")
    if not done.report:
        raise LabError(done.errors or "no answer")
    for injury in hurt:
        codes = [one["code"] for one in done.report["findings"] if is_of(one, injury)]
        if codes and injury["name"] not in told:
            told[injury["name"]] = outcome
            injury.update(rounds=number, codes=sorted(set(codes)))
    return done.report


def is_of(finding: Mapping[str, Any], injury: Mapping[str, Any]) -> bool:
    """Return whether a finding is about what :func:`injure` has damaged."""
    slab = finding["slab"]
    return finding["cache"] in (injury["cache"], *injury["others"]) or (
        slab is not None and injury["slab"] is not None and int(slab, 16) == injury["slab"]
    )


def numbers(records: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """Return what came of the damage to a kernel, in numbers."""
    outcomes = [one["outcome"] for one in records]
    rounds = [one["rounds"] for one in records if one["outcome"] == "found"]
    return {
        "kinds": len(_kinds(records)),
        "tries": len(outcomes) - outcomes.count("no victim"),
        "found": outcomes.count("found"),
        "in the first round": rounds.count(1),
        "missed": outcomes.count("missed"),
        "undone by the guest": outcomes.count("undone"),
        "ended the guest": outcomes.count("died"),
        "kinds found too seldom": len(trouble(records)),
    }


def trouble(records: Sequence[Mapping[str, Any]]) -> List[str]:
    """Return the kinds that were found too seldom, in words."""
    bad = []
    for name, outcomes in _kinds(records).items():
        found, missed = outcomes.count("found"), outcomes.count("missed")
        if found < _NEEDED * (found + missed):
            bad.append(f"{name}: missed in {missed} of {found + missed} tries")
    return bad


def _kinds(records: Sequence[Mapping[str, Any]]) -> Dict[str, List[str]]:
    found: Dict[str, List[str]] = {}
    for record in records:
        if record["outcome"] != "no victim":
            found.setdefault(record["name"], []).append(record["outcome"])
    return found


def kinds(records: Sequence[Mapping[str, Any]]) -> str:
    """Return what came of all tries as a table, a row for each kind."""
    outcomes = ("found", "missed", "undone", "died")
    rows = [
        (name, *(of.count(outcome) for outcome in outcomes))
        for name, of in sorted(_kinds(records).items())
    ]
    return tabulate(rows, ("KIND", *(outcome.upper() for outcome in outcomes)), "github")
