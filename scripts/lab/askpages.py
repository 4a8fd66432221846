# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Ask a stopped guest about single pages: ``dump_page()``, called from outside.

What it prints stands on the console, and is written down without the time that
begins each line.
"""

from __future__ import annotations

import contextlib
import json
import re
import struct
from pathlib import Path
from typing import Dict, Iterator, List, Mapping

from .errors import GuestError
from .gdbstub import Caller, entered
from .process import run_python
from .qemu import Machine

__all__ = ("FILE", "ask", "printing", "said")

FILE = "dump_page.json"
"""Name of the file with what was printed, in the oracle's folder."""

_PREFIX = re.compile(r"^\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ", re.MULTILINE)
_EVERYTHING = struct.pack("<i", 8)  # as console_loglevel: whatever the level


def said(console: Path, start: int, first: str) -> List[str]:
    """
    Return what a guest has printed.

    :param start: Bytes of the console's file before it.
    :param first: What it begins with: what had not been printed yet comes before.
    """
    with console.open("rb") as stream:
        stream.seek(start)
        text = stream.read().decode("utf-8", "replace").replace("\r", "")
    lines = [_PREFIX.sub("", line).rstrip() for line in text.splitlines()]
    begins = (at for at, line in enumerate(lines) if line.startswith(first))
    return lines[next(begins, len(lines)) :]


@contextlib.contextmanager
def printing(machine: Machine, chosen: Mapping[str, int]) -> Iterator[Caller]:
    """
    Let a stopped guest print all that is called, at once and whatever its level.

    :param chosen: What :func:`lab.pagewords.printer` returned of its kernel.
    """
    with entered(machine.gdb_path, chosen["entry"]) as caller:
        loglevel = caller.stub.read(chosen["loglevel"], 4)
        caller.stub.write(chosen["loglevel"], _EVERYTHING)
        # Since Linux 6.12 a thread may do the printing, but not in an emergency.
        if chosen["before"]:
            caller.call(chosen["before"], 0)
        yield caller
        if chosen["after"]:
            caller.call(chosen["after"], 0)
        caller.stub.write(chosen["loglevel"], loglevel)


def ask(machine: Machine, folder: Path) -> List[Dict[str, object]]:
    """
    Let a stopped guest print pages, and return what it printed.

    :param folder: Its dump: ``vmcore`` and ``vmlinux``.
    :return: For each page its number (``pfn``), what it is (``what``) and the
        ``lines`` that were printed.
    :raises LabError: if it does not work; the guest may be lost then.
    """
    arguments = ["-m", "lab.pagewords", "choose", str(folder), str(folder / "vmcore")]
    chosen = json.loads(run_python(arguments).stdout)
    words: List[Dict[str, object]] = []
    with printing(machine, chosen) as caller:
        for page in chosen["pages"]:
            start = machine.console.stat().st_size
            caller.call(chosen["function"], page["page"])
            lines = said(machine.console, start, "page:")
            if not lines:
                raise GuestError(f"dump_page() printed nothing about PFN {page['pfn']:#x}")
            words.append({"pfn": page["pfn"], "what": page["what"], "lines": lines})
    return words
