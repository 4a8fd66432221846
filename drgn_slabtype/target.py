# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Opening what to look at
-----------------------

:func:`open_target` turns the options ``-k``, ``-c``, ``--qemu`` and ``-s`` into
a :class:`drgn.Program` with the kernel's debug info, or with the types and
symbols that the kernel has in its own memory, or raises a
:class:`~drgn_slabtype.errors.TargetError` of one line that names what is wrong.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import tempfile
from dataclasses import dataclass, replace
from typing import Callable, Optional, Sequence, Tuple

import drgn
from drgn import FaultError, Program, ProgramFlags

from .arguments import path_of, require
from .codes import SIZE
from .debuginfo import (
    ensure_types,
    kernel_build_id,
    load_symbols,
    one_line,
    reason_of,
    release_of,
)
from .errors import ArgumentError, TargetError
from .files.elf import ET_CORE, ElfFile
from .files.hidden import hide_impossible
from .files.kdump import KdumpError, KdumpFile, Lost, is_kdump, missing_platform
from .files.ownnote import OwnNote, own_vmcoreinfo
from .files.physical import add_physical
from .files.turned import EM_PPC64, turned
from .findings import Finding, Target
from .machine import machine
from .machine.pause import ask as ask_for_pause
from .machine.translation import add_translation

__all__ = (
    "TargetOptions",
    "describe",
    "ensure_types",
    "kernel_build_id",
    "open_target",
    "shortfall",
)

_QMP_SECONDS = 10
_QMP_HANGS = 30  # seconds without an answer after which a guest has gone away
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
}


@dataclass(frozen=True)
class TargetOptions:
    """
    What to open, as the options of drgn's own command line spell it.

    >>> options = TargetOptions(core="vmcore.xz", symbols=["vmlinux"])
    >>> options.core, options.kernel
    ('vmcore.xz', False)
    """

    kernel: bool = False
    """``-k``: the running kernel; also meant when nothing else is given."""
    core: Optional[str] = None
    """``-c``: path of a core dump or of a capture."""
    qemu: Optional[str] = None
    """``--qemu``: socket path or ``host:port`` of a QEMU monitor (QMP)."""
    symbols: Sequence[str] = ()
    """``-s``: files with debug info."""
    default_symbols: bool = True
    """Whether to look for the kernel's debug info where drgn does."""
    debug_directories: Sequence[str] = ()
    """``--debug-directory``: where to look besides."""
    vmcoreinfo: Optional[str] = None
    """``--vmcoreinfo``: path of a file that replaces the dump's own."""
    architecture: Optional[str] = None
    """``--architecture``: name of a :class:`drgn.Architecture`."""
    find_symbols: Optional[Callable[[str], Optional[str]]] = None
    """Finds a file with debug info by a kernel's build ID in hex, where none is given."""


def open_target(options: TargetOptions) -> Program:
    """
    Open a kernel and load its debug info, or else what it says of itself.

    >>> prog = open_target(TargetOptions(core="vmcore.xz"))
    >>> check(prog).exit_status
    0

    :param options: What to open, and with which debug info.
    :raises ArgumentError: if the options name two targets, or no architecture of drgn's.
    :raises TargetError: if that is not possible; its message is one line.
    """
    require("options", options, TargetOptions)
    if [options.kernel, options.core is not None, options.qemu is not None].count(True) > 1:
        raise ArgumentError("kernel, core and qemu are three targets: name one")
    if options.core is not None:
        options = replace(options, core=path_of("core", options.core))
    if options.core is not None:
        from .capture import is_capture, open_capture

        _readable(options.core)
        if is_capture(options.core):
            prog = open_capture(options.core)
            machine(prog).opened = ("capture", options.core)
            return prog
    prog = _program(options)
    if options.core is not None:
        _open_core(prog, options.core)
        # /proc/kcore is a core file, too.
        live = prog.flags & ProgramFlags.IS_LIVE
        opened: Tuple[str, Optional[str]] = ("live" if live else "core", options.core)
    elif options.qemu is not None:
        _open_qemu(prog, options.qemu)
        opened = ("qemu", options.qemu)
    else:
        _open_kernel(prog)
        opened = ("live", None)
    machine(prog).opened = opened
    try:
        load_symbols(prog, options)
    except TargetError as e:
        # What describes the kernel may be what is not in the file.
        missing = shortfall(prog)
        if missing is None:
            raise
        raise TargetError(f"{missing.message}; {e}") from None
    return prog


def describe(prog: Program) -> Target:
    """
    Return what a program reads, for the report.

    Works for any Linux kernel program, whoever opened it.
    """
    kind, path = _kind(prog)
    platform = prog.platform
    return Target(
        kind=kind,
        path=path,
        release=release_of(prog),
        architecture=None if platform is None else platform.arch.name.lower(),
    )


def _kind(prog: Program) -> Tuple[str, Optional[str]]:
    # What it is and where: as open_target() left it, or as drgn opened it.
    known = machine(prog)
    if known.opened is not None:
        return known.opened
    if prog.flags & ProgramFlags.IS_LIVE:
        return ("live" if prog.flags & ProgramFlags.IS_LOCAL else "qemu"), None
    # Set by capture.attach(), whoever opened the file.
    return ("capture" if known.manifest is not None else "core"), prog.core_dump_path


def _readable(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as e:
        raise TargetError(f"{path}: {reason_of(e)}") from None


def _program(options: TargetOptions) -> Program:
    platform, vmcoreinfo = None, None
    if options.core is not None:
        platform = _missing_platform(options.core)
    if options.architecture is not None:
        try:
            platform = drgn.Platform(drgn.Architecture[options.architecture.upper()])
        except KeyError:
            known = ", ".join(one.name.lower() for one in drgn.Architecture)
            raise ArgumentError(
                f"unknown architecture {options.architecture}; there are {known}"
            ) from None
    if options.vmcoreinfo is not None:
        try:
            with open(options.vmcoreinfo, "rb") as file:
                vmcoreinfo = file.read()
        except OSError as e:
            raise TargetError(f"{options.vmcoreinfo}: {reason_of(e)}") from None
    elif options.core is not None:
        own = _own_vmcoreinfo(options.core)
        if own is not None:
            vmcoreinfo = own.data
            platform = platform or _other_platform(options.core, own.order)
    return Program(platform=platform, vmcoreinfo=vmcoreinfo)


# Cores.


def _missing_platform(path: str) -> Optional[drgn.Platform]:
    try:
        return missing_platform(path)
    except KdumpError as e:
        raise TargetError(f"{path}: {e}") from None


def _other_platform(path: str, order: str) -> Optional[drgn.Platform]:
    # That of a core whose headers are in another byte order than its memory.
    with open(path, "rb") as file:
        elf = ElfFile(file)
        if elf.machine != EM_PPC64 or elf.order == order:
            return None
    flags = drgn.PlatformFlags.IS_64_BIT
    if order == "<":
        flags |= drgn.PlatformFlags.IS_LITTLE_ENDIAN
    return drgn.Platform(drgn.Architecture.PPC64, flags)


def _own_vmcoreinfo(path: str) -> Optional[OwnNote]:
    # Of a core without the note, what the kernel itself has in its memory.
    try:
        with open(path, "rb") as file:
            found = own_vmcoreinfo(file)
    except OSError as e:
        raise TargetError(f"{path}: {reason_of(e)}") from None
    if len(found) > 1:
        raise TargetError(
            f"{path}: no VMCOREINFO in this dump, and {len(found)} in its memory that differ: "
            "give the right one with --vmcoreinfo"
        )
    return found[0] if found else None


def _open_core(prog: Program, path: str) -> None:
    headers = _turned(prog, path)
    mended = _mended(path) if headers is None else headers
    try:
        # drgn takes a descriptor over.
        prog.set_core_dump(path if mended is None else mended)
        reason = "drgn does not recognise a Linux kernel in it"
    except OSError as e:
        raise TargetError(f"{path}: {reason_of(e)}") from None
    except Exception as e:  # libelf and libkdumpfile errors have no class of their own
        reason = one_line(e)
    else:
        if prog.flags & ProgramFlags.IS_LINUX_KERNEL:
            with open(path, "rb") as file:
                hide_impossible(prog, file)
            add_physical(prog, path, every=headers is not None)
            add_translation(prog)
            return
    raise TargetError(f"{path}: {_what_is_wrong(path) or reason}") from None


def _turned(prog: Program, path: str) -> Optional[int]:
    # The headers of a core as the kernel in it would have them, if its own are not.
    order: Optional[str] = None
    if prog.platform is not None:
        order = "<" if prog.platform.flags & drgn.PlatformFlags.IS_LITTLE_ENDIAN else ">"
    with open(path, "rb") as file, tempfile.TemporaryFile() as copy:
        headers = turned(file, order)
        if headers is None:
            return None
        copy.write(headers)
        copy.flush()
        return os.dup(copy.fileno())


def _lost(path: str) -> Optional[Lost]:
    # What a kdump file lacks, by its own numbers; None for any other file.
    with open(path, "rb") as file:
        if not is_kdump(file.read(16)):
            return None
        return KdumpFile(file).lost()


def _mended(path: str) -> Optional[int]:
    # A kdump file that lacks pages must not reach libkdumpfile, which dies where
    # it maps bytes that are not there. It gets a copy without these pages.
    try:
        lost = _lost(path)
        if lost is None or (not lost.pages and not lost.cut):
            return None
        if lost.pages >= lost.of:
            raise TargetError(f"{path}: {lost}; nothing in it can be judged")
        with open(path, "rb") as file, tempfile.TemporaryFile() as copy:
            KdumpFile(file).mend(copy)
            copy.flush()
            return os.dup(copy.fileno())
    except KdumpError as e:
        raise TargetError(f"{path}: {e}") from None
    except OSError as e:
        raise TargetError(f"{path}: cannot be read without a copy: {reason_of(e)}") from None


def _what_is_wrong(path: str) -> Optional[str]:
    # Why a file is no kernel core, from the file alone.
    with open(path, "rb") as file:
        start = file.read(16)
        if not start:
            return "the file is empty"
        if is_kdump(start):
            return None
        for magic, name in _COMPRESSED.items():
            if start.startswith(magic):
                return f"compressed with {name}, and not a capture; unpack it first"
        try:
            elf = ElfFile(file)
        except ValueError as e:
            return f"not a core dump: {e}"
        if elf.type != ET_CORE:
            return "not a core dump but another kind of ELF file; files with debug info go with -s"
        notes = [note.name for note in elf.notes()]
        if b"VMCOREINFO" in notes:
            return None
        if not elf.notes_are_whole:
            return "truncated before the end of its notes; nothing in it can be judged"
        if b"QEMU" in notes:
            return (
                "no VMCOREINFO in this dump: QEMU needs -device vmcoreinfo and the guest "
                "CONFIG_FW_CFG_SYSFS; give the guest's with --vmcoreinfo"
            )
        missing = elf.missing()
        if missing.bytes:  # it may be in the kernel's memory
            return f"no VMCOREINFO in what is there; {missing}"
        return (
            "no VMCOREINFO in this core dump: not of a Linux kernel, "
            "or give the kernel's with --vmcoreinfo"
        )


def shortfall(prog: Program) -> Optional[Finding]:
    """Return what a core dump is known to lack before anything has been read."""
    kind, path = _kind(prog)
    if path is None or kind not in ("core", "capture"):
        return None
    try:
        lost = _lost(path)
        if lost is not None:
            return _lost_pages(path, lost) if lost.pages else None
        with open(path, "rb") as file:
            missing = ElfFile(file).missing()
    except (OSError, ValueError):  # compressed, or not a file at all
        return None
    if not missing.bytes:
        return None
    return Finding(
        "unreadable",
        f"{path}: {missing}",
        expected=missing.of,
        found=missing.of - missing.bytes,
        measure=SIZE,
    )


def nothing_judged(prog: Program, fault: FaultError) -> str:
    """Return what is to be said where what is missing is needed to begin with."""
    # The memory map, a list of caches.
    missing = shortfall(prog)
    start = f"{missing.message}; " if missing is not None else ""
    return f"{start}nothing could be judged: {fault}"


def _lost_pages(path: str, lost: Lost) -> Finding:
    return Finding("unreadable", f"{path}: {lost}", expected=lost.of, found=lost.of - lost.pages)


# Running kernels.


def _open_qemu(prog: Program, address: str) -> None:
    try:
        connection = _connect(address)
        _await_greeting(connection, address)
        # drgn takes the descriptor over. Given the address it would wait for a
        # greeting forever, and Ctrl-C would wait with it.
        descriptor = connection.detach()
        prog.set_qemu_qmp(descriptor)
    except OSError as e:
        raise TargetError(f"cannot connect to QEMU at {address}: {reason_of(e)}") from None
    except TargetError:
        raise
    except Exception as e:  # errors of the protocol have no class of their own
        raise TargetError(f"QEMU at {address}: {one_line(e)}") from None
    if not prog.flags & ProgramFlags.IS_LINUX_KERNEL:
        raise TargetError(
            f"QEMU at {address}: no VMCOREINFO: QEMU needs -device vmcoreinfo and the guest "
            "CONFIG_FW_CFG_SYSFS, as drgn does not take it from --vmcoreinfo here"
        )
    with contextlib.closing(socket.socket(fileno=os.dup(descriptor))) as shared:
        machine(prog).pause = ask_for_pause(shared)


def _connect(address: str) -> socket.socket:
    # host:port or the path of a socket, told apart as drgn does.
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal() and not host.startswith(("/", ".")):
        return socket.create_connection((host or "localhost", int(port)), _QMP_SECONDS)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_QMP_SECONDS)
    connection.connect(address)
    return connection


def _await_greeting(connection: socket.socket, address: str) -> None:
    try:
        greeting = connection.recv(16, socket.MSG_PEEK)
    except socket.timeout:
        raise TargetError(
            f"QEMU at {address} does not answer: it serves one client at a time, "
            "or this is no QMP socket"
        ) from None
    if not greeting.startswith(b'{"QMP"'):
        raise TargetError(f"{address} is not a QMP socket of QEMU")
    connection.settimeout(None)
    # drgn waits in C, where no signal ends it.
    limit = struct.pack("@ll", _QMP_HANGS, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def _open_kernel(prog: Program) -> None:
    try:
        prog.set_kernel()
    except PermissionError as e:
        raise TargetError(
            f"cannot read {e.filename or '/proc/kcore'}: {reason_of(e)}; "
            "the running kernel can be read by root only"
        ) from None
    except OSError as e:
        raise TargetError(
            f"cannot read the running kernel: {e.filename or '/proc/kcore'}: {reason_of(e)}; "
            "give a core dump with -c or a QEMU guest with --qemu"
        ) from None
    except Exception as e:
        raise TargetError(f"cannot read the running kernel: {one_line(e)}") from None
