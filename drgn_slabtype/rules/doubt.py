# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A rule doubts itself
--------------------

Damage is rare. What most objects or slabs of most caches break is a layout that
is not understood, and is said once as what it is. A single damaged word can
show in all slabs of a cache, but not in most caches: what follows from a root
does not count, and what explains the whole machine leaves no doubt.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..codes import CATALOGUE
from ..findings import CacheResult, Finding, Outcome

_FEWEST = 4  # caches, and
_FEWEST_ALIKE = 9  # objects of one cache that are not damaged alike by chance
_SHOWN = 3  # examples
_STRETCH_BYTES = 4096  # that one write may run over
_SOUND_SHARE = 3  # one sound cache to so many that are not, at least

# Damage of which all else on the machine may be a consequence.
_EXPLAINS_ALL = frozenset({"machine-wrong", "memory-map", "cache-list"})
# Variables that lead to caches, through which nothing is read.
_EXPLAINS_NONE = frozenset({"kmalloc_caches", "kmem_cache", "kmem_cache_node"})
# Nothing that runs over reaches it but over a red zone or a track.
_PADDING = "padding after the slot"
# Members of a node: of these a cache has one, not one a slab.
_PER_CACHE = frozenset({"list-broken", "cache-wrong", "cache-destroyed"})
_NEVER = frozenset({"note", "unavailable"})

_Rule = Tuple[Optional[str], ...]  # code, place where that makes a rule of its own, cache


class _Broken(NamedTuple):
    # One rule in one cache.
    cache: str
    broken: int
    judged: int

    @property
    def mostly(self) -> bool:
        return 2 * self.broken > self.judged


def doubt(
    findings: Sequence[Finding], caches: Iterable[CacheResult], whole: bool = True
) -> List[Finding]:
    """
    Return the findings, those of rules that most of the machine breaks as one each.

    :param findings: Of all caches, with their roots; what moves does not count.
    :param caches: What was judged. The outcome of those that are not understood
        says so; what else is found of one overrides it.
    :param whole: Whether these are all caches of the machine. A few that somebody has
        chosen say nothing of the others.
    """
    by_name = {result.name: result for result in caches}
    kept = _once(findings, by_name)
    told = (one for one in kept if one.place not in _EXPLAINS_NONE)
    if any(one.code in _EXPLAINS_ALL for one in told):
        return kept
    doubted: Dict[_Rule, Finding] = {}
    for rule, broken in _by_rule(kept, by_name).items():
        things = [_population(rule, result) for result in by_name.values()]
        judged = sum(count > 0 for count in things)
        most = [one for one in broken if one.mostly]
        # Of small caches one thing is most; that says nothing of the machine.
        often = 3 * sum(one.broken for one in broken) > sum(things)
        much = often and len(most) >= _FEWEST and 2 * len(most) > judged
        # One that has no slabs has a node all the same.
        sound = (len(by_name) if _is_per_cache(rule) else judged) - len(broken)
        if whole and much and not _is_stretch(rule, kept, len(broken), sound):
            what = f"most of what was judged contradicts the rule in {len(most)} of {judged} caches"
            doubted[rule] = _told(rule, what, broken)
            for one in broken:
                by_name[one.cache].outcome = Outcome.UNAVAILABLE
        elif rule[1] == _PADDING:
            for one in most:
                key = (*rule, one.cache)
                if one.broken >= _FEWEST_ALIKE:
                    doubted[key] = _told(rule, "most slots hold something else", [one])
    return _without(kept, doubted)


def _rule(finding: Finding) -> _Rule:
    return finding.code, finding.place if finding.rule == "content" else None


def _keys(finding: Finding) -> Set[_Rule]:
    rule = _rule(finding)
    return {rule, (*rule, finding.cache)}


def _population(rule: _Rule, result: CacheResult) -> int:
    place = rule[1]
    if place is not None:
        return result.judged.get(place, 0)
    if _is_per_cache(rule):
        return 1 if result.slabs else 0
    return result.slabs


def _is_per_cache(rule: _Rule) -> bool:
    code = rule[0] or ""
    per_cache = code in _PER_CACHE or CATALOGUE[code].rule == "container"
    return rule[1] is None and (per_cache or code.startswith("node-"))


def _by_rule(
    findings: Iterable[Finding], caches: Dict[str, CacheResult]
) -> Dict[_Rule, List[_Broken]]:
    # Which things of which caches break each rule of themselves.
    things: Dict[_Rule, Dict[str, Set[Tuple[object, ...]]]] = {}
    for finding in findings:
        counts = finding.because is None and not finding.moving and finding.rule not in _NEVER
        # What is in no slab says nothing of how those of its cache are made.
        counts &= finding.rule != "content" or finding.slab is not None
        if counts and finding.cache in caches:
            rule = _rule(finding)
            own = finding.index if finding.rule == "content" else None
            at = finding.page if finding.slab is None else finding.slab
            thing = (at, own) if at is not None else (finding.node, finding.place)
            things.setdefault(rule, {}).setdefault(str(finding.cache), set()).add(thing)
    return {
        rule: [
            _Broken(name, len(broken), _population(rule, caches[name]))
            for name, broken in of_caches.items()
        ]
        for rule, of_caches in things.items()
    }


def _is_stretch(rule: _Rule, findings: Iterable[Finding], broken: int, sound: int) -> bool:
    # Structures of many caches lie side by side. What breaks those of one page, and no
    # others, is no matter of layout, unless it is in every slot.
    if rule[1] is not None:
        return False
    some = [one for one in findings if _rule(one) == rule and one.because is None]
    words = [one.address if one.word is None else one.word for one in some]
    known = [word for word in words if word is not None]
    if len(known) < len(words) or not known:
        return False
    near = max(known) - min(known) < _STRETCH_BYTES
    return near and _SOUND_SHARE * sound >= broken


def _told(rule: _Rule, what: str, broken: List[_Broken]) -> Finding:
    name = rule[1] or rule[0]
    ranked = sorted(broken, key=lambda one: -one.broken)
    shown = [f"{one.broken} of {one.judged} in {one.cache}" for one in ranked[:_SHOWN]]
    if len(ranked) > _SHOWN:
        shown.append(f"{len(ranked) - _SHOWN} more caches")
    return Finding(
        "not-understood",
        f"layout not understood: {name}: {what} ({', '.join(shown)})",
        cache=ranked[0].cache if len(ranked) == 1 else None,
        place=name,
        found=sum(one.broken for one in broken),
    )


def _without(findings: List[Finding], doubted: Mapping[_Rule, Finding]) -> List[Finding]:
    # With the doubted go those that follow from them.
    gone = {f.id for f in findings if f.because is None and _keys(f) & doubted.keys()}
    kept = [f for f in findings if f.id not in gone and f.because not in gone]
    last = max((f.id for f in findings), default=0)
    return [*kept, *(replace(one, id=last + at) for at, one in enumerate(doubted.values(), 1))]


def _once(findings: Sequence[Finding], caches: Mapping[str, CacheResult]) -> List[Finding]:
    # What is not understood of many caches is one statement.
    some = [f for f in findings if f.code == "not-understood" and f.because is None]
    if len(some) < 2:
        return list(findings)
    for finding in some:
        if finding.cache is not None and finding.cache in caches:
            caches[finding.cache].outcome = Outcome.UNAVAILABLE
    shown = [f.message for f in some[:_SHOWN]]
    if len(some) > _SHOWN:
        shown.append(f"{len(some) - _SHOWN} more caches")
    ids = {f.id for f in some}
    merged = replace(some[0], cache=None, message=f"layout not understood: {'; '.join(shown)}")
    return [*(f for f in findings if f.id not in ids), merged]
