# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Debug info of what is opened
----------------------------

The vmlinux that was given, or found where drgn looks, if it is this kernel's; or
the types and symbols that the kernel has in its own memory.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Optional, Sequence, Tuple

from drgn import FaultError, MissingDebugInfoError, ModuleFileStatus, Program
from drgn.helpers.common.format import escape_ascii_string

from .arguments import program_of
from .btf import load_btf
from .errors import TargetError
from .files.elf import ET_REL, ElfFile
from .machine import machine

if TYPE_CHECKING:
    from .target import TargetOptions


def kernel_build_id(prog: Program) -> Optional[bytes]:
    """
    Return the build ID of the kernel that runs or was dumped.

    Since Linux kernel commit 0935288c6e00 ("kdump: append kernel build-id
    string to VMCOREINFO") (in v5.9), VMCOREINFO has it; ``None`` before.
    """
    try:
        text = prog["VMCOREINFO"].string_()
    except LookupError:
        return None
    for line in text.splitlines():
        if line.startswith(b"BUILD-ID="):
            try:
                return bytes.fromhex(line[9:].decode("ascii").strip()) or None
            except ValueError:
                return None
    return None


def load_symbols(prog: Program, options: TargetOptions) -> None:
    """
    Load the debug info of a kernel, or else what it says of itself.

    :raises TargetError: if there is neither, or a vmlinux that is another kernel's.
    """
    wanted = kernel_build_id(prog)
    symbols = list(options.symbols)
    if not symbols and wanted is not None and options.find_symbols is not None:
        found = options.find_symbols(wanted.hex())
        symbols += [found] if found is not None else []
    matching = _matching_symbols(symbols, wanted)
    if options.debug_directories:
        prog.debug_info_options.directories = (
            *options.debug_directories,
            *prog.debug_info_options.directories,
        )
    if not options.default_symbols:
        prog.set_enabled_debug_info_finders([])
    try:
        _load(prog, symbols)
    except MissingDebugInfoError:
        try:
            machine(prog).btf = load_btf(prog)
        except TargetError as why:
            if matching:
                raise TargetError(
                    f"{matching}: build ID {_hex(wanted)} is right, but the file has no debug "
                    f"info; the kernel does not describe itself: {why}"
                ) from None
            raise TargetError(_not_found(prog, options, wanted, why)) from None
        return
    except OSError as e:
        raise TargetError(f"{e.filename or 'debug info'}: {reason_of(e)}") from None
    except Exception as e:
        raise TargetError(f"cannot load debug info: {one_line(e)}") from None
    if wanted is None:
        confirm_banner(prog)


def _load(prog: Program, paths: Sequence[str]) -> None:
    # The kernel first, and by itself: to read of modules that are loaded or unloaded at that
    # moment, or of a damaged list of them, can fail.
    kernel, _ = next(prog.loaded_modules())
    modules = []
    for path in paths:
        if _is_module(path):
            modules.append(path)
        elif kernel.wants_debug_file() or kernel.wants_loaded_file():
            kernel.try_file(path)
    prog.load_module_debug_info(kernel)
    if kernel.debug_file_status != ModuleFileStatus.HAVE:
        raise MissingDebugInfoError(f"{kernel.name}: no debug info")
    with suppress(LookupError):
        # To index the file is part of opening it.
        prog.type("struct page")
    if modules:
        # Their types are a help at most, and what is known of the kernel is there.
        with suppress(FaultError, LookupError, MemoryError, ValueError):
            prog.load_debug_info(modules)


def _is_module(path: str) -> bool:
    with open(path, "rb") as file:
        return ElfFile(file).type == ET_REL


def _hex(build_id: Optional[bytes]) -> str:
    return "none" if build_id is None else build_id.hex()


def _matching_symbols(paths: Sequence[str], wanted: Optional[bytes]) -> Optional[str]:
    # The file that is this kernel's, by its build ID. A vmlinux of another
    # build is an error, whatever else is given; modules are left to drgn.
    others: Sequence[Tuple[str, Optional[bytes]]] = ()
    for path in paths:
        try:
            with open(path, "rb") as file:
                elf = ElfFile(file)
                build_id = elf.build_id()
        except OSError as e:
            raise TargetError(f"{path}: {reason_of(e)}") from None
        except ValueError as e:
            raise TargetError(f"{path}: {e}; -s takes a vmlinux with debug info") from None
        if elf.type == ET_REL or wanted is None:
            continue
        if build_id == wanted:
            return path
        others = (*others, (path, build_id))
    for path, build_id in others:
        if build_id is None:
            raise TargetError(
                f"{path}: has no build ID, the kernel has {_hex(wanted)}: "
                "whether they belong together cannot be told"
            )
        raise TargetError(
            f"{path}: wrong vmlinux: its build ID is {_hex(build_id)}, "
            f"the kernel's is {_hex(wanted)}"
        )
    return None


def _not_found(
    prog: Program, options: TargetOptions, wanted: Optional[bytes], why: TargetError
) -> str:
    release = release_of(prog) or "unknown release"
    text = f"no debug info for Linux {release}"
    if wanted is not None:
        text += f", build ID {_hex(wanted)}"
    if options.default_symbols:
        directories = list(prog.debug_info_options.directories)
        looked = [f"{d}/boot/vmlinux-{release}" for d in directories[:1]]
        looked += [f"{d}/lib/modules/{release}/vmlinux" for d in directories[:1]]
        if wanted is not None:
            name = _hex(wanted)
            looked += [f"{d}/.build-id/{name[:2]}/{name[2:]}.debug" for d in directories]
        text += f": looked for {', '.join(looked)}"
    return f"{text}; the kernel does not describe itself: {why}; give its vmlinux with -s"


def ensure_types(prog: Program) -> None:
    """
    Let a program without the kernel's debug info use what the kernel has in its own memory.

    Does nothing if there is debug info.

    >>> ensure_types(prog)
    >>> prog.type("struct slab").size
    64

    :param prog: A Linux kernel, whoever opened it.
    :raises ArgumentError: if *prog* is no program.
    :raises TargetError: if there is neither; its message is one line.
    """
    program_of(prog)
    try:
        prog.type("struct page")
    except LookupError:
        try:
            machine(prog).btf = load_btf(prog)
        except TargetError as why:
            release = release_of(prog) or "unknown release"
            raise TargetError(
                f"no debug info for Linux {release}; the kernel does not describe itself: {why}"
            ) from None


def confirm_banner(prog: Program) -> None:
    """
    Make sure that a vmlinux is this kernel's where there is no build ID to compare.

    One of another build shows in that the kernel's banner is not where it says.

    :raises TargetError: if it is another's.
    """
    release = release_of(prog)
    try:
        banner = prog["linux_banner"]
        assert banner.address_ is not None
        text = prog.read_c_string(banner.address_, max_size=256).decode("ascii", "replace")
    except (FaultError, LookupError):
        return
    if release is not None and not text.startswith(f"Linux version {release} "):
        shown = text[:64] if text.startswith("Linux version ") else "something else"
        raise TargetError(
            f"wrong vmlinux: where it has the kernel's banner, the memory of Linux {release} "
            f"has {shown!r} (this kernel is too old to tell its build ID)"
        )


def release_of(prog: Program) -> Optional[str]:
    """Return the release of a kernel, escaped."""
    try:
        release: bytes = prog["UTS_RELEASE"].string_()
    except (FaultError, LookupError):
        return None
    return escape_ascii_string(release, escape_backslash=True)


def reason_of(error: OSError) -> str:
    """Return what the system says of an error, as the end of a sentence."""
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
