"""An SQLite file that one process writes with many threads.

Guarantees:

- A row is durable when `write` returns: killing the process loses nothing that was written. A row given to
  `write_soon` is durable when `flush` returns, and without that after a moment.
- Opening reads before anything is written. A file that is damaged, of another schema or no journal is left as it is.
- Every row carries a checksum of its values, compared at opening: a changed row is refused by its name.
- A file that was copied without its write-ahead log is refused: what was written last would be missing.
- The file and those that SQLite puts beside it are for their owner alone.
- Rows of threads that come together are committed together. Every call into SQLite gives up the interpreter lock, and
  with many busy threads it takes long to come back: so one writer writes for all that wait, in one statement, and what
  nobody waits for is written by a thread of its own.
"""

from __future__ import annotations

import functools
import re
import sqlite3
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from trgrpo_dspy.errors import JournalError, SchemaVersionError

from .files import create_private, unwritable

__all__ = ["Database"]

_MOST = 100
"""Rows of one statement."""
_SOON = 0.02
"""Seconds that a row nobody waits for may wait for company."""
_LOG_PAGES = 2000
"""Pages of the write-ahead log after which it is moved into the file."""
_PAGES_OF_STATEMENT = 4
"""Those that a statement writes beside its values: of the table and its index."""
_CLOSED, _MOVED, _WRITING = 0x74677270, 0x74677271, 0x74677272
"""What the file's application id says: it was closed in order; its log was just moved into it; the log holds more.

The last is only ever written to the log. So a file that says `_MOVED` and has no log beside it has lost its log."""
_LATER = ("config.json", "events.jsonl", "results.json")
"""Files that a run writes once its journal is open: a journal that is empty beside them was not left so."""


class _Damage(sqlite3.DatabaseError):
    """The file was changed by something else, or is incomplete."""


class _Row:
    """A row on its way."""

    def __init__(self, table: str, values: Sequence[Any]) -> None:
        self.table, self.values = table, (_checksum(table, values), *values)
        self.done = False
        self.error: sqlite3.Error | None = None


class Database:
    """An open database. Thread-safe; everything may raise `JournalError`, saying what can be done."""

    def __init__(self, path: Path, tables: Mapping[str, str], schema: int) -> None:
        """Check the file if there is one, then open or create it.

        Args:
            path: The file.
            tables: Definition of each table's columns, by name; a column `checksum` is added.
            schema: Version of these tables; a newer one is a `SchemaVersionError`.
        """
        self._path = path
        self._lock = threading.Lock()
        self._queue: deque[_Row] = deque()
        self._unwaited = threading.Event()
        """Set while the queue may hold rows that nobody waits for."""
        self._closed = False
        self._error: sqlite3.Error | None = None
        self._pages = 0
        try:
            _check(path, tables, schema)
            create_private(path)
            self.connection = _connect(path, tables, schema)
            self._move_log()
        except sqlite3.Error as error:
            raise self._failed(error) from error
        except OSError as error:
            raise unwritable(path, error) from error
        threading.Thread(target=self._write_unwaited, name="trgrpo-journal", daemon=True).start()

    def close(self) -> None:
        """Write what is left and close the file."""
        with self._lock:
            if not self._closed:
                self._empty()
                with suppress(sqlite3.Error):  # such as a full disk: what was committed stays in the log
                    self.connection.execute(f"PRAGMA application_id={_CLOSED}")
            self._closed = True
            self.connection.close()
        self._unwaited.set()

    def all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a query finds."""
        with self._lock:
            self._empty()
            try:
                return self.connection.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def one(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row a query finds, or None."""
        return next(iter(self.all(query, *values)), None)

    def write(self, table: str, *values: Any) -> None:
        """Commit one row; it takes the place of one with the same key."""
        self._queue.append(row := _Row(table, values))
        with self._lock:
            while not row.done:
                self._commit()
        if row.error is not None:
            raise self._failed(row.error) from row.error

    def write_soon(self, table: str, *values: Any) -> None:
        """Commit one row in a moment; what goes wrong is raised by the next `flush`."""
        self._queue.append(_Row(table, values))
        if not self._unwaited.is_set():
            self._unwaited.set()

    def flush(self) -> None:
        """Commit what was given to `write_soon`."""
        if self._queue:
            with self._lock:
                self._empty()
        if self._error is not None:
            raise self._failed(self._error) from self._error

    def _failed(self, error: sqlite3.Error) -> JournalError:
        """The error for the user: the file is damaged, or can't be written or read just now."""
        where = f"{self._path.name} in {str(self._path.parent)!r}"
        if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
            return JournalError(
                f"{where} can't be written or read: {error}. What was committed is safe; make room or mend the "
                "directory, and run again with the same log_dir"
            )
        row = re.match(r"row (\d+) of table (\w+)", str(error))
        mend = f", delete that row (DELETE FROM {row[2]} WHERE rowid={row[1]}) to have it made again" if row else ""
        return JournalError(
            f"{where} is damaged: {error}. It was left as it is: put a sound copy there{mend}, or pass another "
            "log_dir to start anew"
        )

    def _write_unwaited(self) -> None:
        while True:
            self._unwaited.wait()
            time.sleep(_SOON)
            self._unwaited.clear()
            with self._lock:
                if self._closed:
                    return
                self._empty()

    def _empty(self) -> None:
        while self._queue:
            self._commit()

    def _commit(self) -> None:
        """Commit what is in the queue, a statement a table; the lock is held."""
        rows = [self._queue.popleft() for _ in range(min(_MOST, len(self._queue)))]
        try:
            for table in dict.fromkeys(row.table for row in rows):
                self._insert(table, [row for row in rows if row.table == table])
        finally:
            self._queue.extendleft(
                row for row in reversed(rows) if not row.done
            )  # after Ctrl-C: others wait for theirs

    def _insert(self, table: str, rows: list[_Row]) -> None:
        values = [value for row in rows for value in row.values]
        error: sqlite3.Error | None = None
        try:  # one statement is one transaction; `executemany` gives the interpreter lock up less often than `execute`
            self.connection.executemany(_statement(table, len(rows[0].values), len(rows)), [values])
            size = sum(len(value) for value in values if isinstance(value, str))
            self._pages += _PAGES_OF_STATEMENT + size // 4096
            if self._pages > _LOG_PAGES:
                self._move_log()
        except sqlite3.Error as failure:
            self._error = error = failure
        for row in rows:
            row.error, row.done = error, True

    def _move_log(self) -> None:
        """Move the write-ahead log into the file, and say in each of them which it is."""
        self._pages = 0
        self.connection.execute(f"PRAGMA application_id={_MOVED}")
        self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")  # waits for no reader of another process
        self.connection.execute(f"PRAGMA application_id={_WRITING}")


def _checksum(table: str, values: Sequence[Any]) -> int:
    return zlib.crc32("\x1f".join([table, *map(str, values)]).encode("utf-8", "surrogatepass"))


@functools.cache
def _statement(table: str, columns: int, rows: int) -> str:
    one = f"({', '.join('?' * columns)})"
    return f"INSERT OR REPLACE INTO {table} VALUES {', '.join([one] * rows)}"


def _connect(path: Path, tables: Mapping[str, str], schema: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10, cached_statements=512)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")  # `_move_log` does it
        connection.execute("PRAGMA synchronous=NORMAL")  # killing the process loses nothing
        for name, columns in tables.items():
            connection.execute(f"CREATE TABLE IF NOT EXISTS {name} (checksum INTEGER NOT NULL, {columns})")
        connection.execute(f"PRAGMA user_version={schema}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _check(path: Path, tables: Iterable[str], schema: int) -> None:
    """Look whether the file can be used, without writing to it."""
    log = path.with_name(f"{path.name}-wal")
    has_log = log.exists() and log.stat().st_size > 0
    if not path.exists() or path.stat().st_size == 0:
        if has_log:
            raise _Damage(f"{log.name} is here, but the file that it belongs to is not")
        if path.exists() and any(path.with_name(name).exists() for name in _LATER):
            raise _Damage("it is empty, but other files of a run are here")
        return
    how = "mode=ro" if has_log else "mode=ro&immutable=1"  # else SQLite leaves an empty log behind
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True)) as db:
        db.text_factory = lambda data: data.decode("utf-8", "replace")
        try:
            _compare(db, path, tables, schema)
        except UnicodeDecodeError as error:  # SQLite quotes what it can't read in its message
            raise _Damage("its schema is not as it was written") from error
        if db.execute("PRAGMA application_id").fetchone()[0] == _MOVED and not has_log:
            raise _Damage(f"it was copied without {log.name}, which holds what was written last: copy both")


def _compare(db: sqlite3.Connection, path: Path, tables: Iterable[str], known: int) -> None:
    version, where = db.execute("PRAGMA user_version").fetchone()[0], f"{path.name} in {str(path.parent)!r}"
    if version > known:
        raise SchemaVersionError(
            f"{where} is of schema {version}; this version knows {known}: upgrade trgrpo-dspy, or pass another log_dir"
        )
    if version and version != known:
        raise JournalError(
            f"{where} is of schema {version}, of trgrpo-dspy 0.1, which this version does not read: finish that run "
            "with 0.1, or pass another log_dir"
        )
    if not version and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise JournalError(f"{where} is another program's database: pass another log_dir")
    if (found := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
        raise _Damage(found.splitlines()[-1])
    for table in tables if version else ():
        for rowid, checksum, *values in db.execute(f"SELECT rowid, * FROM {table}"):
            if checksum != _checksum(table, values):
                raise _Damage(f"row {rowid} of table {table} ({str(values[0])[:80]!r}) is not as it was written")
