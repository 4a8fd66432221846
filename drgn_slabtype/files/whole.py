# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that are there whole or not at all."""

from __future__ import annotations

import os
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
    special = os.path.exists(path) and not os.path.isfile(path)
    part = path if special else f"{os.path.realpath(path)}.part"
    try:
        with open(part, "wb") as file:
            yield file
        if not special:
            os.replace(part, os.path.realpath(path))
    except BaseException as error:
        if not special:
            with suppress(OSError):
                os.unlink(part)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror or str(error), path) from None
        raise
