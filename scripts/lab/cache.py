# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The lab's cache: folders named after what they were made from.

A folder is made beside its final place and moved there when it is complete, so
what is found under its name can be used.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Iterator, Union

__all__ = ("entry", "key", "lock", "log_file", "root")


def root() -> Path:
    """Return the lab's folder under the user's cache folder; it may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = Path(base) if base and os.path.isabs(base) else Path.home() / ".cache"
    return folder / "drgn-slabtype" / "lab"


def log_file(name: str) -> Path:
    """Return the path of a log; its folder exists."""
    path = root() / "logs" / f"{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def key(*parts: Union[str, bytes, Path, object]) -> str:
    """
    Return 12 hexadecimal digits that stand for some contents.

    :param parts: Files are taken by content, everything else by its JSON.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            data = part.read_bytes()
        elif isinstance(part, bytes):
            data = part
        else:
            data = json.dumps(part, sort_keys=True).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold the lab's lock of that name; other processes wait."""
    folder = root() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def entry(folder: Path) -> Iterator[Path]:
    """
    Make a folder of the cache.

    What is left in the folder that is yielded becomes the entry; after an
    exception nothing does.

    :param folder: Final place; whatever is there is replaced.
    """
    work = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
