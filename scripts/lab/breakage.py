# SPDX-License-Identifier: LGPL-2.1-or-later

"""
What the check finds of what was broken on purpose, beside what the kernel said.

A case is right if the roots among the findings are those that memory has a
proof of, and one of them names the object, the bytes or the page that the kernel
or the module that broke them printed; and if there is none where there is no
proof.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from tabulate import tabulate

from .broken import Broken, saved
from .cases import BOOTS, CASES, KUNIT, LOOKS, Boot, Case, Expected
from .errors import LabError
from .kernels import KERNELS
from .library import KernelFiles, present
from .process import output, run_python, say

__all__ = (
    "Breakage",
    "break_kernel",
    "break_some",
    "markdown",
    "table",
)

_ADDRESS = re.compile(r"\b(?:0x)?(ffff[0-9a-f]{12})\b")
_OBJECT = re.compile(r"breaker: cache (\S+) object")
_TOLD = re.compile(r"BUG |BUG:|FIX |WARNING:|slab error|not freed|kernel BUG|Objects remaining")
_CONTENT = ("redzone", "poison", "padding", "track")
_SOME_SECONDS = 60  # what a boot and the cases of CI take, rounded up
_DIRECT_MAP, _VMEMMAP = 0xFFFF888000000000, 0xFFFFEA0000000000
_SLAB_PAGES = 8 * 64  # bytes of the struct pages of the largest slab
_MOST_TOLD = 20  # lines that are kept
_NEAR = 64  # bytes around what was written in which damaged bytes may begin


@dataclass
class Breakage:
    """What came of one case."""

    kernel: str
    """Name of the kernel."""
    letters: str
    """Those of ``slub_debug`` that it was booted with."""
    case: str
    """Name of the case."""
    wanted: List[str] = field(default_factory=list)
    """Codes that a root may have; none if there must be no finding."""
    why: str = ""
    """Why there can be no finding, or what the kernel did about it."""
    did: List[str] = field(default_factory=list)
    """What was done, as printed by who did it."""
    refused: List[str] = field(default_factory=list)
    """What the kernel said about it at once."""
    told: List[str] = field(default_factory=list)
    """What the kernel said when it was let look."""
    found: List[str] = field(default_factory=list)
    """Roots that were found."""
    notes: List[str] = field(default_factory=list)
    """Codes of the notes on slabs."""
    wrong: str = ""
    """What is wrong with what was found."""
    seconds: float = 0.0
    """How long it took."""

    @property
    def good(self) -> bool:
        """Whether what was found is what had to be."""
        return not self.wrong

    def record(self) -> Dict[str, object]:
        """Return it for JSON."""
        return {**asdict(self), "good": self.good}


def break_kernel(
    files: KernelFiles, boots: Sequence[str], cases: Sequence[Case], keep: Optional[Path] = None
) -> Iterator[Breakage]:
    """
    Break a kernel in every way that is asked for.

    :param boots: Letters of ``slub_debug``, for each boot; all that suit it without one.
    :param keep: Where the dumps go, if they are not to be deleted: ``BOOT/CASE.core``.
    """
    every = BOOTS if files.kernel.allocator == "SLUB" else BOOTS[:1]
    for letters in boots or every:
        folder = None if keep is None else keep / f"{files.kernel.name}-{letters or 'plain'}"
        yield from _break_all(files, letters, cases, folder)
    if "slub_kunit" in files.modules and len(cases) == len(CASES):
        folder = None if keep is None else keep / f"{files.kernel.name}-kunit"
        yield from _break_by_kunit(files, folder)


def break_some(seconds: float) -> Iterator[Breakage]:
    """Break kernels that are in the cache, as far as the time goes, in the ways CI tries."""
    end = time.monotonic() + seconds
    some = [case for case in CASES.values() if case.ci]
    for kernel in KERNELS.values():
        files = present(kernel) if kernel.broken else None
        for letters in BOOTS[:: len(BOOTS) - 1] if kernel.allocator == "SLUB" else BOOTS[:1]:
            if files is not None and time.monotonic() + _SOME_SECONDS < end:
                yield from _break_all(files, letters, some, None)


@contextlib.contextmanager
def _folder(keep: Optional[Path]) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="slabtype-") as name:
        yield Path(name)


def _break_all(
    files: KernelFiles, letters: str, cases: Sequence[Case], keep: Optional[Path]
) -> Iterator[Breakage]:
    # One thing after the other, each where the kernel had booted.
    boot, parameters = Boot.of(files.kernel, letters), f"slub_debug={letters}" if letters else ""
    with _folder(keep) as folder, saved(files, parameters) as guest:
        for case in cases:
            if case.name.isupper() and "lkdtm" not in files.modules:
                continue
            begin = time.monotonic()
            one = Breakage(files.kernel.name, letters, case.name)
            one.wanted, one.why = list(case.expected(boot).codes), case.expected(boot).why
            core = folder / f"{case.name}.core"
            try:
                with guest.resumed() as broken:
                    _do(broken, case, core, one)
                judge(_check(core, files), case.expected(boot), one)
            except LabError as error:
                one.wrong = str(error)
            if keep is None:
                core.unlink(missing_ok=True)
            one.seconds = round(time.monotonic() - begin, 1)
            say(f"{one.kernel} {letters or 'plain'} {one.case}: {one.wrong or 'as it must be'}")
            yield one


def _break_by_kunit(files: KernelFiles, keep: Optional[Path]) -> Iterator[Breakage]:
    # A dump each time SLUB is about to look. What it prints up to the next one says
    # where the damage was.
    looks = list(KUNIT.values())
    cores: List[Path] = []
    told: List[List[str]] = []
    with _folder(keep) as folder:
        with saved(files, "") as guest, guest.resumed() as broken:
            for _ in broken.stops(looks[0].command, _address_of(files, "validate_slab_cache")):
                told.append(_telling(broken.said()))
                cores.append(folder / f"{len(cores)}.core")
                broken.dump(cores[-1])
            told.append(_telling(broken.said()))
        if len(cores) != len(looks):
            raise LabError(f"slub_kunit looked {len(cores)} times, not {len(looks)}")
        boot = Boot.of(files.kernel, "")
        for number, (core, case) in enumerate(zip(cores, looks), 1):
            expected = case.expected(boot)
            one = Breakage(files.kernel.name, "", case.name, list(expected.codes), expected.why)
            one.told = told[number]
            judge(_check(core, files), expected, one)
            say(f"{one.kernel} {one.case}: {one.wrong or 'as it must be'}")
            yield one


def _address_of(files: KernelFiles, function: str) -> int:
    # These kernels are where they were linked to be.
    for line in output(["nm", str(files.vmlinux)]).splitlines():
        address, _, name = line.split(" ", 2)
        if name == function:
            return int(address, 16)
    raise LabError(f"{files.kernel.name} has no {function}()")


def _do(broken: Broken, case: Case, core: Path, one: Breakage) -> None:
    broken.said()
    answer = broken.ask(case.command)
    before = broken.said()
    broken.dump(core)
    one.did = [line for line in before if line.startswith(("breaker: ", "lkdtm: "))]
    one.refused = _telling(before)
    if answer not in ("0", "died"):
        raise LabError(answer)
    for look in LOOKS:
        broken.ask(look)
    one.told = _telling(broken.said())


def _telling(lines: Sequence[str]) -> List[str]:
    # A kernel in a loop says the same without end.
    return list(dict.fromkeys(line for line in lines if _TOLD.search(line)))[:_MOST_TOLD]


def _check(core: Path, files: KernelFiles) -> Dict[str, Any]:
    arguments = ["-m", "drgn_slabtype", "check", "-c", str(core), "-s", str(files.vmlinux)]
    done = run_python([*arguments, "--format", "json"], statuses=(0, 1, 3))
    report: Dict[str, Any] = json.loads(done.stdout)
    return report


def judge(report: Mapping[str, Any], expected: Expected, one: Breakage) -> None:
    """
    Enter what is found, and what is wrong with it.

    :param report: JSON of a check.
    :param one: With what was printed.
    """
    roots = [finding for finding in report["findings"] if finding["because"] is None]
    one.found = [f"{root['code']}: {root['message']}" for root in roots]
    one.notes = sorted({note["code"] for note in report["notes"] if note["slab"]})
    codes = {root["code"] for root in roots}
    if report["changing"]:
        one.wrong = f"taken for work in progress: {report['changing'][0]['message']}"
    elif not expected.codes:
        one.wrong = f"nothing to find: {one.found[0]}" if roots else ""
    elif not codes & set(expected.codes):
        one.wrong = f"not found; instead {one.found[0]}" if roots else "not found"
    else:
        places = _places(one)
        named = [root for root in roots if _names(root, places, one)]
        if not any(root["code"] in expected.codes for root in named):
            one.wrong = f"found somewhere else: {one.found[0]}"
        elif len(named) < len(roots):
            other = next(root for root in roots if root not in named)
            one.wrong = f"one root too many: {other['code']}: {other['message']}"


def _places(one: Breakage) -> Set[int]:
    # Addresses that were printed: of objects, bytes and pages.
    text = "\n".join([*one.did, *one.refused, *one.told])
    return {int(digits, 16) for digits in _ADDRESS.findall(text)}


def _page_of(address: int) -> int:
    # Where these kernels, which are not moved when they boot, keep the struct page.
    return _VMEMMAP + (address - _DIRECT_MAP) // 4096 * 64


def _names(root: Mapping[str, Any], places: Set[int], one: Breakage) -> bool:
    # Whether a finding is about one of these places, or the cache that is broken.
    if root["slab"] is not None:
        # An object that no place was found to hold has its slab named.
        head = int(root["slab"], 16)
        places = places | {head for place in places if 0 <= _page_of(place) - head < _SLAB_PAGES}
    told = {int(digits, 16) for digits in _ADDRESS.findall(json.dumps(root))}
    if root["code"] in _CONTENT and root["address"] is not None:
        at = int(root["address"], 16)
        return any(abs(at - place) < _NEAR for place in places)
    if not places:
        # Then the kernel has named no more than the cache.
        said = "\n".join(one.told)
        return str(root["cache"]).startswith("lkdtm-heap") or f"BUG {root['cache']} (" in said
    cache = _OBJECT.search("\n".join(one.did))
    by_cache = root["code"] == "cache-destroyed" and cache and root["cache"] == cache[1]
    return bool(told & places or by_cache)


def _rank(one: Breakage) -> Tuple[int, int]:
    return [*CASES, *KUNIT].index(one.case), BOOTS.index(one.letters)


def _about(name: str) -> str:
    return (CASES if name in CASES else KUNIT)[name].about


def _how(one: Breakage) -> str:
    return f"slub_debug={one.letters}" if one.letters else "plain"


def _cells(one: Breakage) -> List[str]:
    said = [*one.refused, *one.told]
    found = "; ".join(one.found) or "nothing"
    verdict = one.wrong or ("found" if one.wanted else "rightly nothing")
    return [one.kernel, _how(one), one.case, said[0] if said else "-", found, verdict]


def table(broken: Sequence[Breakage]) -> str:
    """Return a table of what was broken, and how many cases are right."""
    headers = "KERNEL BOOTED CASE SAID FOUND VERDICT".split()
    rows = [[cell[:60] for cell in _cells(one)] for one in broken]
    return "\n".join([tabulate(rows, headers, tablefmt="plain"), _total(broken)])


def _total(broken: Sequence[Breakage]) -> str:
    found = sum(one.good and bool(one.wanted) for one in broken)
    quiet = sum(one.good and not one.wanted for one in broken)
    bad = sum(not one.good for one in broken)
    return f"{len(broken)} cases: {found} found, {quiet} with nothing to find, {bad} wrong"


def _short(text: str) -> str:
    # A cell of a page: no addresses, which differ from run to run, and no line that never ends.
    text = re.sub(r"\[#\d+\]|\(Tainted: .*?\) ?|\(Not tainted\) ?", "", text)
    return _ADDRESS.sub("…", text).replace("|", "\\\\|").strip()


def markdown(broken: Sequence[Breakage]) -> str:
    """Return the same for a page of documentation, a table for each kernel."""
    parts = [_total(broken) + "."]
    for kernel in dict.fromkeys(one.kernel for one in broken):
        rows = []
        for one in sorted((one for one in broken if one.kernel == kernel), key=_rank):
            said = next(iter([*one.refused, *one.told]), "-")
            verdict = one.wrong or ("found" if one.wanted else one.why)
            codes = ", ".join(dict.fromkeys(text.partition(":")[0] for text in one.found))
            case = f"`{one.case}`: {_about(one.case)}"
            rows.append([case, _how(one), _short(said), codes or "-", _short(verdict)])
        headers = ["CASE", "BOOTED", "THE KERNEL SAYS", "THE CHECK SAYS", "VERDICT"]
        parts += [f"## {kernel}", tabulate(rows, headers, tablefmt="github")]
    return "\n\n".join(parts) + "\n"
