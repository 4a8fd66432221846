# SPDX-License-Identifier: LGPL-2.1-or-later
"""Made-up BTF, and kernels that have it in their memory."""

from __future__ import annotations

import struct
from typing import Dict, List, Optional, Sequence, Tuple

from drgn import Architecture, FaultError, Platform, PlatformFlags, Program

from drgn_slabtype.btf import blob as b

Member = Tuple[str, int, int]
"""Name, type, and place: an offset in bits or what the kernel makes of it."""


class BtfWriter:
    """
    Types, one behind the other; each method returns the number of the new one.

    :param little: Whether in little endian.
    """

    def __init__(self, little: bool = True) -> None:
        self._order = "<" if little else ">"
        self._strings = bytearray(b"\0")
        self._types = bytearray()
        self._count = 0

    def _name(self, name: Optional[str]) -> int:
        if not name:
            return 0
        wanted = b"\0" + name.encode() + b"\0"
        at = bytes(self._strings).find(wanted)
        if at < 0:
            at = len(self._strings) - 1
            self._strings += wanted[1:]
        return at + 1

    def add(
        self,
        kind: int,
        name: Optional[str] = None,
        size_type: int = 0,
        words: Sequence[int] = (),
        count: int = 0,
        flag: bool = False,
    ) -> int:
        """Add any type."""
        info = kind << 24 | count | flag << 31
        every = (self._name(name), info, size_type, *(word & 0xFFFFFFFF for word in words))
        self._types += struct.pack(f"{self._order}{len(every)}I", *every)
        self._count += 1
        return self._count

    def integer(
        self, name: str, size: int, encoding: int = 0, bits: int = 0, start: int = 0
    ) -> int:
        """Add an integer; *encoding* is 1 if it is signed, 4 if it is a bool."""
        return self.add(b.INT, name, size, [encoding << 24 | start << 16 | (bits or 8 * size)])

    def array(self, type: int, length: int) -> int:
        """Add an array."""
        return self.add(b.ARRAY, None, 0, [type, type, length])

    def structure(
        self,
        name: Optional[str],
        size: int,
        members: Sequence[Member],
        kind: int = b.STRUCT,
        flag: bool = False,
    ) -> int:
        """Add a structure, or another kind that is written like one."""
        words: List[int] = []
        for member, type, place in members:
            words += [self._name(member), type, place]
        return self.add(kind, name, size, words, len(members), flag)

    def enum(self, name: Optional[str], values: Dict[str, int], size: int = 4) -> int:
        """Add an enumeration, of 64 bits if it has that size."""
        words: List[int] = []
        for enumerator, value in values.items():
            words += [self._name(enumerator), value]
            words += [value >> 32] if size == 8 else []
        flag = any(value < 0 for value in values.values())
        return self.add(b.ENUM64 if size == 8 else b.ENUM, name, size, words, len(values), flag)

    def prototype(self, result: int, parameters: Sequence[int]) -> int:
        """Add the type of a function; the last of the parameters may be 0 for "..."."""
        words: List[int] = []
        for type in parameters:
            words += [0, type]
        return self.add(b.FUNC_PROTO, None, result, words, len(parameters))

    def data(self) -> bytes:
        """Return it all."""
        size = len(self._types)
        header = (0xEB9F, 1, 0, b.HEADER_BYTES, 0, size, size, len(self._strings))
        return struct.pack(f"{self._order}HBBIIIII", *header) + self._types + self._strings


TEXT, DATA, BTF, KALLSYMS = 0x100000, 0x200000, 0x400000, 0x800000


def kernel(
    symbols: Dict[str, int],
    btf: bytes,
    *,
    little: bool = True,
    memory: Optional[Dict[int, bytes]] = None,
    without: Sequence[str] = (),
    sparse: bool = False,
    count: Optional[int] = None,
) -> Program:
    """
    Return a program of a kernel without debug info.

    :param symbols: Addresses by name; those of the kernel's text and its BTF are added.
    :param memory: What else is in its memory.
    :param without: Symbols to leave out.
    :param sparse: Whether the BTF is not in memory.
    :param count: How many symbols the kernel says it has, if not as many as it has.
    """
    every = {
        "_stext": TEXT,
        "_etext": TEXT + 0x1000,
        "__start_BTF": BTF,
        "__stop_BTF": BTF + len(btf),
        **symbols,
    }
    named = {name: address for name, address in every.items() if name not in without}
    lines, tables = kallsyms(named, little=little, count=count)
    return kernel_of(
        lines, {**({} if sparse else {BTF: btf}), **(memory or {}), **tables}, little=little
    )


def kallsyms(
    symbols: Dict[str, int], *, little: bool = True, count: Optional[int] = None
) -> Tuple[List[str], Dict[int, bytes]]:
    """
    Return the tables of a kernel's symbols by their addresses, and what VMCOREINFO says of them.

    :param count: How many symbols the kernel says it has, if not as many as it has.
    """
    order = "<" if little else ">"
    ordered = sorted(symbols.items(), key=lambda symbol: symbol[1])
    # One token for each character; the first of a name is its kind.
    table = b"".join(bytes([token]) + b"\0" for token in range(1, 256))
    tables = {
        "kallsyms_num_syms": struct.pack(f"{order}I", len(ordered) if count is None else count),
        "kallsyms_token_index": struct.pack(
            f"{order}256H", *(0, *(2 * token for token in range(255)))
        ),
        "kallsyms_token_table": table,
        "kallsyms_relative_base": struct.pack(f"{order}Q", TEXT),
        "kallsyms_offsets": struct.pack(
            f"{order}{len(ordered)}I", *(address - TEXT for _, address in ordered)
        ),
        "kallsyms_names": b"".join(
            bytes([len(name) + 1]) + b"D" + name.encode() for name, _ in ordered
        ),
    }
    places: Dict[int, bytes] = {}
    lines, at = [], KALLSYMS
    for name, data in tables.items():
        places[at] = data
        lines.append(f"SYMBOL({name})={at:x}")
        at += len(data) + 64 & ~63
    return lines, places


def kernel_of(lines: Sequence[str], places: Dict[int, bytes], *, little: bool = True) -> Program:
    """
    Return a program of a kernel with some memory.

    :param lines: Of VMCOREINFO, besides those that every kernel has.
    :param places: Memory by its address.
    """
    flags = PlatformFlags.IS_64_BIT | (
        PlatformFlags.IS_LITTLE_ENDIAN if little else PlatformFlags(0)
    )
    prog = Program(Platform(Architecture.X86_64 if little else Architecture.S390X, flags))

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        for start, data in places.items():
            if start <= address and address + count <= start + len(data):
                return data[address - start : address - start + count]
        raise FaultError("nothing there", address)

    prog.set_linux_kernel_custom(
        "OSRELEASE=6.9.0-made-up\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=1000\n"
        f"SYMBOL(_stext)={TEXT:x}\nKERNELOFFSET=0\nNUMBER(phys_base)=0\n"
        "NUMBER(pgtable_l5_enabled)=0\n" + "".join(f"{line}\n" for line in lines),
        False,
    )
    prog.add_memory_segment(0, 1 << 32, read)
    return prog
