"""What was paid for: an SQLite journal of LM replies and finished attempts.

Guarantees:

- A reply is committed before the program that asked for it sees it, so killing the process at any moment loses at most
  the calls in flight. Resuming *replays* a run: a request that was answered in the same unit of work is answered from
  here, any other goes out.
- What an attempt came to is committed before anything rests on it, and the first result stays. What an outage or a
  timeout took is not committed: a resumed run makes it again, and ends as if there had been no outage.
- One process at a time: a second one is refused with the first one's pid. The lock dies with its process.
- A journal of another program, data, metric or learning setting is refused with the differences named; one of a newer
  schema, or one that is damaged, is refused with what to do. Nothing is overwritten.
- It holds replies, usage, scores and transcripts, but no LM state: no key, no header, no address.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import filelock

from trgrpo_dspy.errors import JournalError, SchemaVersionError
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import LMCall
from trgrpo_dspy.program.rollout import Rollout

from .database import Database, OtherSchema
from .differences import differences
from .files import create_private, unwritable

__all__ = ["Journal", "KeptReply"]

SCHEMA_VERSION = 2
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
_TABLES = {
    "meta": "key TEXT PRIMARY KEY, value TEXT NOT NULL",
    "calls": "unit TEXT NOT NULL, request TEXT NOT NULL, occurrence INTEGER NOT NULL, call TEXT NOT NULL, "
    "reply TEXT NOT NULL, PRIMARY KEY (unit, request, occurrence)",
    "other_calls": "unit TEXT NOT NULL, call TEXT NOT NULL",
    "attempts": "unit TEXT PRIMARY KEY, rollout TEXT NOT NULL",
}
"""`calls`: replies that can be replayed. `other_calls`: what was spent beside them (calls that failed, replies that are
no plain data). `attempts`: what rollouts came to."""
_MAY_GROW = ("num_epochs", "k")
"""Settings of which more may be asked for: what there is stays valid."""
_NAMED = 12
"""Differences that a message names."""


@dataclass(frozen=True)
class KeptReply:
    """A reply from the journal."""

    reply: Any
    """The reply as plain data."""
    call: LMCall
    """What the call cost when it was made."""
    occurrence: int
    """Which of the unit's equal requests it answered."""


class Journal:
    """The journal of one run, in one directory. Thread-safe; close it when done."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Open or create the journal, and lock the directory.

        Raises:
            JournalError: Another process uses it, it can't be written, or it is damaged.
            SchemaVersionError: It was written by a newer version.
        """
        self.directory = Path(directory).expanduser().absolute()
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
            self._give_back()
            raise
        self._read_index()

    def _claim(self) -> filelock.BaseFileLock:
        lock = filelock.FileLock(
            self.directory / "run.lock", timeout=0, mode=0o600, is_singleton=False, thread_local=False
        )
        pid_file = self.directory / "run.pid"
        try:
            lock.acquire()
            create_private(pid_file)
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

    def _open(self) -> Database:
        path = self.directory / "journal.sqlite"
        try:
            return Database(path, _TABLES, SCHEMA_VERSION)
        except OtherSchema as other:
            raise _of_schema(path, other.args[0]) from None
        except OSError as error:
            raise unwritable(path, error) from error
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _read_index(self) -> None:
        """Load the keys into memory: most lookups miss and need no query.

        Hashes of keys take a fraction of the texts' memory; two that are equal by chance cost a query.
        """
        with self._guard():
            self._answered = {hash(key) for key in self._db.all("SELECT unit, request FROM calls")}
            self._finished: dict[str, Rollout | None] = {
                unit: None for (unit,) in self._db.all("SELECT unit FROM attempts")
            }

    def close(self) -> None:
        """Close the database and give the directory back."""
        try:
            self._db.close()
        finally:
            self._give_back()

    def _give_back(self) -> None:
        (self.directory / "run.pid").unlink(missing_ok=True)
        self._file_lock.release()

    def __enter__(self) -> Journal:
        """Nothing more to do: it is open."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.close()

    # -- LM calls --------------------------------------------------------------------------------------------------

    def reply(self, unit: str, request: str, occurrence: int) -> KeptReply | None:
        """The reply to such a request of a unit, the n-th or the next one that is kept; None if there is none."""
        if hash((unit, request)) not in self._answered:
            return None
        row = self._one(
            "SELECT reply, call, occurrence FROM calls WHERE unit=? AND request=? AND occurrence>=? "
            "ORDER BY occurrence LIMIT 1",
            unit,
            request,
            occurrence,
        )
        return None if row is None else KeptReply(json.loads(row[0]), LMCall(**json.loads(row[1])), row[2])

    def record(self, unit: str, request: str, occurrence: int, reply: Any, call: LMCall) -> None:
        """Commit a reply (plain data; None if there is none to replay) and what it cost."""
        try:
            text = None if reply is None else _dump(reply)
        except TypeError:  # a backend's own objects in a reply: counted, but it can't be replayed
            text = None
        if text is None:
            self._write("other_calls", unit, _dump(vars(call)))
        else:
            self._write("calls", unit, request, occurrence, _dump(vars(call)), text)
            self._answered.add(hash((unit, request)))

    def paid(self) -> list[tuple[str, LMCall]]:
        """Every call the run made so far, with the unit it was made for."""
        with self._guard():
            rows = self._db.all("SELECT unit, call FROM calls UNION ALL SELECT unit, call FROM other_calls")
        return [(unit, LMCall(**json.loads(call))) for unit, call in rows]

    # -- what units of work came to --------------------------------------------------------------------------------

    def attempt(self, unit: str) -> Rollout | None:
        """A finished attempt, or None."""
        if unit not in self._finished:
            return None
        row = self._one("SELECT rollout FROM attempts WHERE unit=?", unit)
        return self._finished[unit] if row is None else _rollout(row[0])

    def finish(self, unit: str, rollout: Rollout) -> Rollout:
        """Take a finished attempt with outcome, score, feedback and transcript: committed in a moment, or by `flush`.

        What an outage took is not committed: it holds for this process, and the next one makes the attempt again.

        Returns:
            The attempt as it counts: one that was given up may have finished a moment before.
        """
        first = self._finished.setdefault(unit, rollout)
        if first is not rollout:
            return first or self.attempt(unit) or rollout
        if rollout.outcome is not Outcome.INFRASTRUCTURE:
            with self._guard():
                self._db.write_soon("attempts", unit, _dump(vars(rollout)))
            self._finished[unit] = None  # it is in the database now, or will be when that is read
        return rollout

    def flush(self) -> None:
        """Commit the finished attempts: to be called before anything is asked that rests on them."""
        with self._guard():
            self._db.flush()

    # -- the run ---------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Any:
        """A value of the run itself, or None."""
        row = self._one("SELECT value FROM meta WHERE key=?", key)
        return None if row is None else json.loads(row[0])

    def set(self, key: str, value: Any) -> None:
        """Keep a value of the run itself (plain data)."""
        self._write("meta", key, _dump(value))

    def check_fingerprint(self, fingerprint: Mapping[str, Any]) -> None:
        """Keep what the run is, or refuse one that differs; `num_epochs` of a run and `k` of an evaluation may grow.

        Until an attempt is kept the metric may be another: it may have to be mended.

        Raises:
            JournalError: The directory holds another run; the message lists the differences.
        """
        known, wanted = self.get("fingerprint"), json.loads(_dump(dict(fingerprint)))
        if known is not None:
            where = f"log_dir={str(self.directory)!r} holds"
            if known.get("kind") != wanted.get("kind"):
                raise JournalError(
                    f"{where} the journal of another kind of work: it was made by {known.get('kind')}, "
                    f"this is {wanted.get('kind')}. Pass another directory"
                )
            if "metric" in wanted and not self._finished:  # nothing rests on the one before: it may have been broken
                known["metric"] = wanted["metric"]
            if found := differences(known, wanted, _MAY_GROW):
                more = [f"and {len(found) - _NAMED} more differences"] if len(found) > _NAMED else []
                raise JournalError(
                    f"{where} another run. Pass another directory, or undo: " + "; ".join(found[:_NAMED] + more)
                )
        self.set("fingerprint", dict(fingerprint))

    # -- database --------------------------------------------------------------------------------------------------

    def _one(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        with self._guard():
            return self._db.one(query, *values)

    def _write(self, table: str, *values: Any) -> None:
        with self._guard():
            self._db.write(table, *values)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def _failed(self, error: sqlite3.Error) -> JournalError:
        """The error for a journal that can't be used: damaged, or not to be written or read just now."""
        where = f"journal.sqlite in {str(self.directory)!r}"
        if isinstance(error, sqlite3.OperationalError) and "no such" not in str(error):
            return JournalError(
                f"{where} can't be written or read: {error}. What was committed is safe; make room or mend the "
                "directory, and run again with the same log_dir"
            )
        row = re.match(r"row (\d+) of table (\w+)", str(error))
        mend = f", delete that row (DELETE FROM {row[2]} WHERE rowid={row[1]}) to have it made again" if row else ""
        return JournalError(
            f"{where} is damaged: {error}. It was left as it is: put a sound copy in its place{mend}, or pass another "
            "log_dir to start anew"
        )


def _of_schema(path: Path, version: int) -> JournalError | SchemaVersionError:
    where = f"{path.name} in {str(path.parent)!r}"
    if version > SCHEMA_VERSION:
        return SchemaVersionError(
            f"{where} is of schema {version}; this version knows {SCHEMA_VERSION}: upgrade trgrpo-dspy, or pass "
            "another log_dir"
        )
    if version:
        return JournalError(
            f"{where} is of schema {version}, of trgrpo-dspy 0.1, which this version does not read: finish that run "
            "with 0.1, or pass another log_dir"
        )
    return JournalError(f"{where} is another program's database: pass another log_dir")


def _rollout(text: str) -> Rollout:
    """An attempt as it was kept. By hand: pydantic takes no lone surrogates, and models send them."""
    known = {f.name for f in fields(Rollout)}
    data: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(text).items() if k in known
    }
    return Rollout(**{**data, "outcome": Outcome(data["outcome"])})


def _dump(value: Any) -> str:
    """JSON that SQLite takes: a lone surrogate in a model's reply stays an escape."""
    text = _ENCODE(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
