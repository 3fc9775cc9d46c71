"""An SQLite file that one process writes with many threads.

Guarantees:

- A row is durable when `write` returns: killing the process loses nothing that was written. A row given to
  `write_soon` is durable when `flush` returns, and without that after a moment.
- It is looked at without being touched first; one that is damaged, or of a newer schema, is not opened.
- Rows of threads that come together are committed together. Every call into SQLite gives up the interpreter lock, and
  with many busy threads it takes long to come back: so a writer writes for all that wait, in one statement, and what
  nobody waits for is written by a thread of its own.
"""

from __future__ import annotations

import functools
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["Database", "NewerSchemaError"]

_MOST = 100
"""Rows of one statement."""
_SOON = 0.02
"""Seconds that a row nobody waits for may wait for company."""


class NewerSchemaError(Exception):
    """The file was written by a newer version; the argument is its schema."""


class _Row:
    """A row on its way."""

    __slots__ = ("done", "error", "into", "values")

    def __init__(self, into: str, values: Sequence[Any]) -> None:
        self.into, self.values = into, values
        self.done = False
        self.error: sqlite3.Error | None = None


class Database:
    """An open database. Thread-safe; everything may raise `sqlite3.Error`."""

    def __init__(self, path: Path, tables: str, schema: int) -> None:
        """Check the file if there is one, then open or create it.

        Args:
            path: The file.
            tables: Statements that create what is not there yet.
            schema: Version of these tables; a newer one is refused.

        Raises:
            NewerSchemaError: The file is of a newer version.
            sqlite3.Error: It is damaged, or can't be opened or written.
        """
        _check(path, schema)
        self._lock = threading.Lock()
        self._waiting: deque[_Row] = deque()
        self._unwaited: deque[_Row] = deque()
        self._some = threading.Event()
        self._closed = False
        self._error: sqlite3.Error | None = None
        self.connection = sqlite3.connect(
            path, check_same_thread=False, isolation_level=None, timeout=10, cached_statements=512
        )
        try:
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.execute("PRAGMA synchronous=NORMAL")  # killing the process loses nothing
            self.connection.executescript(tables)
            self.connection.execute(f"PRAGMA user_version={schema}")
        except sqlite3.Error:
            self.connection.close()
            raise
        threading.Thread(target=self._write_unwaited, name="trgrpo-journal", daemon=True).start()

    def close(self) -> None:
        """Write what is left and close the file."""
        with self._lock:
            if not self._closed:
                self._empty(self._unwaited)
            self._closed = True
            self.connection.close()
        self._some.set()

    def all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with self._lock:
            self._empty(self._unwaited)
            return self.connection.execute(query, values).fetchall()

    def one(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row a query finds, or None."""
        return next(iter(self.all(query, *values)), None)

    def write(self, into: str, *values: Any) -> None:
        """Commit one row.

        Args:
            into: The statement up to its values, such as `INSERT INTO calls`.
            values: The row.
        """
        row = _Row(into, values)
        self._waiting.append(row)
        with self._lock:
            while not row.done:
                self._commit(self._waiting)
        if row.error is not None:
            raise row.error

    def write_soon(self, into: str, *values: Any) -> None:
        """Commit one row in a moment; what goes wrong is raised by the next `flush`."""
        self._unwaited.append(_Row(into, values))
        if not self._some.is_set():
            self._some.set()

    def flush(self) -> None:
        """Commit what was given to `write_soon`."""
        if self._unwaited:
            with self._lock:
                self._empty(self._unwaited)
        if self._error is not None:
            raise self._error

    def _write_unwaited(self) -> None:
        while True:
            self._some.wait()
            time.sleep(_SOON)
            self._some.clear()
            with self._lock:
                if self._closed:
                    return
                self._empty(self._unwaited)

    def _empty(self, rows: deque[_Row]) -> None:
        while rows:
            self._commit(rows)

    def _commit(self, queue: deque[_Row]) -> None:
        """Commit what is in a queue, a statement a table; the lock is held."""
        rows = [queue.popleft() for _ in range(min(_MOST, len(queue)))]
        try:
            for into in dict.fromkeys(row.into for row in rows):
                self._insert(into, [row for row in rows if row.into == into])
        finally:
            queue.extendleft(row for row in reversed(rows) if not row.done)  # after Ctrl-C: others wait for theirs

    def _insert(self, into: str, rows: list[_Row]) -> None:
        statement = _statement(into, len(rows[0].values), len(rows))
        error: sqlite3.Error | None = None
        try:  # one statement is one transaction; `executemany` gives the interpreter lock up less often than `execute`
            self.connection.executemany(statement, [[value for row in rows for value in row.values]])
        except sqlite3.Error as failure:
            self._error = error = failure
        for row in rows:
            row.error, row.done = error, True


@functools.cache
def _statement(into: str, columns: int, rows: int) -> str:
    places = f"({', '.join('?' * columns)})"
    return f"{into} VALUES {', '.join([places] * rows)}"


def _check(path: Path, schema: int) -> None:
    """Look whether the file can be used, without writing to it."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > schema:
            raise NewerSchemaError(version)
        if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found.splitlines()[-1])
