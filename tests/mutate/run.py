# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Changing words, one at a time
-----------------------------

Debug info is read once. Some words at a time go to a process forked from there,
which lays changeable bytes over them, changes one after the other and checks. A
word of a cache is looked for in a check of that cache first: what that finds, a
check of the machine finds too; a word of a page, in what that says of pages. What
neither finds is put to a check of the machine, several words together: if that
says nothing, it says nothing of each.
"""

from __future__ import annotations

import random
import traceback
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple

from drgn import Program

from drgn_slabtype.answers.diagnose import explain
from drgn_slabtype.answers.lookup import Lookup
from drgn_slabtype.check import check
from drgn_slabtype.errors import TargetError
from drgn_slabtype.findings import Finding, LayoutSummary, Report, Target
from drgn_slabtype.machine import is_dump, machine
from drgn_slabtype.machine.witness import witnesses
from drgn_slabtype.report import present
from drgn_slabtype.rules.blame import join, renumber
from drgn_slabtype.rules.excuses import settle
from drgn_slabtype.strays import judge_machine

from ..recipes.apart import apart
from ..recipes.overlay import Write, overlay
from ..recipes.suites import SLAB, suite_of
from .board import Board
from .pages import page_structures
from .slab import SlabKernel
from .slub import SlubKernel
from .structures import Structure, chosen, words
from .words import MUTATIONS, Word

OUTCOMES = ("finding", "changing", "unavailable", "note", "silent", "exception", "same")
"""What a check says of a change: the first that it gives; ``same`` is no change."""

_AT_A_TIME = 16

Said = Set[Tuple[Any, ...]]


@dataclass
class Result:
    """What became of the changes of one word."""

    word: Word
    outcomes: Dict[str, str] = field(default_factory=dict)
    """One of :data:`OUTCOMES` by mutation."""
    told: Dict[str, str] = field(default_factory=dict)
    """What was said first, by mutation: a code, or an exception."""

    def record(self) -> Dict[str, Any]:
        """Return it for JSON."""
        word = self.word
        return {
            "structure": word.structure,
            "member": word.member,
            "cache": word.cache,
            "address": f"0x{word.address:x}",
            "outcomes": self.outcomes,
            "told": self.told,
        }


class Subject:
    """
    A kernel whose words are changed.

    :param prog: With debug info; nothing of it is changed.
    :param caches: Names of the caches whose structures are taken; some that
        have all kinds between them if empty.
    """

    def __init__(
        self, prog: Program, seed: int, caches: Sequence[str] = (), count: int = 3
    ) -> None:
        self.prog = prog
        self.seed = seed
        suite = suite_of(prog)
        kernel = SlabKernel if suite is SLAB else SlubKernel
        self.kernel = kernel(suite.open(prog))
        known = list(self.kernel.machine.caches)
        order = known[:]
        random.Random(seed).shuffle(order)
        order = [one for one in order if not caches or one.name in caches]
        # Those that the kernel began with differ from all others.
        of = [one for one in order if one.name not in ("kmem_cache", "kmem_cache_node")] or order
        self.caches = [one.name for one in chosen(self.kernel, len(caches) or count, of)]
        named = {one.name: one for one in known}
        found: List[Structure] = []
        for name in self.caches:
            found += self.kernel.of(named[name])
        found += page_structures(self.kernel)
        beside = next(one.address for one in known if one.name not in self.caches)
        self.words = list(words(prog, found, beside))
        """What is to be changed, in an order that is always the same."""
        self.clean = _said(check(prog))
        _forget(prog)

    def sample(self, count: int) -> List[Word]:
        """Return some of the words, of each kind of structure as many as of any other."""
        chance = random.Random(self.seed)
        kinds: Dict[str, List[Word]] = {}
        for word in self.words:
            kinds.setdefault(word.structure, []).append(word)
        for some in kinds.values():
            chance.shuffle(some)
        found: List[Word] = []
        while len(found) < count and any(kinds.values()):
            for some in kinds.values():
                if some and len(found) < count:
                    found.append(some.pop())
        return found

    def run(self, some: Sequence[Word], jobs: int) -> Iterator[Result]:
        """Change words and yield what became of each, in their order."""
        parts = [some[at : at + _AT_A_TIME] for at in range(0, len(some), _AT_A_TIME)]
        works = [partial(self._change, part) for part in parts]
        for part, (results, trouble) in zip(parts, apart(works, jobs)):
            if results is not None:
                yield from results
                continue
            for word in part:
                one, trouble = next(apart([partial(self._change, [word])], 1))
                yield one[0] if one else _died(word, trouble)

    def prove(self, some: Sequence[Tuple[Word, str]], jobs: int) -> Iterator[str]:
        """Yield what a check of the whole machine says of changes made before all else."""
        works = [partial(self._wholly, word, name) for word, name in some]
        for outcome, trouble in apart(works, jobs):
            yield outcome or trouble

    def _wholly(self, word: Word, mutation: str) -> str:
        number = word.mutations(self.prog, self.seed)[mutation]
        assert number is not None
        was = self.prog.read(word.address, word.size)
        overlay(self.prog, [Write(word.address, word.stored(was, number))])
        return self._judge(self._look)[0]

    def _change(self, some: Sequence[Word]) -> List[Result]:
        board = Board(self.prog, some)
        results = [Result(word) for word in some]
        whole = [word for word in some if word.cache is None]
        # What no check has read cannot change what it says.
        unread = set(whole) - board.read_by(self._look) if whole else set()
        for mutation in MUTATIONS:
            pending: List[Result] = []
            for result in results:
                word = result.word
                number = word.mutations(self.prog, self.seed)[mutation]
                if number is None or word in unread:
                    result.outcomes[mutation] = "same" if number is None else "silent"
                    continue
                board.put(word, number)
                caches = [] if word.cache is None else [word.cache]
                found = self._judge(partial(self._look, caches) if caches else self._pages)
                board.clear()
                if found[0] in ("finding", "exception"):
                    self._tell(result, mutation, found)
                else:
                    pending.append(result)
            self._settle(board, pending, mutation)
        return results

    def _settle(self, board: Board, pending: Sequence[Result], mutation: str) -> None:
        # If all of them together are passed in silence, so is each.
        if not pending:
            return
        self._put(board, pending, mutation)
        found = self._judge(self._look)
        board.clear()
        if found[0] == "silent" or len(pending) == 1:
            for result in pending:
                self._tell(result, mutation, found)
            return
        rest: List[Result] = []
        for result in pending:
            self._put(board, [result], mutation)
            found = self._judge(self._pages) if result.word.cache else ("silent", "")
            board.clear()
            if found[0] == "finding":
                self._tell(result, mutation, found)
            else:
                rest.append(result)
        half = (len(rest) + 1) // 2
        self._settle(board, rest[:half], mutation)
        self._settle(board, rest[half:], mutation)

    def _put(self, board: Board, some: Sequence[Result], mutation: str) -> None:
        for result in some:
            number = result.word.mutations(self.prog, self.seed)[mutation]
            assert number is not None
            board.put(result.word, number)

    @staticmethod
    def _tell(result: Result, mutation: str, found: Tuple[str, str]) -> None:
        result.outcomes[mutation], result.told[mutation] = found

    def _judge(self, look: Callable[[], Optional[Report]]) -> Tuple[str, str]:
        if not is_dump(machine(self.prog)):
            return self._judge_here(look)
        # A check of a dump may cover pages of zeroes, and what is changed on them later.
        found, trouble = next(apart([partial(self._judge_here, look)], 1))
        return found or ("exception", trouble.strip().splitlines()[-1])

    def _judge_here(self, look: Callable[[], Optional[Report]]) -> Tuple[str, str]:
        try:
            report = look()
            if report is None:
                return "silent", ""
            if report.findings:
                "".join(present("check", report, "table"))
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error} ({at.filename.split('/')[-1]}:{at.lineno})"
            return "exception", what
        said = _said(report)
        for outcome in ("finding", "changing", "unavailable", "note"):
            new = [one for one in said if one[0] == outcome and one not in self.clean]
            if new:
                return outcome, str(min(new, key=lambda one: (one[1], str(one)))[2])
        return "silent", ""

    def _pages(self) -> Report:
        # What a check of the machine says beside what it says of each cache.
        _forget(self.prog)
        kernel = machine(self.prog)
        seen = Lookup(kernel)
        found = renumber(join(filter(None, [judge_machine(seen.whole)])))
        told = settle(found, kernel.layout.allocator, lambda work: witnesses(kernel).of(work))
        report = Report(Target("core"), LayoutSummary(kernel.layout.encoding.name, ""))
        shelves = ("note", "unavailable")
        report.findings = [one for one in told if not one.moving and one.rule not in shelves]
        report.findings = explain(seen, report.findings)
        return report

    def _look(self, caches: Sequence[str] = ()) -> Optional[Report]:
        _forget(self.prog)
        try:
            return check(self.prog, caches=caches)
        except TargetError:
            if caches:  # its name is what was changed
                return None
            raise


def _forget(prog: Program) -> None:
    # What the library has read of memory; what it knows of types stays.
    kernel = machine(prog)
    kernel.kept.clear()
    kernel._facts.clear()


def _died(word: Word, trouble: str) -> Result:
    last = trouble.strip().splitlines()[-1]
    return Result(word, dict.fromkeys(MUTATIONS, "exception"), dict.fromkeys(MUTATIONS, last))


def _said(report: Report) -> Said:
    # (shelf, 1 for consequences, code, what it is about)
    shelves = (
        ("finding", report.findings),
        ("changing", report.changing),
        ("unavailable", report.unavailable),
        ("note", report.notes),
    )
    return {
        (shelf, int(one.because is not None), one.code, *_about(one))
        for shelf, found in shelves
        for one in found
    }


def _about(finding: Finding) -> Tuple[Any, ...]:
    return (finding.message, *finding.key())
