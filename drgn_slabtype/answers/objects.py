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
from typing import Iterator, Sequence, Union

from drgn import Object, Program, Type, TypeKind

from ..machine import machine
from ..machine.kfence import kfence_pool
from .guarded import guarded_objects
from .lookup import lookup
from .missing import missing_of_cache, missing_of_machine
from .states import Objects, ObjectState

STATES = {state.spelled: state for state in ObjectState}
"""What an object's state can be called."""


def objects(
    prog: Program,
    cache: Union[str, int, Object],
    state: Union[str, Sequence[str], None] = None,
) -> Objects:
    """
    Return the objects of a slab cache.

    :param cache: Its name, or ``struct kmem_cache *``.
    :param state: ``in use``, ``free``, ``waiting`` or ``unknown``, or several of them;
        all if ``None``.
    :return: Columns; iterating gives :class:`~drgn_slabtype.answers.states.SlabObject`.
    :raises TargetError: if there is no such cache.
    :raises ValueError: if there is no such state.
    """
    wanted = [state] if isinstance(state, str) else list(state or STATES)
    unknown = [name for name in wanted if name not in STATES]
    if unknown:
        raise ValueError(f"{unknown[0]} is no state: these are {', '.join(STATES)}")
    reading = lookup(machine(prog))
    number = reading.number(cache)
    judged = reading.judged(number)
    address = judged.ledger.facts.address
    guarded = guarded_objects(
        machine(prog), kfence_pool(machine(prog)), reading.whole.index, address
    )
    found = judged.objects
    if state is not None:
        found = found.in_states({STATES[name] for name in wanted})
    missing = (
        missing_of_machine(reading.whole),
        missing_of_cache(reading.whole, number, judged.ledger),
    )
    return replace(
        found,
        guarded=tuple(one for _, one in guarded if one.state in wanted),
        unavailable=tuple(chain(*missing)),
    )


def for_each_object(
    slab_cache: Object, type: Union[str, Type] = "void", state: str = "in use"
) -> Iterator[Object]:
    """
    Iterate over the objects of a slab cache.

    Unlike drgn's ``slab_cache_for_each_allocated_object()``, this knows about
    the objects that sheaves, barns, deferred frees and KFENCE hold, and has the
    right addresses where debugging pads objects. It leaves out objects whose state
    the structures do not agree about.

    >>> for dentry in for_each_object(find_slab_cache("dentry"), "struct dentry"):
    ...     print(dentry.d_name.name.string_())

    :param slab_cache: ``struct kmem_cache *``
    :param type: Type of the objects, or of a pointer to one.
    :param state: ``in use``, ``free``, ``waiting`` or ``unknown``.
    :return: Iterator of ``type *`` objects.
    :raises TargetError: if there is no such cache.
    :raises ValueError: if there is no such state.
    """
    prog = slab_cache.prog_
    pointer = prog.type(type) if isinstance(type, str) else type
    if pointer.unaliased_kind() != TypeKind.POINTER:
        pointer = prog.pointer_type(pointer)
    for address in objects(prog, slab_cache, state).addresses():
        yield Object(prog, pointer, value=address)


def for_each_slab(slab_cache: Object) -> Iterator[Object]:
    """
    Iterate over the slabs of a slab cache.

    These are all slabs, whatever list or CPU they are on, full ones that are on
    none included, and those that have lost their mark. KFENCE's are left out.

    >>> for slab in for_each_slab(find_slab_cache("dentry")):
    ...     print(slab_get_inuse(slab))

    :param slab_cache: ``struct kmem_cache *``
    :return: Iterator of ``struct slab *`` objects (``struct page *`` before
        Linux 5.17).
    :raises TargetError: if there is no such cache.
    """
    prog = slab_cache.prog_
    reading = lookup(machine(prog))
    pointer = prog.type(f"struct {machine(prog).layout.slab_struct} *")
    for page in reading.judged(reading.number(slab_cache)).ledger.slabs.page.tolist():
        yield Object(prog, pointer, value=page)
