# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One object in KFENCE's pool
---------------------------

Its bytes and those beside it, which hold a pattern for as long as it is given
out, and what the check says of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, List

from ..allocators.guarded import judge_pool
from ..findings import Finding
from ..machine import Machine, has_contents
from ..machine.kfence import kfence_pool
from ..machine.witness import witnesses
from ..rules.excuses import settle
from .address import AddressInfo
from .lookup import Lookup
from .objectbytes import LEFT_OUT, Part, lines, words

_BESIDE = 64  # bytes on each side of an object that are told


def with_guarded(reading: Lookup, info: AddressInfo, count: int) -> AddressInfo:
    """
    Return what is known of an object in KFENCE's pool, with what the check says of it.

    :param count: So many of its bytes, and some on each side of it.
    """
    kernel, object, index = reading.machine, info.object, info.index
    assert object is not None
    assert index is not None
    findings = _findings(reading, object)
    info = replace(info, contradictions=tuple(one.message for one in findings))
    if not count:
        return info
    there = has_contents(kernel)
    wanted = list(_parts(kernel, index, count if there else 0))
    told = [
        one
        for part in wanted
        if part.name == "object"
        for one in words(reading, object, part.first, part.last)
    ]
    shown, missing = lines(kernel, object, wanted, findings)
    if not there and not any(line.bytes.strip("0 ") for line in shown):
        shown = []  # older captures do not have that
    return replace(
        info,
        lines=tuple(shown),
        words=tuple(told),
        unavailable=(*([] if there else [LEFT_OUT]), *missing),
        incomplete=bool(missing),
    )


def _findings(reading: Lookup, object: int) -> List[Finding]:
    kernel = reading.machine
    # Who is at work is looked for only if something is wrong.
    found = [one for one in judge_pool(kernel, reading.listed) if one.object == object]
    if found:
        found = settle(found, kernel.layout.allocator, witnesses(kernel).of)
    return [one for one in found if not one.moving]


def _parts(machine: Machine, index: int, count: int) -> Iterator[Part]:
    # Of its page, as debugging of slabs calls them.
    for rows in machine.settled(kfence_pool).metadata:
        if index < len(rows):
            break
        index -= len(rows)
    else:
        return
    page = machine.memory.page_size
    first, size = int(rows["addr"][index]) % page, int(rows["size"][index])
    end = min(size, page - first)
    if first:
        yield Part("left red zone", -min(first, _BESIDE), 0)
    if count:
        yield Part("object", 0, min(end, count))
    if first + end < page:
        yield Part("right red zone", end, min(end + _BESIDE, page - first))
