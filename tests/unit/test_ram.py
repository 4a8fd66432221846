# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which pages are memory, and what belongs to a CPU, of made-up machines."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import Any, Dict, List, Tuple

import numpy as np
from drgn import Architecture, Object, Platform, Program, Type, TypeMember

from drgn_slabtype.machine.cpumemory import of_cpus
from drgn_slabtype.machine.ram import memory_bytes, memory_ranges
from drgn_slabtype.pages.sections import roots_of_memory

_BASE = 0x100000
_MEMORY = 0x81000200  # IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY
_DEVICE = 0x80000200


def _machine(memory: bytes) -> Tuple[Any, Program, Dict[str, Object]]:
    prog = Program(Platform(Architecture.S390X))
    objects: Dict[str, Object] = {}
    prog.add_memory_segment(
        _BASE, len(memory), lambda _, count, at, __: memory[at : at + count], False
    )
    prog.register_object_finder(
        "made up", lambda _, name, __, ___: objects.get(name), enable_index=0
    )
    facts: Dict[Any, Any] = {}

    def fact(find: Any) -> Any:
        if find not in facts:
            facts[find] = find(machine)
        return facts[find]

    machine = SimpleNamespace(
        prog=prog, fact=fact, cpus=np.arange(3), objects=objects, forget=facts.clear
    )
    return machine, prog, objects


def _long(prog: Program) -> Type:
    return prog.int_type("unsigned long", 8, False)


def _resources(rows: List[Tuple[int, int, int, int, int]]) -> Any:
    # Rows of start, end, flags, sibling and child, these as row numbers, -1 for none.
    def at(row: int) -> int:
        return _BASE + 40 * row if row >= 0 else 0

    machine, prog, objects = _machine(
        b"".join(struct.pack(">5Q", *row[:3], at(row[3]), at(row[4])) for row in rows)
    )
    long = _long(prog)

    def link() -> Type:
        return prog.pointer_type(resource)

    resource = prog.struct_type(
        "resource",
        40,
        (
            *(TypeMember(long, name, 64 * at) for at, name in enumerate(("start", "end", "flags"))),
            TypeMember(link, "sibling", 192),
            TypeMember(link, "child", 256),
        ),
    )
    objects["iomem_resource"] = Object(prog, resource, address=_BASE)
    return machine


def test_memory_is_what_the_kernel_says_it_is() -> None:
    machine = _resources(
        [
            (0, (1 << 64) - 1, 0x200, -1, 1),
            (0, 0xFFFF, _MEMORY, 2, 3),
            (0x20000, 0x8FFFF, _DEVICE, -1, 4),
            (0x1000, 0x1FFF, 0x80000200, -1, -1),  # the kernel's code
            (0x40000, 0x7FFFF, _MEMORY, -1, -1),  # plugged in with a device
        ]
    )
    assert memory_ranges(machine) == [(0, 0x10000), (0x40000, 0x80000)]
    assert memory_bytes(machine, 0x8000, 0x50000) == 0x8000 + 0x10000
    assert memory_bytes(machine, 0x10000, 0x40000) == 0


def test_resources_that_end_nowhere_tell_nothing() -> None:
    machine = _resources([(0, 0xFFFF, 0x200, -1, 1), (0, 0xFFFF, _MEMORY, 1, -1)])
    assert memory_ranges(machine) is None
    assert memory_bytes(machine, 0x8000, 0x50000) == 0x48000


def test_without_resources_all_is_memory() -> None:
    machine, _, _ = _machine(bytes(8))
    assert memory_bytes(machine, 0, 4096) == 4096


def test_lowcore_and_stacks_of_each_cpu() -> None:
    # Of three CPUs the last never ran.
    lowcores = [0x5AA000, 0x5AC000, 0]
    stacks = {0x5AA000: 0x37FFE7EBE98, 0x5AC000: 0x37FFE823E98}
    machine, prog, objects = _machine(struct.pack(">3Q", *lowcores))
    prog.add_memory_segment(
        0x5AA000,
        0x4000,
        lambda _, count, at, __: struct.pack(">Q", stacks[0x5AA000 + at])[:count],
        False,
    )
    lowcore = prog.struct_type("lowcore", 8192, (TypeMember(_long(prog), "async_stack", 0),))
    type = prog.array_type(prog.pointer_type(lowcore), 3)
    objects["lowcore_ptr"] = Object(prog, type, address=_BASE)
    found = [(own.cpu, own.name, own.start, own.end - own.start) for own in of_cpus(machine)]
    assert found == [
        (0, "lowcore", 0x5AA000, 8192),
        (0, "async_stack", 0x37FFE7E8000, 0x4000),
        (1, "lowcore", 0x5AC000, 8192),
        (1, "async_stack", 0x37FFE820000, 0x4000),
    ]


def test_table_of_sections_is_zeroes_where_there_is_no_memory() -> None:
    machine = _resources([(0, (1 << 64) - 1, 0x200, -1, 1), (0, (40 << 30) - 1, _MEMORY, -1, -1)])
    prog, objects = machine.prog, machine.objects
    machine.memory = SimpleNamespace(word_size=8)
    long = _long(prog)
    root = prog.pointer_type(prog.pointer_type(prog.struct_type("mem_section", 16, ())))
    objects["mem_section"] = Object(prog, root, value=0x10000)
    for name, value in (
        ("NR_SECTION_ROOTS", 2048),
        ("SECTIONS_PER_ROOT", 128),
        ("SECTION_SIZE_BITS", 28),
    ):
        objects[name] = Object(prog, long, value)
    # Each entry is of 32 GiB.
    assert roots_of_memory(machine).tolist() == [0x10000, 0x10008]
    del objects["iomem_resource"]
    machine.forget()
    assert len(roots_of_memory(machine)) == 2048
