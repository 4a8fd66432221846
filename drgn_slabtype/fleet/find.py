# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Finding dumps, and the vmlinux of each
--------------------------------------

What a file is, its first bytes and its headers tell, not its name; a file that
is called a vmcore and is none is told, too.
"""

from __future__ import annotations

import os
import stat
from typing import (
    BinaryIO,
    Callable,
    Dict,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from ..capture import is_capture
from ..errors import TargetError
from ..files.elf import ET_CORE, ET_REL, ElfFile
from ..files.kdump import is_kdump
from .saved import dumps_of, is_report

STORE = "fleet.sqlite"
"""Name of the file that marks the folder of a run, which holds no dumps of its own."""

_CALLED_A_DUMP = ("vmcore", "kdump")
_TEXT = frozenset(range(0x20, 0x7F)) | {*b"\t\n\r\f"}
_START = 4096


class Found(NamedTuple):
    """A file that is to be judged."""

    path: str
    """Absolute."""
    size: int
    modified: int
    """In nanoseconds, as the file system has it."""


class Search(NamedTuple):
    """What was found below some paths."""

    dumps: List[Found]
    unread: List[Tuple[str, str]]
    """Folders and files that could not be looked at, and why."""


def find_dumps(paths: Sequence[str], progress: Optional[Callable[[int], None]] = None) -> Search:
    """
    Return all dumps, captures and saved reports below some paths, each dump once.

    Links to folders are not followed, links to files are. A file that is named
    itself is taken whatever it is.

    :param progress: Called with the number of dumps found so far.
    :raises TargetError: if one of the paths is not there.
    """
    search = Search([], [])
    seen: Set[Tuple[int, int]] = set()
    for path in paths:
        if not os.path.exists(path):
            raise TargetError(f"{path or repr(path)}: no such file or folder")
        given = not os.path.isdir(path)
        for one in (path,) if given else _files(path, search.unread):
            found = _found(one, given, seen, search.unread)
            if found is not None:
                search.dumps.append(found)
                if progress:
                    progress(len(search.dumps))
    dumps = {dump.path for dump in search.dumps}
    # A report beside its dump is no other dump.
    search.dumps[:] = sorted(dump for dump in search.dumps if not _is_of_one(dump.path, dumps))
    return search


def _is_of_one(path: str, dumps: Set[str]) -> bool:
    try:
        return is_report(path) and not dumps.isdisjoint(set(dumps_of(path)) - {path})
    except OSError:
        return False


def _files(folder: str, unread: List[Tuple[str, str]]) -> Iterator[str]:
    def failed(error: OSError) -> None:
        unread.append((os.path.abspath(error.filename), _why(error)))

    for where, folders, names in os.walk(os.path.abspath(folder), onerror=failed):
        if STORE in names:
            folders.clear()
            continue
        folders.sort()
        yield from (os.path.join(where, name) for name in sorted(names))


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _found(
    path: str, given: bool, seen: Set[Tuple[int, int]], unread: List[Tuple[str, str]]
) -> Optional[Found]:
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):
            return None
        called = os.path.basename(path).lower().startswith(_CALLED_A_DUMP)
        if not given and not _is_dump(path, called):
            return None
    except OSError as error:
        # A link that leads nowhere is no dump, unless it is called one.
        if not os.path.islink(path):
            unread.append((os.path.abspath(path), _why(error)))
        return None
    if (about.st_dev, about.st_ino) in seen:
        return None
    seen.add((about.st_dev, about.st_ino))
    return Found(os.path.realpath(path), about.st_size, about.st_mtime_ns)


def _is_dump(path: str, called: bool) -> bool:
    with open(path, "rb") as file:
        start = file.read(_START)
        if is_kdump(start[:16]):
            return True
        if start[:4] == b"\x7fELF":
            return _is_kernel_core(file)
    if is_capture(path) or is_report(path):
        return True
    # A log of the same name is beside most dumps.
    return called and not (start and set(start) <= _TEXT)


def _is_kernel_core(file: BinaryIO) -> bool:
    try:
        elf = ElfFile(file)
        if elf.type != ET_CORE:
            return False
        names = {note.name for note in elf.notes()}
    except (ValueError, MemoryError):
        return False
    # Without any it is cut off, or was dumped of a guest that did not tell.
    return not elf.notes_are_whole or bool(names & {b"VMCOREINFO", b"QEMU", b"slabtype"})


def find_symbols(folders: Sequence[str]) -> Dict[str, str]:
    """
    Return the files with debug info of kernels below some folders, by build ID in hex.

    :raises TargetError: if one of the folders is not there.
    """
    found: Dict[str, str] = {}
    for folder in folders:
        if not os.path.exists(folder):
            raise TargetError(f"{folder}: no such folder")
        some = _files(folder, []) if os.path.isdir(folder) else iter((os.path.abspath(folder),))
        for path in some:
            build_id = _build_id(path)
            if build_id is None:
                continue
            # A stripped copy may lie beside the one with debug info, which is larger.
            other = found.get(build_id)
            if other is None or os.path.getsize(path) > os.path.getsize(other):
                found[build_id] = path
    return found


def _build_id(path: str) -> Optional[str]:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(path, "rb") as file:
            if file.read(4) != b"\x7fELF":
                return None
            elf = ElfFile(file)
            build_id = None if elf.type in (ET_REL, ET_CORE) else elf.build_id()
    except (OSError, ValueError):
        return None
    return None if build_id is None else build_id.hex()
