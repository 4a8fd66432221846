# SPDX-License-Identifier: LGPL-2.1-or-later
"""Red zones, poison, padding, tracks, and KASAN's shadow."""

from __future__ import annotations

from typing import Mapping

from .commits import ASKED_SIZE, EXTENSIONS, KMALLOC_RED_ZONE
from .explained import Code, Measure

_BYTES = Measure("bytes")

CODES: Mapping[str, Code] = {
    "redzone": Code(
        "content",
        "A red zone around an object has been overwritten.",
        "With `slub_debug=Z`, `init_object()` fills what lies before and behind each object with "
        "0xbb while it is free, 0xcc while it is in use, and `check_object()` looks at each "
        "change; SLAB has two words (`RED_ACTIVE`, `RED_INACTIVE`).",
        ("an overflow or underflow of this object, or of its neighbour",),
        (
            "the details: what was written, where that comes from, and who the neighbours are",
            "`object ADDRESS --neighbours 2`",
            "who allocated the object before it: the usual writer",
        ),
        (ASKED_SIZE, KMALLOC_RED_ZONE),
        more="The finding names both objects and, where the kernel kept it, who allocated them. "
        "Since Linux 6.2 the bytes of a `kmalloc()` object behind the size asked for are a red "
        "zone too, which the objects of all caches together tell. Beside an object that KFENCE has "
        "given out its page holds a pattern (`set_canary()`), at which `check_canary()` looks only "
        "when the object comes back.",
        measure=_BYTES,
    ),
    "poison": Code(
        "content",
        "A free object's poison has been overwritten.",
        "With `slub_debug=P` (SLAB: `CONFIG_DEBUG_SLAB`) a freed object is filled with 0x6b and "
        "ends in 0xa5; `check_object()` (`check_poison_obj()`) looks when it is handed out again.",
        ("use after free: the object was written to after it was given back",),
        (
            "the track of the last free, which tells who let go of it",
            "`refs ADDRESS`: who still points to it",
            "the details: pointers among what was written lead to whoever wrote",
        ),
        measure=_BYTES,
    ),
    "padding": Code(
        "content",
        "Padding of a slab or an object has been overwritten.",
        "With `slub_debug=P` what lies between and behind objects is 0x5a; `check_pad_bytes()` and "
        "`slab_pad_check()` look at it.",
        ("a wild write", "an overflow past the red zone"),
        (
            "the details: what was written",
            "`object ADDRESS` with the address: the objects on both sides",
        ),
        (EXTENSIONS,),
        more="Bytes that belong to nobody. So were they overwritten if the free pointer behind an "
        'object in use leads out of its slab, which the kernel calls "Freepointer corrupt".',
        measure=_BYTES,
    ),
    "track": Code(
        "content",
        "An allocated object has no record of who allocated it.",
        "With `slub_debug=U`, `set_track()` writes address, CPU, PID and time behind each object "
        "when it is handed out.",
        ("a write over the track: an overflow past the red zone",),
        (
            "`object ADDRESS`: its bytes and both tracks",
            "the object before it, whose overflow it may be",
        ),
        more="Or one that is no address of the kernel's.",
        measure=_BYTES,
    ),
    "shadow": Code(
        "content",
        "KASAN lets an object be touched that was given back.",
        "With generic KASAN, `kasan_slab_free()` makes the shadow of an object say that nobody may "
        "touch it (0xfb, its first byte 0xfa where it is kept who freed it) before the object is "
        "put into the quarantine or back to its slab; that of one that was never handed out says "
        "0xfc. `kasan_slab_alloc()` changes that after the object has been taken.",
        (
            "an object that was handed out although a freelist has it still: its user and the next "
            "one write over each other",
            "code that unpoisons memory which it does not own",
            "a wild write into the shadow",
        ),
        (
            "`object ADDRESS`: who allocated and freed it, by KASAN's own records",
            "the details: how much of it may be touched",
            "`refs ADDRESS`: who still points to it",
        ),
        more="The finding is about the object; its bytes are those of the shadow. Objects of "
        "caches with `SLAB_TYPESAFE_BY_RCU` may be touched after they were freed, and are not "
        "judged; nor are those in use whose shadow says otherwise, as in a mempool.",
        measure=_BYTES,
    ),
}
