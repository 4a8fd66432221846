# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a run has come to so far
-----------------------------

A SQLite database in the folder of the run: a row for each dump, written as its
verdict comes. A run that was stopped goes on from there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union
from urllib.parse import quote

from .. import __version__
from ..errors import TargetError
from .find import STORE, Found
from .work import Job, Verdict

_VERSION = 1  # of the tables
_APPLICATION = 0x736C6162
_PATIENCE = 30.0  # seconds to wait while another process writes

_TABLES = """
CREATE TABLE dumps (
    number INTEGER PRIMARY KEY,
    path UNIQUE NOT NULL,
    size INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    version TEXT,
    outcome TEXT,
    why TEXT,
    limited TEXT,
    max_time REAL,
    max_memory INTEGER,
    kind TEXT,
    release TEXT,
    architecture TEXT,
    allocator TEXT,
    layout TEXT,
    seen INTEGER,
    findings INTEGER,
    roots TEXT,
    signatures TEXT,
    capture,
    seconds REAL,
    memory INTEGER,
    worker TEXT,
    finished INTEGER
)
"""

_Path = Union[str, bytes]


class Row(NamedTuple):
    """A dump, and what became of it."""

    number: int
    path: str
    size: int
    modified: int
    version: Optional[str]
    """Of this package, which judged it; ``None`` if it waits."""
    outcome: Optional[str]
    why: Optional[str]
    limited: Optional[str]
    max_time: Optional[float]
    max_memory: Optional[int]
    kind: Optional[str]
    release: Optional[str]
    architecture: Optional[str]
    allocator: Optional[str]
    layout: Optional[str]
    seen: Optional[int]
    findings: Optional[int]
    roots: List[Dict[str, Any]]
    signatures: List[Dict[str, Any]]
    capture: Optional[str]
    seconds: Optional[float]
    memory: Optional[int]
    worker: Optional[str]
    finished: Optional[int]
    """When, in seconds."""


_COLUMNS = ", ".join(Row._fields)


class Store:
    """
    The results of a run.

    :param folder: Of the run.
    :param write: Whether to write; it is made then if it is not there.
    :raises TargetError: if that is not possible, or the name is empty.
    """

    def __init__(self, folder: str, write: bool = False) -> None:
        if not folder:
            raise TargetError("the folder has no name")
        self.folder = os.path.abspath(folder)
        self.path = os.path.join(self.folder, STORE)
        self._lock: Optional[int] = None
        if write:
            self._make()
        elif not os.path.exists(self.path):
            raise TargetError(f"{folder}: no run of fleet has left anything there")
        mode = "rwc" if write else "ro"
        try:
            uri = f"file:{quote(os.fsencode(self.path))}?mode={mode}"
            self._base = sqlite3.connect(uri, uri=True, timeout=_PATIENCE, isolation_level=None)
            self._open(write)
        except sqlite3.Error as error:
            self._give_back()
            raise TargetError(f"{self.path}: {self._why(error)}") from None
        except BaseException:
            self._give_back()
            raise

    def _make(self) -> None:
        try:
            os.makedirs(self.folder, exist_ok=True)
            self._lock = os.open(os.path.join(self.folder, ".lock"), os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._give_back()
            raise TargetError(f"{self.folder}: another run is at work there") from None
        except OSError as error:
            self._give_back()
            raise TargetError(f"{self.folder}: {(error.strerror or '').lower()}") from None

    def _open(self, write: bool) -> None:
        (found,) = self._base.execute("PRAGMA user_version").fetchone()
        (tables,) = self._base.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if write and not found and not tables:
            with self.transaction():
                self._base.execute(_TABLES)
                self._base.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._base.execute(f"PRAGMA user_version = {_VERSION}")
        elif found != _VERSION:
            raise TargetError(f"{self.path}: not written by this version of drgn-slabtype")

    def _why(self, error: sqlite3.Error) -> str:
        if "readonly" in str(error):
            return "a run was stopped while it wrote; run fleet once more to mend it"
        return str(error)

    def _give_back(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def close(self) -> None:
        """Let go of it."""
        self._base.close()
        self._give_back()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all of something, or nothing."""
        try:
            self._base.execute("BEGIN IMMEDIATE")
            yield
            self._base.execute("COMMIT")
        except BaseException as error:
            # A full disk has ended it already; what is told is that, not this.
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError):
                raise TargetError(f"{self.path}: {self._why(error)}") from None
            raise

    # Writing -------------------------------------------------------------------

    def enter(self, dumps: Sequence[Found]) -> None:
        """Enter dumps that are to be judged; one that has changed since waits again."""
        with self.transaction():
            for path, size, modified in dumps:
                known = self._base.execute(
                    "SELECT size, modified FROM dumps WHERE path = ?", (_stored(path),)
                ).fetchone()
                if known == (size, modified):
                    continue
                self._base.execute("DELETE FROM dumps WHERE path = ?", (_stored(path),))
                self._base.execute(
                    "INSERT INTO dumps (path, size, modified) VALUES (?, ?, ?)",
                    (_stored(path), size, modified),
                )

    def record(self, job: Job, verdict: Verdict) -> None:
        """Enter what became of a dump."""
        told: Dict[str, Any] = {
            "version": verdict.version,
            "outcome": verdict.outcome,
            "why": verdict.why,
            "limited": verdict.limit,
            "max_time": job.max_time,
            "max_memory": job.max_memory,
            "kind": verdict.kind,
            "release": verdict.release,
            "architecture": verdict.architecture,
            "allocator": verdict.allocator,
            "layout": verdict.layout,
            "seen": job.modified // 10**9 if verdict.seen is None else verdict.seen,
            "findings": verdict.findings,
            "roots": json.dumps(verdict.roots),
            "signatures": json.dumps(verdict.signatures),
            "capture": None if verdict.capture is None else _stored(verdict.capture),
            "seconds": verdict.seconds,
            "memory": verdict.memory,
            "worker": verdict.worker,
            "finished": int(time.time()),
        }
        names = ", ".join(f"{name} = ?" for name in told)
        values = [_encodable(here) for here in told.values()]
        with self.transaction():
            self._base.execute(f"UPDATE dumps SET {names} WHERE number = ?", (*values, job.number))

    # Reading -------------------------------------------------------------------

    def rows(self) -> Iterator[Row]:
        """
        Return all dumps, by their paths.

        :raises TargetError: if the database is damaged.
        """
        try:
            for row in self._base.execute(f"SELECT {_COLUMNS} FROM dumps ORDER BY path"):
                yield _row(row)
        except (sqlite3.Error, ValueError) as error:
            why = self._why(error) if isinstance(error, sqlite3.Error) else "damaged"
            raise TargetError(f"{self.path}: {why}") from None


def _row(row: Tuple[Any, ...]) -> Row:
    found = Row(*row)
    return found._replace(
        path=os.fsdecode(found.path),
        roots=json.loads(row[Row._fields.index("roots")] or "[]"),
        signatures=json.loads(row[Row._fields.index("signatures")] or "[]"),
        capture=None if found.capture is None else os.fsdecode(found.capture),
    )


def is_judged(row: Row, max_time: Optional[float], max_memory: Optional[int]) -> bool:
    """
    Return whether a dump needs not be judged again.

    What this version has judged is not; what it could not judge for want of time or
    memory is, if there is more of it now; what it could not judge for another reason is.
    """
    if row.version != __version__:
        return False
    if row.limited == "time":
        return not _is_more(max_time, row.max_time)
    if row.limited == "memory":
        return not _is_more(max_memory, row.max_memory)
    return row.outcome is not None


def _is_more(now: Optional[float], then: Optional[float]) -> bool:
    return then is not None and (now is None or now > then)


def _stored(path: str) -> _Path:
    # A name of a file is bytes, and mostly text.
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _encodable(here: Any) -> Any:
    return here.encode("utf-8", "backslashreplace").decode() if isinstance(here, str) else here
