"""What was paid for: an SQLite journal of LM replies and finished attempts.

Guarantees:

- A reply is committed before the program that asked for it sees it, so killing the process at any moment loses at most
  the calls in flight. Resuming *replays* a run: a request that was answered in the same unit of work is answered from
  here, any other goes out.
- One process at a time: a second one is refused with the first one's pid. The lock dies with its process.
- A journal of another program, data, metric or learning setting is refused with the differences named; one of a newer
  schema, or one that is damaged, is refused with what to do. Nothing is overwritten.
- It holds replies, usage, scores and transcripts, but no LM state: no key, no header, no address.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import filelock

from .errors import JournalError, SchemaVersionError
from .meter import LMCall
from .rollout import Outcome, Rollout

__all__ = ["Journal", "Recorded", "write_atomically"]

SCHEMA_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS calls (
    unit TEXT NOT NULL, request TEXT NOT NULL, occurrence INTEGER NOT NULL, reply TEXT, call TEXT NOT NULL,
    PRIMARY KEY (unit, request, occurrence)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempts (unit TEXT PRIMARY KEY, rollout TEXT NOT NULL) WITHOUT ROWID;
"""


class Recorded:
    """A reply from the journal."""

    __slots__ = ("call", "reply")

    def __init__(self, reply: Any, call: LMCall) -> None:
        """Hold the reply as plain data and what the call cost when it was made."""
        self.reply = reply
        self.call = call


class Journal:
    """The journal of one run, in one directory. Thread-safe; close it when done."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Open or create the journal, and lock the directory.

        Raises:
            JournalError: Another process uses it, it can't be written, or it is damaged.
            SchemaVersionError: It was written by a newer version.
        """
        self.directory = Path(directory).expanduser()
        self._lock = threading.Lock()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JournalError(
                f"log_dir={str(directory)!r} can't be used: {error.strerror or error}; pass another directory"
            ) from error
        self._file_lock = self._claim()
        try:
            self._db = self._open()
        except BaseException:
            self._file_lock.release()
            raise

    def _claim(self) -> filelock.BaseFileLock:
        lock = filelock.FileLock(self.directory / "run.lock", timeout=0, is_singleton=False, thread_local=False)
        pid_file = self.directory / "run.pid"
        try:
            lock.acquire()
            pid_file.write_text(f"{os.getpid()}\n", encoding="ascii")
        except filelock.Timeout:
            pid = pid_file.read_text(encoding="ascii").strip() if pid_file.exists() else "unknown"
            raise JournalError(
                f"log_dir={str(self.directory)!r} is in use by process {pid}; wait for it, stop it, "
                "or pass another directory"
            ) from None
        except OSError as error:
            lock.release()
            raise JournalError(
                f"log_dir={str(self.directory)!r} can't be written: {error.strerror or error}; pass another directory"
            ) from error
        return lock

    def _open(self) -> sqlite3.Connection:
        path = self.directory / "journal.sqlite"
        try:
            db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                db.close()
                raise SchemaVersionError(
                    f"{path.name} in {str(self.directory)!r} is of schema {version}; this version knows up to "
                    f"{SCHEMA_VERSION}: upgrade trgrpo-dspy, or pass another log_dir"
                )
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")  # killing the process loses nothing
            if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check found damage")
            db.executescript(_TABLES)
            db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        except sqlite3.Error as error:
            raise JournalError(
                f"{path.name} in {str(self.directory)!r} is damaged or can't be opened ({error}). It was not touched: "
                "pass another log_dir to start anew, or salvage its replies with the sqlite3 command line's .recover"
            ) from error
        return db

    def close(self) -> None:
        """Close the database and give the directory back."""
        with self._lock:
            self._db.close()
        (self.directory / "run.pid").unlink(missing_ok=True)
        self._file_lock.release()

    def __enter__(self) -> Journal:
        """Nothing more to do: it is open."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()

    # -- LM calls --------------------------------------------------------------------------------------------------

    def reply(self, unit: str, request: str, occurrence: int) -> Recorded | None:
        """The recorded reply to the n-th such request of a unit, or None."""
        row = self._one(
            "SELECT reply, call FROM calls WHERE unit=? AND request=? AND occurrence=?", unit, request, occurrence
        )
        return None if row is None or row[0] is None else Recorded(json.loads(row[0]), LMCall(**json.loads(row[1])))

    def record(self, unit: str, request: str, occurrence: int, reply: Any, call: LMCall) -> None:
        """Commit a reply (plain data; None if the call failed) and what it cost."""
        try:
            text = None if reply is None else json.dumps(reply, ensure_ascii=False)
        except TypeError:  # a backend's own objects in a reply: counted, but it can't be replayed
            text = None
        self._write(
            "INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?, ?)",
            unit,
            request,
            occurrence,
            text,
            json.dumps(asdict(call)),
        )

    def all_calls(self) -> Iterator[LMCall]:
        """Everything the run paid for so far."""
        with self._guard():
            rows = self._db.execute("SELECT call FROM calls").fetchall()
        return (LMCall(**json.loads(row[0])) for row in rows)

    def calls(self, unit: str) -> list[LMCall]:
        """Everything a unit paid for."""
        with self._guard():
            rows = self._db.execute("SELECT call FROM calls WHERE unit=?", (unit,)).fetchall()
        return [LMCall(**json.loads(row[0])) for row in rows]

    # -- attempts --------------------------------------------------------------------------------------------------

    def attempt(self, unit: str) -> Rollout | None:
        """A finished attempt, or None."""
        row = self._one("SELECT rollout FROM attempts WHERE unit=?", unit)
        if row is None:
            return None
        data = json.loads(row[0])
        known = {f.name for f in fields(Rollout)}
        return Rollout(**{**{k: v for k, v in data.items() if k in known}, "outcome": Outcome(data["outcome"])})

    def finish(self, unit: str, rollout: Rollout) -> None:
        """Commit a finished attempt with outcome, score, feedback and transcript."""
        self._write(
            "INSERT OR REPLACE INTO attempts VALUES (?, ?)", unit, json.dumps(asdict(rollout), ensure_ascii=False)
        )

    # -- the run ---------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Any:
        """A value of the run itself, or None."""
        row = self._one("SELECT value FROM meta WHERE key=?", key)
        return None if row is None else json.loads(row[0])

    def set(self, key: str, value: Any) -> None:
        """Keep a value of the run itself (plain data)."""
        self._write("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, json.dumps(value, ensure_ascii=False))

    def check_fingerprint(self, fingerprint: Mapping[str, Any]) -> None:
        """Keep what the run is, or refuse one that differs; `num_epochs` may grow.

        Raises:
            JournalError: The directory holds another run; the message lists the differences.
        """
        known = self.get("fingerprint")
        if known is not None:
            plain = json.loads(json.dumps(dict(fingerprint)))
            differences = [
                f"{name}: was {_short(known.get(name))}, is {_short(plain.get(name))}"
                for name in sorted({*known, *plain})
                if known.get(name) != plain.get(name) and not (name == "num_epochs" and plain[name] > known[name])
            ]
            if differences:
                raise JournalError(
                    f"log_dir={str(self.directory)!r} holds another run. Pass another directory, or undo: "
                    + "; ".join(differences)
                )
        self.set("fingerprint", dict(fingerprint))

    # -- database --------------------------------------------------------------------------------------------------

    def _one(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        with self._guard():
            row: tuple[Any, ...] | None = self._db.execute(query, values).fetchone()
            return row

    def _write(self, statement: str, *values: Any) -> None:
        with self._guard():
            self._db.execute(statement, values)  # autocommit: durable when it returns

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise JournalError(
                f"the journal in {str(self.directory)!r} can't be written or read: {error}. What was committed "
                "is safe; make room or mend the directory and run again with the same log_dir"
            ) from error


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never a part."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
