# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The objects and slabs of a cache
--------------------------------

Every object with its state and the place that says so. Addresses are those
that users of the objects have, also where red zones lie before each object.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Iterator, Optional, Sequence, Union

from drgn import Object, Program, Type, TypeKind

from ..arguments import CacheLike, at_least, one_of, program_for, several, type_of
from ..machine import machine
from ..machine.kfence import kfence_pool
from .guarded import guarded_objects
from .lookup import Lookup, lookup
from .missing import missing_of_cache, missing_of_machine
from .proven import judge_caches, tell
from .states import Objects, ObjectState

STATES = {state.spelled: state for state in ObjectState}
"""What an object's state can be called."""


def objects(
    prog: Program,
    cache: CacheLike,
    state: Union[str, Sequence[str], None] = None,
    *,
    most: Optional[int] = None,
) -> Objects:
    """
    Return the objects of a slab cache.

    >>> for one in objects(prog, "kmalloc-64", "free")[:2]:
    ...     print(hex(one.address), one.state, one.place)
    0xffff8880008e2040 free cpu array of CPU 0
    0xffff8880008e23c0 free cpu array of CPU 0

    :param cache: Its name, that of a cache merged into it, or ``struct kmem_cache *``.
    :param state: ``in use``, ``free``, ``waiting`` or ``unknown``, or several of them;
        all if ``None``.
    :param most: Tell no more than so many; all are counted.
    :return: Columns; iterating gives records with ``address``, ``slab``, ``index``, ``state``,
        ``place`` and ``position``.
    :raises ArgumentError: if there is no such cache or state.
    """
    at_least("most", most)
    wanted = list(STATES) if state is None else several(state)
    for name in wanted:
        one_of("state", name, STATES)
    reading = lookup(machine(prog))
    number = reading.number(cache)
    judged = reading.judged(number)
    address = judged.ledger.facts.address
    guarded = guarded_objects(
        machine(prog), machine(prog).settled(kfence_pool), reading.whole.index, address
    )
    found = judged.objects
    if state is not None:
        found = found.in_states({STATES[name] for name in wanted})
    missing = (
        missing_of_machine(reading.whole),
        missing_of_cache(reading.whole, number, judged.ledger),
    )
    found = replace(found, guarded=tuple(one for _, one in guarded if one.state in wanted))
    told = found if most is None else found.first(most)
    return replace(
        told,
        damaged=is_damaged(reading, number),
        unavailable=tuple(chain(*missing)),
        found=len(found),
        guarded_found=len(found.guarded),
    )


def is_damaged(reading: Lookup, number: int) -> bool:
    """Return whether there is a finding about a cache; what moves takes more than one look."""
    if reading.machine.is_live or not reading.judged(number).findings:
        return False
    address = int(reading.caches.addresses[number])
    _, told = tell(reading.whole, number)
    return address in judge_caches(reading.whole, [told], whole=False).damaged


def for_each_object(
    slab_cache: CacheLike,
    type: Union[str, Type] = "void",
    state: str = "in use",
    *,
    prog: Optional[Program] = None,
) -> Iterator[Object]:
    """
    Iterate over the objects of a slab cache.

    Unlike drgn's ``slab_cache_for_each_allocated_object()``, this knows about
    the objects that sheaves, barns, deferred frees and KFENCE hold, and has the
    right addresses where debugging pads objects. It leaves out objects whose state
    the structures do not agree about.

    >>> for cache in for_each_object("kmem_cache", "struct kmem_cache"):
    ...     print(cache.name.string_().decode(), slab_object(prog, cache).index)
    ...     break
    kmalloc-128 0

    :param slab_cache: ``struct kmem_cache *``, or the name or address of one.
    :param type: Type of the objects, or of a pointer to one.
    :param state: ``in use``, ``free``, ``waiting`` or ``unknown``.
    :param prog: Needed for a name or an address, unless drgn has a default program.
    :return: Iterator of ``type *`` objects.
    :raises ArgumentError: if there is no such cache, state or type.
    """
    prog = program_for(slab_cache, prog)
    pointer = type_of(prog, type)
    if pointer.unaliased_kind() != TypeKind.POINTER:
        pointer = prog.pointer_type(pointer)
    for address in objects(prog, slab_cache, state).addresses():
        yield Object(prog, pointer, value=address)


def for_each_slab(slab_cache: CacheLike, *, prog: Optional[Program] = None) -> Iterator[Object]:
    """
    Iterate over the slabs of a slab cache.

    These are all slabs, whatever list or CPU they are on, full ones that are on
    none included, and those that have lost their mark. KFENCE's are left out.

    >>> for slab in for_each_slab(find_slab_cache("kmalloc-8k")):
    ...     print(hex(slab), slab_get_active(slab))
    ...     break
    0xffffea0000028100 1

    :param slab_cache: ``struct kmem_cache *``, or the name or address of one.
    :param prog: Needed for a name or an address, unless drgn has a default program.
    :return: Iterator of ``struct slab *`` objects (``struct page *`` before
        Linux 5.17).
    :raises ArgumentError: if there is no such cache.
    """
    prog = program_for(slab_cache, prog)
    reading = lookup(machine(prog))
    pointer = prog.type(f"struct {machine(prog).layout.slab_struct} *")
    for page in reading.judged(reading.number(slab_cache)).ledger.slabs.page.tolist():
        yield Object(prog, pointer, value=page)
