# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One address
-----------

Which object it lies in, who holds that object and which place says so; or what
it is instead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, List, Optional

import numpy as np
from drgn import IntegerLike, Program

from ..arguments import address_of, at_least
from ..findings import Stretch
from ..ledger import Ledger, Walk
from ..machine import Machine, has_contents, machine
from ..pages.scan import page_ranges
from ..rules.claims import container_name
from .address import AddressInfo
from .culprit import locate
from .describe import describe, of_slab
from .extent import stretches
from .guardedobject import with_guarded
from .lookup import Located, Lookup, lookup
from .objectbytes import LEFT_OUT, LINE, damaged_parts, lines, parts, words
from .own import named_by_sheaf, own_structure, with_own
from .slots import slot
from .what import meanings

_SMALL_BYTES = 1 << 30


def slab_object(
    prog: Program,
    addr: IntegerLike,
    *,
    contents: int = 0,
    neighbours: int = 1,
    everywhere: Optional[bool] = False,
) -> AddressInfo:
    """
    Return what an address is.

    >>> info = slab_object(prog, 0xffff8880008e2048)
    >>> info.cache, hex(info.object), info.offset, info.state, info.places
    ('kmalloc-64', '0xffff8880008e2040', 8, 'free', ('cpu array of CPU 0, position 14',))

    :param addr: Any address: of an object or inside one, of a page, of code. Of a
        word that leads nowhere, ``meanings`` says what else it can be.
    :param contents: So many bytes of the object, those beside it, and what the words
        among them are.
    :param neighbours: How many objects to tell before and after it.
    :param everywhere: Ask all caches of the machine whether they record it, too; ``None``: where
        that takes little, in a dump of a machine with no more than 1 GiB of memory.
    :raises ArgumentError: if *addr* is no address, or a number is negative.
    :raises LayoutError: if the kernel's layout is not understood.
    """
    at_least("contents", contents)
    at_least("neighbours", neighbours)
    address = address_of(addr)
    reading = lookup(machine(prog))
    with reading.machine.moment():
        info = _asked(reading, address, contents, neighbours)
    if everywhere is None:
        everywhere = _is_small(reading.machine)
    if not everywhere:
        return info
    info = _with_records(reading, info) if info.kind == "slab object" else info
    return _with_findings(reading, _with_those_of_its_slab(reading, info))


def _is_small(machine: Machine) -> bool:
    pages = sum(end - start for start, end in page_ranges(machine))
    return not machine.is_live and pages << machine.memory.page_shift <= _SMALL_BYTES


def _asked(reading: Lookup, address: int, contents: int, neighbours: int) -> AddressInfo:
    info = describe(reading, address)
    if not info.is_known:
        return replace(info, meanings=meanings(reading, address))
    if info.kind == "kfence object" and info.object is not None:
        return with_guarded(reading, info, contents)
    if info.kind != "slab object":
        return info
    # Telling what it is has read its slab already: no more than that is read again.
    info = with_own(reading, info)
    if not neighbours:
        info = replace(info, previous=None, next=None)
    slab = reading.at(address) if contents or neighbours != 1 else None
    if slab is not None and slab.number >= 0:
        if contents:
            info = _with_contents(reading, slab, info, contents)
        if neighbours != 1:
            info = _with_neighbours(slab, info, neighbours)
    return info


def _with_contents(reading: Lookup, slab: Located, info: AddressInfo, count: int) -> AddressInfo:
    kernel, object = reading.machine, info.object
    assert object is not None
    size = slab.judged.ledger.facts.object_size
    findings = [one for one in slab.judged.findings if one.object == object]
    there = has_contents(kernel)
    wanted = list(parts(slot(kernel, slab.caches, slab.number), size, count if there else 0))
    # What debugging promises was kept, and so was what it is instead.
    start, row = (count, LINE) if there else (0, 1)
    wanted += damaged_parts(object, size, findings, start, row)
    wanted.sort(key=lambda part: part.first)
    wide = [(part.first, part.last) for part in wanted if part.name == "object"]
    told = [one for first, last in wide for one in words(reading, object, first, last)]
    reach = tuple(_stretches(reading, slab, object))
    overwritten = [_overwritten(one, range(object, object + size)) for one in reach]
    shown, missing = lines(kernel, object, wanted, findings, overwritten)
    return replace(
        info,
        lines=tuple(shown),
        words=tuple(told),
        stretches=reach,
        unavailable=(*([] if there else [LEFT_OUT]), *missing),
        incomplete=bool(missing),
    )


def _overwritten(stretch: Stretch, object: range) -> range:
    # What begins in an object itself is what its user wrote, up to its end.
    return range(object.stop if stretch.start in object else stretch.start, stretch.end)


def _stretches(reading: Lookup, slab: Located, object: int) -> Iterator[Stretch]:
    # Of what is said of the object, and of its slab where that says no object.
    about = [
        finding
        for finding in slab.judged.findings
        if finding.slab == slab.page and finding.object in (None, object)
    ]
    found = [
        stretch for stretches_of_one in stretches(reading, about) for stretch in stretches_of_one
    ]
    # Findings have numbers in reports alone.
    yield from dict.fromkeys(stretch._replace(findings=()) for stretch in found)


def _with_neighbours(slab: Located, info: AddressInfo, count: int) -> AddressInfo:
    objects = slab.judged.objects
    rows = np.flatnonzero(objects.address == np.uint64(info.object or 0))
    row = int(rows[0])
    around = range(max(row - count, 0), min(row + count + 1, len(objects.address)))
    own = objects.slab[row]
    near = tuple(objects[at] for at in around if at != row and objects.slab[at] == own)
    return replace(info, neighbours=near)


def _with_records(reading: Lookup, info: AddressInfo) -> AddressInfo:
    # Places of other caches hold it, or a freelist of theirs leads to it.
    assert info.object is not None
    allocator, index = reading.whole.allocator, reading.whole.index
    own = reading.number(info.slab_cache or 0)
    size = max(int(reading.caches.rows["object_size"][own]), 1)
    about = range(info.object, info.object + size)
    found: List[str] = []
    for number in range(len(reading.caches)):
        if number != own:
            found += _foreign(allocator.collect(number, index, about), about)
    told = tuple(f"recorded as free in {place}, of another cache" for place in found)
    return replace(
        info,
        places=(*info.places, *found),
        contradictions=(*info.contradictions, *told),
        everywhere=True,
    )


def _with_those_of_its_slab(reading: Lookup, info: AddressInfo) -> AddressInfo:
    # Some are told only beside all other slabs.
    if info.slab is None or info.slab_cache is None:
        return info
    judged = reading.judged(reading.number(info.slab_cache))
    said = of_slab(judged, info.slab)
    return replace(info, contradictions=tuple(dict.fromkeys([*info.contradictions, *said])))


def _with_findings(reading: Lookup, info: AddressInfo) -> AddressInfo:
    # What is said of words of the allocator's own, of another cache than the object's, and of
    # those of a slab.
    number, about = -1, range(info.address, info.address + 1)
    if info.kind == "struct slab" and info.slab is not None and info.slab_cache is not None:
        number = reading.number(info.slab_cache)
        about = range(info.slab, info.slab + reading.machine.page.size)
    elif info.kind == "per-CPU" and info.slab_cache is not None:
        number = reading.number(info.slab_cache)
    elif info.kind == "slab object" and info.object is not None:
        # A sheaf that its place does not lead to any more says itself of which cache it is.
        kernel, caches = reading.machine, reading.caches
        own = None if info.holds is None else own_structure(kernel, caches, info.object)
        size = reading.caches.rows["object_size"][reading.number(info.slab_cache or 0)]
        about = range(info.object, info.object + int(size))
        number = named_by_sheaf(kernel, caches, info.object) if own is None else own.number
    if number < 0:
        return info
    width = reading.machine.memory.word_size
    said: List[str] = []
    for finding in reading.judged(number).findings:
        word = locate(reading.machine, finding).word
        if finding.rule in ("note", "unavailable") or word is None:
            continue
        if word < about.stop and word + width > about.start:
            said.append(finding.message)
    told = dict.fromkeys([*info.contradictions, *said])
    return replace(info, contradictions=tuple(told), everywhere=True)


def _foreign(ledger: Ledger, about: range) -> List[str]:
    claims, boxes = ledger.claims, ledger.containers
    start, size = np.uint64(about.start), np.uint64(len(about))
    inside = (claims.address - start < size) & (claims.slab < 0)
    found = [
        f"{container_name(ledger, int(claims.container[at]))} of {ledger.facts.name}, "
        f"position {claims.position[at]}"
        for at in np.flatnonzero(inside).tolist()
    ]
    ends = (boxes.value - start < size) & (boxes.state == Walk.POINTER)
    for box in np.flatnonzero(ends).tolist():
        where = f"{container_name(ledger, box)} of {ledger.facts.name}"
        slab = int(boxes.slab[box])
        if slab >= 0:
            where += f" slab 0x{ledger.slabs.page[slab]:x}"
        found.append(f"{where}, position {boxes.walked[box]}")
    return list(dict.fromkeys(found))
