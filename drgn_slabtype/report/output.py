# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where reports go: standard output or, whole or not at all, a file; progress to a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, Optional

from ..errors import TargetError
from ..files.whole import is_special, whole
from ..records import plural
from . import Text

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..fleet.run import State


def check_writable(path: Optional[str]) -> None:
    """
    Complain about a file that cannot be written, before hours are spent on its contents.

    :raises TargetError: if it cannot be written.
    """
    if path is None or path == "-":
        return
    where = path if is_special(path) else os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
        raise TargetError(f"{path}: no such folder to write it to")
    if os.path.isdir(path) or not os.access(where, os.W_OK):
        raise TargetError(f"{path}: cannot be written")


def check_apart(*paths: str) -> None:
    """
    Complain about two names of one file, of which one would be lost.

    :param paths: Files that are written, and that which is read.
    :raises TargetError: if two of them are one regular file.
    """
    seen = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise TargetError(f"{path}: named twice, and is one file")
        if path != "-" and not is_special(path):
            seen.add(real)


def write_text(text: Text, path: Optional[str]) -> None:
    """
    Write a text, such as a report.

    >>> write_text(as_json(caches(prog, "dentry")), "dentry.json")

    A regular file appears, or changes, when everything has been written, and
    not at all after an error.

    :param text: What to write, or the pieces of it, made as they are written.
    :param path: ``None`` or ``-`` for standard output.
    :raises TargetError: if the file cannot be written.
    """
    try:
        if path is None or path == "-":
            for piece in _pieces(text):
                sys.stdout.write(piece)
                sys.stdout.flush()
        else:
            with whole(path) as file, io.TextIOWrapper(file, encoding="utf-8") as out:
                out.writelines(_pieces(text))
    except BrokenPipeError:
        raise
    except OSError as e:
        raise TargetError(f"{path or 'standard output'}: {e.strerror}") from None


def _pieces(text: Text) -> Iterable[str]:
    return (text,) if isinstance(text, str) else text


def colours(path: Optional[str]) -> bool:
    """
    Return whether colours will be seen.

    :param path: Where the text goes; ``None`` or ``-`` for standard output.
    """
    return path in (None, "-") and sys.stdout.isatty() and "NO_COLOR" not in os.environ


def width(path: Optional[str]) -> Optional[int]:
    """
    Return how wide the terminal is that a text goes to; ``None`` if it goes to none.

    :param path: Where the text goes; ``None`` or ``-`` for standard output.
    """
    if path not in (None, "-") or not sys.stdout.isatty():
        return None
    return shutil.get_terminal_size().columns


Progress = Callable[[str, int, int], None]


@contextlib.contextmanager
def progress() -> Iterator[Optional[Progress]]:
    """
    Show progress on standard error while it is a terminal; else return ``None``.

    Nothing is shown in the first :data:`PATIENCE` seconds of the work, nor of a part of it
    that takes an eighth of that, and nothing is left of what was.
    """
    if not sys.stderr.isatty():
        yield None
        return
    bar = _Bar()
    try:
        yield bar.show
    finally:
        bar.close()


PATIENCE = 2.0  # seconds


class _Bar:
    # One line: that of what is being done now.
    def __init__(self) -> None:
        self._started: Optional[float] = None
        self._label = ""
        self._shown: Optional[tqdm[Any]] = None

    def show(self, label: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if not total:
            return
        now = time.monotonic()
        if self._started is None:
            self._started = now
        if self._shown is None or label != self._label:
            self.close()
            self._label = label
            self._shown = tqdm(
                desc=label,
                total=total,
                initial=done,
                leave=False,
                file=sys.stderr,
                delay=max(self._started + PATIENCE - now, PATIENCE / 8),
            )
        self._shown.total = total
        self._shown.update(done - self._shown.n)

    def close(self) -> None:
        if self._shown is not None:
            self._shown.close()
            self._shown = None


@contextlib.contextmanager
def fleet_progress() -> Iterator[Optional[Callable[[State], None]]]:
    """
    Show how far a run over many dumps is, on standard error while it is a terminal.

    As with :func:`progress`, nothing of short work, and nothing is left.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    bar = tqdm(
        leave=False, file=sys.stderr, bar_format="{bar:24} {desc}", delay=PATIENCE, miniters=0
    )

    def show(state: State) -> None:
        bar.total = state.of
        bar.set_description_str(_how_far(state), refresh=False)
        bar.update(state.done - bar.n)

    try:
        yield show
    finally:
        bar.close()


def _how_far(state: State) -> str:
    told = [f"{state.done} of {plural(state.of, 'dump')}", f"{state.damaged} damaged"]
    told += [f"{state.unjudged} not judged"] if state.unjudged else []
    if state.left is not None:
        told.append(f"{_span(*state.left)} left")
    return ", ".join(told)


def _span(low: float, high: float) -> str:
    # Only as exact as it is known.
    _, unit, name = next(one for one in _UNITS if high >= one[0])
    first, last = int(low / unit), -int(-high // unit)
    return f"{last} {name}" if first >= last else f"{first} to {last} {name}"


_UNITS = ((7200, 3600, "h"), (120, 60, "min"), (0, 1, "s"))
