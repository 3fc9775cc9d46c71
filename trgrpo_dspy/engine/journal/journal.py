"""The journal of a run: LM replies that were paid for and finished attempts, in SQLite.

Guarantees:

- A reply is committed before the program that asked for it sees it, so killing the process at any moment loses at most
  the calls in flight. Resuming *replays* a run: a request that was answered in the same unit of work is answered from
  here, any other goes out.
- What an attempt came to is committed before anything rests on it, and of two results of one attempt the first is
  kept. What an outage or a timeout took is not committed: a resumed run makes it again, and ends as if there had been
  no outage.
- One process at a time: a second one is refused with the first one's pid. The lock dies with its process.
- A journal of another program, data, metric or learning setting is refused with the differences named; one of a newer
  schema, or one that is damaged, is refused with what to do. Nothing is overwritten.
- It holds replies, usage, scores and transcripts, but no LM state: no key, no header, no address.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from trgrpo_dspy.errors import JournalError
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter.meter import LMCall
from trgrpo_dspy.program.rollout import Rollout

from .database import Database
from .differences import differences
from .files import DirectoryLock

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
"""Options that may grow on resume: the attempts that are kept stay valid."""
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
        self._lock = DirectoryLock(self.directory)
        try:
            self._db = Database(self.directory / "journal.sqlite", _TABLES, SCHEMA_VERSION)
            # Hashes of all keys, so that a miss, which most lookups are, needs no query; a chance hit costs one.
            self._answered = {hash(key) for key in self._db.all("SELECT unit, request FROM calls")}
            finished = self._db.all("SELECT unit, NULL FROM attempts")
            self._finished: dict[str, Rollout | None] = dict(finished)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Journal:
        """Return the journal, which is open already."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the journal."""
        self.close()

    def close(self) -> None:
        """Close the database and give the directory back."""
        try:
            self._db.close()
        finally:
            self._lock.release()

    # -- LM calls --------------------------------------------------------------------------------------------------

    def reply(self, unit: str, request: str, occurrence: int) -> KeptReply | None:
        """Find the reply to a unit's request.

        Args:
            unit: The unit of work.
            request: Hash of the request.
            occurrence: How many equal requests the unit made before. Where that one's reply is missing (its call was
                in flight when the process was killed), the next one's is taken.
        """
        if hash((unit, request)) not in self._answered:
            return None
        row = self._db.one(
            "SELECT reply, call, occurrence FROM calls WHERE unit=? AND request=? AND occurrence>=? "
            "ORDER BY occurrence LIMIT 1", unit, request, occurrence,
        )  # fmt: skip
        return None if row is None else KeptReply(json.loads(row[0]), LMCall(**json.loads(row[1])), row[2])

    def record(self, unit: str, request: str, occurrence: int, reply: Any, call: LMCall) -> None:
        """Commit a reply (plain data; None if there is none to replay) and what it cost."""
        try:
            text = None if reply is None else _dump(reply)
        except TypeError:  # a backend's own objects in a reply: counted, but it can't be replayed
            text = None
        if text is None:
            self._db.write("other_calls", unit, _dump(vars(call)))
        else:
            self._db.write("calls", unit, request, occurrence, _dump(vars(call)), text)
            self._answered.add(hash((unit, request)))

    def paid(self) -> list[tuple[str, LMCall]]:
        """Every call the run made so far, with the unit it was made for."""
        rows = self._db.all("SELECT unit, call FROM calls UNION ALL SELECT unit, call FROM other_calls")
        return [(unit, LMCall(**json.loads(call))) for unit, call in rows]

    # -- what units of work came to --------------------------------------------------------------------------------

    def attempt(self, unit: str) -> Rollout | None:
        """A finished attempt, or None."""
        if unit not in self._finished:
            return None
        row = self._db.one("SELECT rollout FROM attempts WHERE unit=?", unit)
        return self._finished[unit] if row is None else _rollout(row[0])

    def finish(self, unit: str, rollout: Rollout) -> Rollout:
        """Record a finished attempt. If the journal already has one for this unit, return that one.

        The attempt is committed a moment later, or by `flush`. One that an outage or a timeout took is not committed:
        this process counts it, and the next one makes it again.
        """
        first = self._finished.setdefault(unit, rollout)
        if first is not rollout:
            return first or self.attempt(unit) or rollout
        if rollout.outcome is not Outcome.INFRASTRUCTURE:
            self._db.write_soon("attempts", unit, _dump(vars(rollout)))
            self._finished[unit] = None  # `attempt` reads it from the database, which writes what waits first
        return rollout

    def flush(self) -> None:
        """Commit all finished attempts. Call this before an LM call that is built on them."""
        self._db.flush()

    # -- the run ---------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Any:
        """A value of the run itself, or None."""
        row = self._db.one("SELECT value FROM meta WHERE key=?", key)
        return None if row is None else json.loads(row[0])

    def set(self, key: str, value: Any) -> None:
        """Keep a value of the run itself (plain data)."""
        self._db.write("meta", key, _dump(value))

    def check_fingerprint(self, fingerprint: Mapping[str, Any]) -> None:
        """Keep the run's fingerprint, or refuse a run whose fingerprint differs.

        `num_epochs` of a run and `k` of an evaluation may grow. Until an attempt is kept the metric may change: a
        broken metric scores nothing, and the user mends it.

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
            if "metric" in wanted and not self._finished:  # it scored nothing so far
                known["metric"] = wanted["metric"]
            if found := differences(known, wanted, _MAY_GROW):
                more = [f"and {len(found) - _NAMED} more differences"] if len(found) > _NAMED else []
                raise JournalError(
                    f"{where} another run. Pass another directory, or undo: " + "; ".join(found[:_NAMED] + more)
                )
        self.set("fingerprint", wanted)


def _rollout(text: str) -> Rollout:
    """Read an attempt. Not by pydantic, which refuses lone surrogates: models send them."""
    data, known = json.loads(text), {f.name for f in fields(Rollout)}
    found: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items() if name in known}
    return Rollout(**{**found, "outcome": Outcome(data["outcome"])})


def _dump(value: Any) -> str:
    """Write JSON in which a lone surrogate of a model's reply stays an escape: SQLite refuses it as a character."""
    text = _ENCODE(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")
