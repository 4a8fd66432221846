# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager, suppress
from typing import IO, Iterator


@contextmanager
def whole(path: str) -> Iterator[IO[bytes]]:
    """
    Open a file that appears, or changes, when all of it has been written.

    After an error there is nothing of it. What is no regular file, such as a pipe, is
    written to as it is.

    >>> with whole("kpageflags") as file:
    ...     file.write(bytes(8))
    8

    :raises OSError: which names the file, if it cannot be written.
    """
    if is_special(path):
        with _named(path), open(path, "wb") as device:
            yield device
        return
    real = os.path.realpath(path)
    with _named(path):
        # Two that write the same file do not meet, and each is whole.
        descriptor, part = tempfile.mkstemp(
            prefix=f".{os.path.basename(real)}.", dir=os.path.dirname(real)
        )
        try:
            with open(descriptor, "wb") as file:
                yield file
            os.chmod(part, _mode(real))
            os.replace(part, real)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise


def is_special(path: str) -> bool:
    """Return whether a path is there and no regular file: a pipe, or ``/dev/null``."""
    return os.path.exists(path) and not os.path.isfile(path)


@contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), path) from None


def _mode(path: str) -> int:
    # The file's own mode, or the one it would have got.
    try:
        return os.stat(path).st_mode & 0o777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
