# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which cgroup pages and objects are charged to, on made-up kernels."""

from __future__ import annotations

import struct
from typing import Any, Dict, List, Tuple

import pytest
from drgn import Type, TypeMember

from drgn_slabtype.answers.memcg import page_memcg, slab_memcg
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
    css = t.struct("cgroup_subsys_state", ("cgroup", prog.pointer_type(cgroup)))
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
        kernel.write(place, struct.pack("<Q", CGROUP_STRUCTS + 8 * number))
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
        f"an object cgroup for each object, at 0x{lost:x}"
    )


def test_objects_of_damaged_slabs_are_not_followed() -> None:
    # Freed, and set to a number below all kernel addresses.
    kernel = make_kernel()
    _write_objects(kernel, [0x10, 0, 0, 0])
    told = slab_memcg(machine(kernel.prog), ARRAY | 1, 4)
    assert told is not None
    assert told.endswith(": 1 charged to a cgroup that is not in the target")
