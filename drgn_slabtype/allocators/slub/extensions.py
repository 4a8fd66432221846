# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the kernel knows of each object beyond the slab allocator
--------------------------------------------------------------

What memory cgroups and allocation profiling know of each object is a ``struct
slabobj_ext``. Since Linux 7.0, these lie in the slab itself where there is
room: behind the last object, or in the padding of each.
"""

from __future__ import annotations

import numpy as np

from ...ledger import U64
from ...machine import Machine
from ..slots import SlabBytes

_FLAGS = 7  # of slab->obj_exts; the rest is a pointer


class Extensions:
    """The extensions that lie in slabs."""

    def __init__(self, machine: Machine) -> None:
        self._memory = machine.memory
        slab = machine.structure(f"struct {machine.layout.slab_struct}")
        self._known = slab.has("obj_exts")
        self._offset = slab.offset("obj_exts") if self._known else 0
        self._size = _extension_size(machine)

    def cover(
        self, some: SlabBytes, pages: U64, count: int, stride: int, first: int, value: int
    ) -> None:
        """
        Replace the extensions in the bytes of slabs by the padding whose place they take.

        :param pages: ``struct slab *`` of each.
        :param count: Slots of each, and
        :param stride: bytes from one to the next.
        :param first: Where the padding of a slot begins, in bytes from the slot.
        :param value: What the padding is filled with.
        """
        if not self._known:
            return
        offsets = self._pointers(pages) - some.start
        used, span = count * stride, some.bytes.shape[1]
        behind = (offsets >= np.uint64(used)) & (offsets < np.uint64(span))
        within = (offsets >= np.uint64(first)) & (offsets < np.uint64(stride))
        for row in np.flatnonzero(behind).tolist():
            at = int(offsets[row])
            some.bytes[row, at : at + self._size * count] = value
        for row in np.flatnonzero(within).tolist():
            at = int(offsets[row])
            slots = some.bytes[row, :used].reshape(count, stride)
            slots[:, at : at + self._size] = value

    def _pointers(self, pages: U64) -> U64:
        word = self._memory.word_size
        gathered = self._memory.gather(pages + np.uint64(self._offset), word)
        pointers = gathered.bytes.view(self._memory.word)[:, 0].astype(np.uint64)
        return pointers & ~np.uint64(_FLAGS)


def _extension_size(machine: Machine) -> int:
    # A word for cgroups and one for profiling, where both are built in; that
    # is taken, too, where the type is not known.
    try:
        return machine.structure("struct slabobj_ext").size
    except LookupError:
        return 2 * machine.memory.word_size
