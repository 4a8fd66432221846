# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One address
-----------

Which object it lies in, who holds that object and which place says so; or what
it is instead.
"""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional, Tuple

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.common.format import escape_ascii_string

from ..ledger import Ledger, ListKind
from ..machine import Machine
from ..machine.kfence import KfencePool, kfence_pool
from ..machine.shadow import shadow
from ..pages.scan import page_ranges
from ..records import plural
from .address import AddressInfo
from .elsewhere import elsewhere
from .guarded import state_of
from .lookup import Judged, Located, Lookup
from .slots import Slot, slot
from .states import LISTS, Objects, ObjectState, SlabObject, places_of
from .tracks import Track, kfence_track


def describe(reading: Lookup, addr: int) -> AddressInfo:
    """Return what an address is, as of one reading of the machine."""
    machine = reading.machine
    addr = machine.memory.tags.removed_from(addr & machine.memory.address_mask)
    pool = machine.settled(kfence_pool)
    if pool.contains(np.array([addr], np.uint64))[0]:
        return _kfence(machine, pool, addr)
    slab = reading.at(addr)
    if slab is not None and slab.number >= 0:
        return describe_in(slab, addr)
    beside = (addr - machine.page.vmemmap) % machine.page.size
    slab = reading.of_page(addr - beside)
    if slab is not None:
        return _struct_slab(slab, addr, beside)
    pfn = (addr - beside - machine.page.vmemmap) // machine.page.size
    if any(start <= pfn < end for start, end in page_ranges(machine)):
        slab = reading.at(machine.memory.linear_base + (pfn << machine.memory.page_shift))
        if slab is not None:
            return _tail_of_slab(slab, addr, beside, pfn)
    said = machine.settled(shadow)
    about = None if said is None else said.about(addr)
    if said is not None and about is not None:
        # The shadow has a shadow itself, and one of its bytes could be its own.
        nested = said.about(about) is not None
        whose = "the shadow itself" if nested else spell(describe(reading, about))
        return AddressInfo(addr, "other", f"KASAN's shadow of 0x{about:x}: {whose}")
    return elsewhere(machine, addr)


def spell(info: AddressInfo) -> str:
    """Return what an address is, with the state of the object there, and what that holds."""
    if info.state is None:
        return info.meaning
    where = f", {'; '.join(info.places)}" if info.places else ""
    part = f", in its {info.part}" if info.part else ""
    holds = f"; it holds {info.holds}" if info.holds else ""
    return f"{info.meaning}{part} ({info.state}{where}{holds})"


def describe_in(slab: Located, addr: int) -> AddressInfo:
    """
    Return what an address in the memory of a slab is.

    :param slab: A slab of some cache.
    """
    machine = slab.machine
    judged, page = slab.judged, slab.page
    facts, slabs = judged.ledger.facts, judged.ledger.slabs
    known = np.flatnonzero(slabs.page == np.uint64(page))
    local = int(known[0]) if len(known) else -1
    layout = slot(machine, slab.caches, slab.number)
    base, count = (int(slabs.base[local]), int(slabs.objects[local])) if len(known) else (0, 0)
    index = (addr + layout.before - base) // facts.stride
    where = f"{facts.name} slab 0x{page:x}"
    if not 0 <= index < count:
        none = "but in none of its objects"
        if not len(known):
            none = "whose links say that it is a tail: of its objects nothing is known"
        return AddressInfo(
            addr,
            "slab",
            f"in {where}, {none}",
            cache=facts.name,
            slab_cache=facts.address,
            slab=page,
            contradictions=_contradictions(judged, page, None),
        )
    first = int(np.searchsorted(judged.objects.slab, local))
    info = _object(machine, judged, layout, first + index, addr)
    kind, owner = standing(judged.ledger, local)
    return replace(info, list=kind, owner=owner)


def standing(ledger: Ledger, row: int) -> Tuple[Optional[str], Optional[int]]:
    """
    Return the list that a slab stands on, and the CPU or node whose that is.

    :param row: Of ``ledger.slabs``.
    """
    members = ledger.memberships
    at = np.flatnonzero(members.slab == row)
    if not len(at):
        return None, None
    owner = int(members.owner[at[-1]])
    return LISTS.get(ListKind(int(members.kind[at[-1]]))), owner if owner >= 0 else None


def _object(machine: Machine, judged: Judged, layout: Slot, row: int, addr: int) -> AddressInfo:
    objects, facts = judged.objects, judged.ledger.facts
    found = objects[row]
    offset = addr - found.address
    return AddressInfo(
        addr,
        "slab object",
        f"{_spell_offset(offset)}object {found.index} of {facts.name} slab 0x{found.slab:x}",
        cache=facts.name,
        slab_cache=facts.address,
        slab=found.slab,
        object=found.address,
        index=found.index,
        offset=offset,
        part=layout.part(offset),
        state=found.state,
        places=tuple(places_of(objects, row)),
        contradictions=_contradictions(judged, found.slab, found),
        previous=_neighbour(objects, row, -1),
        next=_neighbour(objects, row, 1),
        tracks=_tracks(machine, layout, found.address),
        shadow=_shadow(machine, addr),
    )


def _shadow(machine: Machine, addr: int) -> Optional[str]:
    said = machine.settled(shadow)
    return None if said is None else said.told(addr)


def _spell_offset(offset: int) -> str:
    if not offset:
        return ""
    many = "byte" if abs(offset) == 1 else "bytes"
    return f"{offset} {many} into " if offset > 0 else f"{-offset} {many} before "


def _neighbour(objects: Objects, row: int, step: int) -> Optional[SlabObject]:
    other = row + step
    if not 0 <= other < len(objects) or objects.slab[other] != objects.slab[row]:
        return None
    return objects[other]


def of_slab(judged: Judged, slab: int) -> List[str]:
    """Return what is said of a slab (``struct slab *``), and of none of its objects."""
    return [
        finding.message
        for finding in judged.findings
        if finding.slab == slab
        and finding.object is None
        and finding.rule not in ("note", "unavailable")
    ]


def _contradictions(judged: Judged, slab: int, found: Optional[SlabObject]) -> Tuple[str, ...]:
    # Findings about the object; about its slab as long as they can concern it; and what it
    # was left behind by.
    messages: List[str] = []
    in_use = found is not None and found.state == ObjectState.IN_USE.spelled
    for finding in judged.findings:
        if finding.code == "cache-destroyed" and in_use:
            messages.append(finding.message)
        if finding.slab != slab or finding.rule in ("note", "unavailable"):
            continue
        # A place may record what is no object, but lies in one.
        beside = 0 if found is None else (finding.object or 0) - found.address
        inside = found is not None and 0 <= beside < max(judged.ledger.facts.stride, 1)
        if finding.object is None or inside:
            messages.append(finding.message)
    unknown = found is not None and found.state == ObjectState.UNKNOWN.spelled
    changing = any(finding.slab == slab for finding in judged.changing)
    if unknown and not messages and not changing:
        messages.append("the slab's count and its freelist disagree")
    return tuple(messages)


def _tracks(machine: Machine, layout: Slot, address: int) -> Tuple[Track, ...]:
    try:
        return layout.events(machine, address)
    except FaultError:
        return ()


def _struct_slab(slab: Located, addr: int, offset: int) -> AddressInfo:
    number, caches = slab.number, slab.caches
    name = caches.names[number] if number >= 0 else None
    address = int(caches.addresses[number]) if number >= 0 else None
    start = int(slab.index.addresses[slab.row])
    kind = slab.index.layout.slab_struct
    of = f"{name} slab" if name else "slab of no cache"
    said: Tuple[str, ...] = ()
    kind_of_list = owner = None
    if number >= 0:
        judged = slab.judged
        # One whose links say that it is a tail is none of the whole reading's.
        local = np.flatnonzero(judged.ledger.slabs.page == np.uint64(slab.page))
        if len(local):
            kind_of_list, owner = standing(judged.ledger, int(local[0]))
        # A reading of one slab does not follow a CPU's list.
        said = tuple(
            finding.message
            for finding in judged.findings
            if finding.slab == slab.page
            and finding.rule not in ("note", "unavailable")
            and finding.place != LISTS[ListKind.CPU_PARTIAL]
        )
    return AddressInfo(
        addr,
        "struct slab",
        f"{_spell_offset(offset)}the struct {kind} of the {of} at 0x{start:x}",
        cache=name,
        slab_cache=address,
        slab=slab.page,
        offset=offset,
        list=kind_of_list,
        owner=owner,
        contradictions=said,
        page=slab.page,
        pfn=int(slab.index.pfns[slab.row]),
    )


def _tail_of_slab(slab: Located, addr: int, offset: int, pfn: int) -> AddressInfo:
    name = slab.caches.names[slab.number] if slab.number >= 0 else None
    tail = pfn - int(slab.index.pfns[slab.row])
    of = f"{name} slab" if name else "slab of no cache:"
    return AddressInfo(
        addr,
        "struct page",
        f"{_spell_offset(offset)}the struct page of PFN {pfn:#x}, tail {tail} of {of} "
        f"0x{slab.page:x}",
        cache=name,
        slab_cache=int(slab.caches.addresses[slab.number]) if name else None,
        slab=slab.page,
        offset=offset,
        contradictions=_contradictions(slab.judged, slab.page, None) if name else (),
        page=addr - offset,
        pfn=pfn,
        page_types=slab.machine.layout.encoding.types_of(int(slab.index.words[slab.row])),
    )


def _kfence(machine: Machine, pool: KfencePool, addr: int) -> AddressInfo:
    # Each object has two pages, the second a guard; so have the metadata of all.
    pair = (addr - pool.start) // (2 * machine.memory.page_size) - 1
    size = machine.structure("struct kfence_metadata").size
    if pair < 0 or not pool.metadata:
        return AddressInfo(addr, "kfence object", "in KFENCE's pool, before its first object")
    first = int(pool.metadata[0].addresses[0])
    metadata = Object(machine.prog, "struct kfence_metadata", address=first + pair * size)
    try:
        return _kfence_object(machine, metadata, addr, pair)
    except FaultError:
        return AddressInfo(addr, "kfence object", "in KFENCE's pool; its metadata is not there")


def _kfence_object(machine: Machine, metadata: Object, addr: int, pair: int) -> AddressInfo:
    name, cache = _cache_name(machine, metadata.cache)
    object = metadata.addr.value_()
    size = metadata.size.value_()
    inside = object <= addr < object + size
    page = machine.memory.page_size
    beside = "red zone" if addr // page == object // page else "guard page"
    tracks = [
        kfence_track(machine, event, getattr(metadata, member))
        for event, member in (("allocated", "alloc_track"), ("freed", "free_track"))
    ]
    return AddressInfo(
        addr,
        "kfence object",
        f"{_spell_offset(addr - object)}object {pair} of KFENCE's pool, {plural(size, 'byte')}"
        + (f" for {name}" if name else ""),
        cache=name,
        slab_cache=cache,
        object=object,
        index=pair,
        offset=addr - object,
        part=None if inside else beside,
        state=state_of(machine, metadata.state.value_()),
        places=("KFENCE's metadata",),
        tracks=tuple(track for track in tracks if track is not None),
    )


def _cache_name(machine: Machine, cache: Object) -> Tuple[Optional[str], Optional[int]]:
    try:
        name = escape_ascii_string(cache.name.string_(), escape_backslash=True) if cache else None
    except FaultError:
        name = None
    return name, cache.value_() or None
