# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which cgroup pages and objects are charged to, on made-up kernels."""

from __future__ import annotations

import struct
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy as np
import pytest
from drgn import Type, TypeMember

from drgn_slabtype.answers.memcg import page_memcg, slab_memcg
from drgn_slabtype.answers.owners import Owner, charges, grouped
from drgn_slabtype.machine import machine
from tests.direct_map import make_mapped_kernel
from tests.synthetic.kernel import Kernel

CGROUPS = 0xFFFF888000100000
ROOT, LAB, OBJECT_CGROUP, ARRAY = (CGROUPS + n * 0x100 for n in range(4))
ROOT_NODE, LAB_NODE, NAMES = (CGROUPS + n * 0x100 for n in range(4, 7))
CGROUP_STRUCTS, TREE = CGROUPS + 0x800, CGROUPS + 0x900


def make_kernel(layout: str = "6.2-slub", extended: bool = False) -> Kernel:
    """Return a kernel with the cgroups / and /lab, and an object cgroup of the latter."""
    kernel = make_mapped_kernel(layout)
    prog, t = kernel.prog, kernel.types
    kernel.add_memory(CGROUPS, 0x2000)
    char = prog.pointer_type(t.known["char"])
    # Each node points to its parent, all to their root, and that to the first.
    made: Dict[str, Type] = {}

    def pointer() -> Type:
        return prog.pointer_type(made["node"])

    root = prog.struct_type("kernfs_root", 8, [TypeMember(pointer, "kn")])
    folder = t.struct("kernfs_elem_dir", ("root", prog.pointer_type(root)))
    members: List[Tuple[Any, str]] = [
        (pointer, "parent"),
        (char, "name"),
        (t.ulong, "id"),
        (folder, "dir"),
    ]
    made["node"] = t.known["struct kernfs_node"] = prog.struct_type(
        "kernfs_node",
        32,
        [TypeMember(type, name, 64 * n) for n, (type, name) in enumerate(members)],
    )
    kernfs = pointer()
    cgroup = t.struct("cgroup", ("kn", kernfs))
    t.enum("css_flags", {"CSS_ONLINE": 2})
    css = t.struct("cgroup_subsys_state", ("cgroup", prog.pointer_type(cgroup)), ("flags", t.uint))
    memcg = t.struct("mem_cgroup", ("css", css))
    t.struct("obj_cgroup", ("memcg", prog.pointer_type(memcg)))
    if extended:
        t.struct("slabobj_ext", ("ref", t.ulong), ("objcg", t.pointer))
    kernel.write(NAMES, b"\0lab\x07\0")
    kernel.write(TREE, struct.pack("<Q", ROOT_NODE))
    kernel.write(ROOT_NODE, struct.pack("<QQQQ", 0, NAMES, 1, TREE))
    kernel.write(LAB_NODE, struct.pack("<QQQQ", ROOT_NODE, NAMES + 1, 27, TREE))
    for number, (place, kn) in enumerate(((ROOT, ROOT_NODE), (LAB, LAB_NODE))):
        kernel.write(CGROUP_STRUCTS + 8 * number, struct.pack("<Q", kn))
        kernel.write(place, struct.pack("<QI", CGROUP_STRUCTS + 8 * number, 2))
    kernel.write(OBJECT_CGROUP, struct.pack("<Q", LAB))
    return kernel


def _write_objects(kernel: Kernel, cgroups: List[int], extended: bool = False) -> None:
    for number, cgroup in enumerate(cgroups):
        entry = struct.pack("<QQ", 0x1111, cgroup) if extended else struct.pack("<Q", cgroup)
        kernel.write(ARRAY + number * len(entry), entry)


def test_page_of_a_user() -> None:
    # Names are data: nothing of them reaches a terminal as it is.
    told = page_memcg(machine(make_kernel().prog), LAB)
    assert told == f"/lab\\a (inode 27, mem_cgroup 0x{LAB:x})"


def test_kernel_memory_is_charged_by_an_object_cgroup() -> None:
    told = page_memcg(machine(make_kernel().prog), OBJECT_CGROUP | 2)
    assert told is not None
    assert told.startswith("/lab\\a (inode 27,")
    assert told.endswith(f"by object cgroup 0x{OBJECT_CGROUP:x}")


def test_page_that_is_not_charged() -> None:
    assert page_memcg(machine(make_kernel().prog), 0) is None
    assert slab_memcg(machine(make_kernel().prog), 0, 4) is None
    # OBJEXTS_ALLOC_FAIL is a flag without an array.
    assert slab_memcg(machine(make_kernel().prog), 4, 4) is None


@pytest.mark.parametrize("extended", [False, True])
def test_objects_of_a_slab(extended: bool) -> None:
    kernel = make_kernel(extended=extended)
    _write_objects(kernel, [0, OBJECT_CGROUP, OBJECT_CGROUP, 0], extended)
    told = slab_memcg(machine(kernel.prog), ARRAY | 1, 4)
    assert told is not None
    assert told.startswith(f"an object cgroup for each object, at 0x{ARRAY:x}: 2 charged to /lab")
    _write_objects(kernel, [0, 0, 0, 0], extended)
    told = slab_memcg(machine(kernel.prog), ARRAY | 1, 4)
    assert told is not None
    assert told.endswith(": no object charged")


def test_cgroup_that_is_not_in_the_target() -> None:
    kernel = make_kernel()
    lost = CGROUPS + 0x100000
    assert page_memcg(machine(kernel.prog), lost) == f"mem_cgroup 0x{lost:x}"
    assert page_memcg(machine(kernel.prog), lost | 2) == (
        f"a cgroup that is not in the target, by object cgroup 0x{lost:x}"
    )
    assert slab_memcg(machine(kernel.prog), lost | 1, 4) == (
        f"an object cgroup for each object, at 0x{lost:x}, which is not in the target"
    )


def test_objects_of_damaged_slabs_are_not_followed() -> None:
    # Freed, and set to a number below all kernel addresses.
    kernel = make_kernel()
    _write_objects(kernel, [0x10, 0, 0, 0])
    told = slab_memcg(machine(kernel.prog), ARRAY | 1, 4)
    assert told is not None
    assert told.endswith(": 1 charged to a cgroup that is not in the target")


# Records of objects, in every layout that kernels had.

STRIDE, COUNT = 64, 6
_OBJECT = 0xFFFF888000101000


def _with_members(kernel: Kernel, name: str, *members: str) -> None:
    # More members behind those that a structure has; the first takes the place of memcg_data.
    known, t = kernel.types.known, kernel.types
    old = known[f"struct {name}"]
    kept = [member for member in old.members or () if member.name not in ("memcg_data",)]
    place = {m.name: m.bit_offset for m in old.members or ()}
    first = place.get("memcg_data", place.get("mem_cgroup", 0))
    size = old.size or 0
    added = [
        TypeMember(t.ulong, member, 8 * (size + 8 * at - 8) if at else first)
        for at, member in enumerate(members)
    ]
    size += 8 * (len(members) - 1)
    known[f"struct {name}"] = kernel.prog.struct_type(name, size, [*kept, *added])


def _extension(kernel: Kernel, *members: str) -> None:
    kernel.types.struct("slabobj_ext", *((name, kernel.types.ulong) for name in members))


class Era(NamedTuple):
    layout: str
    structure: str
    members: Tuple[str, ...]
    extension: Tuple[str, ...]
    values: Dict[str, int]
    step: int
    """Bytes from the record of one object to that of the next."""
    offset: int = 0
    """Of the object cgroup in a record."""


ERAS = {
    "5.10": Era("5.10-slub", "page", ("obj_cgroups",), (), {}, 8),
    "5.17": Era("6.1-slub", "slab", ("memcg_data",), (), {}, 8),
    "6.10": Era("6.10-slub", "slab", ("obj_exts",), ("objcg",), {}, 8),
    "6.10, profiled": Era("6.12-slub", "slab", ("obj_exts",), ("objcg", "ref"), {}, 16),
    "6.10, profiled first": Era("6.12-slub", "slab", ("obj_exts",), ("ref", "objcg"), {}, 16, 8),
    "7.0": Era("7.0-slub", "slab", ("obj_exts", "stride"), ("objcg",), {"stride": 8}, 8),
    "7.0, in the objects": Era(
        "7.0-slub", "slab", ("obj_exts", "stride"), ("objcg",), {"stride": STRIDE}, STRIDE
    ),
    "7.3": Era(
        "7.3-slub",
        "slab",
        ("obj_exts", "obj_exts_in_object", "obj_exts_needs_objcg"),
        ("objcg",),
        {"obj_exts_needs_objcg": 1},
        8,
    ),
    "7.3, in the objects": Era(
        "7.3-slub",
        "slab",
        ("obj_exts", "obj_exts_in_object", "obj_exts_needs_objcg"),
        ("objcg",),
        {"obj_exts_in_object": 1, "obj_exts_needs_objcg": 1},
        STRIDE,
    ),
    "7.3, without cgroups": Era(
        "7.3-slub",
        "slab",
        ("obj_exts", "obj_exts_in_object", "obj_exts_needs_objcg"),
        ("objcg",),
        {},
        0,
    ),
}


@pytest.mark.parametrize("era", ERAS.values(), ids=list(ERAS))
def test_record_of_every_object_is_found(era: Era) -> None:
    kernel = make_kernel(era.layout)
    _with_members(kernel, era.structure, *era.members)
    if era.extension:
        _extension(kernel, *era.extension)
    # A slab with a vector, and one without.
    pages = [kernel.page(pfn).value_() for pfn in (8, 9)]
    structure = kernel.prog.type(f"struct {era.structure}")
    for member, value in {era.members[0]: ARRAY | 1, **era.values}.items():
        kernel.write(pages[0] + structure.member(member).offset, struct.pack("<Q", value))
    groups = [0, OBJECT_CGROUP, OBJECT_CGROUP + 8, 0, OBJECT_CGROUP, 0]
    for number, group in enumerate(groups):
        at = ARRAY + number * era.step + era.offset
        if group:
            kernel.write(at, struct.pack("<Q", group))
    slab = np.repeat(np.arange(2), COUNT)
    index = np.tile(np.arange(COUNT), 2)
    charged, known = charges(machine(kernel.prog), np.array(pages, np.uint64), STRIDE, slab, index)
    assert known.all()
    assert charged.tolist() == [*(groups if era.step else [0] * COUNT), *[0] * COUNT]


def test_objects_are_grouped_by_memory_cgroup() -> None:
    kernel = make_kernel()
    other, gone = OBJECT_CGROUP + 8, OBJECT_CGROUP + 16
    root, lost = OBJECT_CGROUP + 24, CGROUPS + 0x100000
    kernel.write(other, struct.pack("<QQQ", LAB, 0, ROOT))
    # Not online any more.
    kernel.write(ROOT + 8, struct.pack("<I", 0))
    charged = [OBJECT_CGROUP] * 3 + [other] * 2 + [root] * 4 + [gone] + [lost] + [0] * 7
    found = grouped(machine(kernel.prog), np.array(charged, np.uint64), STRIDE)
    assert found == [
        # Two object cgroups of one memory cgroup; one that leads nowhere any more, and
        # one that is not in the target.
        Owner("/lab\\a", LAB, 5, 5 * STRIDE),
        Owner("/", ROOT, 4, 4 * STRIDE, dying=True),
        Owner(None, None, 2, 2 * STRIDE),
    ]
