# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who allocated what, and whose it is."""

from __future__ import annotations

from typing import List, Union

from ...answers.likeness import KindsAnswer
from ...answers.owners import OwnersAnswer
from ...answers.sites import Site
from ...answers.stacks import StacksAnswer
from ..values import plural, size
from ..views.stacks import KIND, OWNER, SITE
from ..views.stacks import stacks as view
from .lines import HANG, hung, see_check, table, text, unavailable


def stacks(answer: Union[StacksAnswer, KindsAnswer, List[Site]]) -> str:
    """Present objects by call trace or by what they hold, or call sites."""
    if isinstance(answer, StacksAnswer):
        return _traces(answer)
    if isinstance(answer, KindsAnswer):
        return _kinds(answer)
    return text(table(SITE.grid(answer)))


def _traces(answer: StacksAnswer) -> str:
    lines = table(view(answer.seconds).grid(answer.stacks)) if answer.stacks else []
    told = f"{plural(answer.tracked, 'object')} with a record, in {plural(answer.caches, 'cache')}"
    told += f", {plural(answer.found, 'call trace')}"
    if len(answer.stacks) < answer.found:
        told += f", {len(answer.stacks)} shown"
    if answer.untracked:
        told += f"; {plural(answer.untracked, 'object')} without one"
    if answer.overwritten:
        told += f"; {plural(answer.overwritten, 'object')} with one that is overwritten"
    told += f"; {answer.contradicted} unknown" if answer.contradicted else ""
    damaged = see_check(bool(answer.damaged), ", ".join(answer.damaged))
    return text([*lines, *unavailable(answer), told, *damaged])


def _kinds(answer: KindsAnswer) -> str:
    lines = table(KIND.grid(answer.kinds)) if answer.kinds else []
    told = f"{answer.cache}: {plural(answer.objects, 'object')} in use"
    if len(answer.kinds) < answer.found:
        told += f", {len(answer.kinds)} of {plural(answer.found, 'kind')} shown"
    told += f", {answer.contradicted} unknown" if answer.contradicted else ""
    if answer.unreadable:
        told += f", the contents of {answer.unreadable} not in the target"
    damaged = see_check(answer.damaged, answer.cache)
    return text([*lines, *unavailable(answer), told, *damaged])


def owners(answer: OwnersAnswer) -> str:
    """Present the objects of a cache by who has them."""
    lines = table(OWNER.grid(answer.owners)) if answer.owners else []
    told = f"{answer.cache}: {plural(answer.objects, 'object')} in use"
    if answer.found is not None and len(answer.owners) < answer.found:
        told += f", {len(answer.owners)} of {plural(answer.found, 'owner')} shown"
    told += f", {answer.uncharged} charged to no cgroup"
    told += f", {answer.guarded} more in KFENCE's pool" if answer.guarded else ""
    told += f", {answer.contradicted} unknown" if answer.contradicted else ""
    if answer.unknown:
        told += f", the records of {answer.unknown} not in the target"
    lines.append(told)
    cpus = answer.per_cpu
    for what, parts in (
        (
            "in use",
            (
                f"{count} on node {node} ({size(answer.node_bytes.get(node, 0))})"
                for node, count in answer.nodes.items()
            ),
        ),
        ("kept for later", (f"{n} on CPU {cpu}" for cpu, n in answer.cpus.items() if n)),
        ("waiting among them", (f"{one.waiting} on CPU {one.cpu}" for one in cpus if one.waiting)),
        (
            "in use in slabs of a CPU",
            (
                f"{one.in_use} in {plural(sum(one.lists.values()), 'slab')} of CPU {one.cpu}"
                for one in cpus
                if one.lists
            ),
        ),
    ):
        if told := ", ".join(parts):
            lines += hung(f"{what}: ", told, HANG)
    return text([*lines, *unavailable(answer), *see_check(answer.damaged, answer.cache)])
