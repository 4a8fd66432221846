# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What reads files, and inputs to begin with.

A reader returns, or raises what it is documented to raise with a message of one
line; anything else is wrong.
"""

from __future__ import annotations

import contextlib
import io
import json
import lzma
import os
from typing import Callable, Iterator, List, Mapping, NamedTuple, Tuple, Type

import drgn
from drgn import Architecture, FaultError, Platform, Program, TypeKind

from drgn_slabtype.btf import load_btf
from drgn_slabtype.btf.blob import HEADER_BYTES, Blob
from drgn_slabtype.btf.nodes import BtfNodes
from drgn_slabtype.capture import is_capture, open_capture
from drgn_slabtype.capture.elf import NOTE_NAME, NOTE_TYPE, Note, Segment, elf_format, elf_machine
from drgn_slabtype.errors import TargetError
from drgn_slabtype.files.elf import ET_CORE, ElfFile
from drgn_slabtype.finders import TypeBuilder
from drgn_slabtype.target import TargetOptions, open_target

from ...synthetic.btf import BTF, DATA, TEXT, BtfWriter, kallsyms, kernel_of
from ...synthetic.elf_files import core, elf, note, vmlinux
from ...synthetic.kdump_files import flattened, kdump

_SYMBOLS = {"slab_caches": DATA, "nr_node_ids": DATA + 16, "kmem_cache": DATA + 32}
_BASE = 0xFFFF888000000000


class Reader(NamedTuple):
    """Something that reads a file."""

    read: Callable[[bytes], object]
    raises: Tuple[Type[Exception], ...]
    """What it may raise."""
    seeds: Callable[[], List[bytes]]


@contextlib.contextmanager
def _file(data: bytes) -> Iterator[str]:
    fd = os.memfd_create("fuzz")
    try:
        os.write(fd, data)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _elf(data: bytes) -> None:
    file = ElfFile(io.BytesIO(data))
    for one in file.notes():
        assert len(one.data) <= len(data)
    file.build_id()
    missing = file.missing()
    assert 0 <= missing.bytes <= missing.of
    assert all(one.memory_size > 0 for one in file.left_out())


def _elf_seeds() -> List[bytes]:
    other = elf_format(Platform(Architecture.S390X))
    segments = [Segment(_BASE, 0, 0, 8, 4096)]
    notes = [Note(b"GNU", 3, bytes(range(20)))]
    sections = bytearray(vmlinux())
    # A section of notes, where the note segment is.
    sections[40:48] = len(sections).to_bytes(8, "little")
    sections[58:62] = b"\x40\0\1\0"
    sections += b"\0\0\0\0\7\0\0\0" + bytes(16)
    sections += (64 + 112).to_bytes(8, "little") + (36).to_bytes(8, "little") + bytes(24)
    return [
        core(memory_bytes=64),
        vmlinux(),
        bytes(sections),
        other.head(22, notes, segments),
    ]


def _open(data: bytes) -> None:
    with _file(data) as path:
        open_target(TargetOptions(core=path, default_symbols=False))


def _core_seeds() -> List[bytes]:
    return [
        core(memory_bytes=64),
        core(None, 64),
        elf(ET_CORE, note(b"CORE", 1, bytes(336)), bytes(64)),
        vmlinux(),
        b"\x1f\x8b",
    ]


def _kdump_seeds() -> List[bytes]:
    small = kdump(pages=16, excluded=4)
    return [small, flattened(small, 4096), kdump(24, 4, split=(4, 16)), kdump(16, 4, order=">")]


def _capture(data: bytes) -> None:
    with _file(data) as path:
        if not is_capture(path):
            return
        prog = open_capture(path)
        for kind in ("struct", "union", "enum"):
            for name in ("pair", "pageflags", "pagetype"):
                with contextlib.suppress(LookupError):
                    _touch(prog.type(f"{kind} {name}"), 4)
        for name in ("pairs", "vmemmap_populate", "PG_slab", "PG_head"):
            with contextlib.suppress(LookupError, FaultError):
                if prog[name].type_.kind == TypeKind.INT:
                    prog[name].value_()
                prog.read(_BASE, 8)
        list(prog.symbols())
        list(prog.symbols(_BASE))


def _touch(type: drgn.Type, depth: int) -> None:
    # What stands behind its members is made when they are looked at.
    if not depth:
        return
    if type.kind in (TypeKind.STRUCT, TypeKind.UNION, TypeKind.CLASS):
        for member in type.members or ():
            _touch(member.type, depth - 1)
    elif type.kind in (TypeKind.POINTER, TypeKind.ARRAY, TypeKind.TYPEDEF, TypeKind.FUNCTION):
        _touch(type.type, depth - 1)


def _capture_seeds() -> List[bytes]:
    payload = {
        "types": [
            ["int", "unsigned int", 4, False, "little"],
            ["struct", "pair", 8, [["low", 0, 0], ["high", 32, 0, 3]]],
            ["enum", "pageflags", 0, [["PG_head", 6], ["PG_slab", 9]]],
            ["void"],
            ["function", 3, [], False],
            ["pointer", 1, 8],
            ["array", [5, 1], 4],
            ["union", "pair", 8, [["one", 0, 6]]],
        ],
        "variables": {"pairs": [1, _BASE]},
        "functions": {"vmemmap_populate": [4, None]},
        "constants": {"PG_slab": 2},
        "symbols": [["pairs", _BASE, 8]],
        "manifest": {"left_out": ["object contents"]},
    }
    platform = Platform(Architecture.X86_64)
    info = b"OSRELEASE=6.1.0-test\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=ffffffff82a10000\n"
    notes = [
        Note(NOTE_NAME, NOTE_TYPE, json.dumps(payload).encode()),
        Note(b"VMCOREINFO", 0, info),
    ]
    segments = [Segment(_BASE, 0, 0, 8, 4096)]
    plain = elf_format(platform).head(elf_machine(platform), notes, segments) + bytes(8)
    return [plain, lzma.compress(plain)]


def _btf(data: bytes) -> None:
    blob = Blob(data)
    prog = Program(Platform(Architecture.X86_64))
    types = TypeBuilder(prog, BtfNodes(blob, 8))
    for number in range(min(len(blob), 64)):
        # One type that is damaged costs the others nothing.
        with contextlib.suppress(TargetError):
            _touch(types.type(number), 4)
            blob.numbers(blob.entry(number).name)
    blob.enumeration("A")


def _btf_seeds() -> List[bytes]:
    found = []
    for little in (True, False):
        btf = BtfWriter(little)
        word = btf.integer("long unsigned int", 8)
        flag = btf.integer("bool", 1, 4)
        node = btf.structure("list_head", 16, [("next", word + 3, 0), ("prev", word + 3, 64)])
        pointer = btf.add(2, None, node)
        btf.array(pointer, 4)
        btf.add(8, "alias", node)
        btf.add(10, None, node)
        btf.structure(None, 8, [("low", word, 4 << 24), ("high", word, 4 << 24 | 4)], 5, True)
        btf.enum("kind", {"A": 1, "B": -2})
        btf.enum("large", {"C": 1 << 40}, 8)
        btf.add(12, "call", btf.prototype(word, [flag, 0]))
        btf.add(14, "variable", word, [1])
        btf.add(7, "later", 0)
        btf.add(16, "double", 8)
        found.append(btf.data())
    return found


def _kallsyms(data: bytes) -> None:
    btf = _small_btf()
    prog = kernel_of(_tables()[0], {BTF: btf, _KALLSYMS_AT: data})
    load_btf(prog)
    for name in _SYMBOLS:
        with contextlib.suppress(LookupError, FaultError):
            prog[name].value_()
    with contextlib.suppress(LookupError):
        prog.symbol(DATA)


def _small_btf() -> bytes:
    btf = BtfWriter()
    word = btf.integer("long unsigned int", 8)
    btf.integer("unsigned int", 4)
    btf.structure("list_head", 16, [("next", word, 0), ("prev", word, 64)])
    return btf.data()


def _tables() -> Tuple[List[str], bytes]:
    # What VMCOREINFO says of the tables, and all of them in one piece.
    size = len(_small_btf())
    assert size >= HEADER_BYTES
    every = {"_stext": TEXT, "_etext": TEXT + 4096, "__start_BTF": BTF, "__stop_BTF": BTF + size}
    lines, places = kallsyms({**every, **_SYMBOLS})
    start = min(places)
    image = bytearray(max(at + len(data) for at, data in places.items()) - start)
    for at, data in places.items():
        image[at - start : at - start + len(data)] = data
    return lines, bytes(image)


_KALLSYMS_AT = min(kallsyms(_SYMBOLS)[1])

READERS: Mapping[str, Reader] = {
    "elf": Reader(_elf, (ValueError,), _elf_seeds),
    "core": Reader(_open, (TargetError,), _core_seeds),
    "kdump": Reader(_open, (TargetError,), _kdump_seeds),
    "capture": Reader(_capture, (TargetError,), _capture_seeds),
    "btf": Reader(_btf, (TargetError,), _btf_seeds),
    "kallsyms": Reader(_kallsyms, (TargetError,), lambda: [_tables()[1]]),
}
"""Readers by the name of their part of the corpus."""
