"""The events of a run as JSON lines, for readers in other processes.

Guarantees:

- Each line is whole once it is written; only the last one of a killed process may be torn, and `read_events` skips it.
- A process begins a new file and puts it in the old one's place with its first event: a resumed run tells its whole
  story again, and a reader that holds the old file open keeps the old story. A run that has nothing to tell, since it
  was over before, leaves the file as it is.
- The file is for its owner alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from trgrpo_dspy.errors import JournalError, SchemaVersionError
from trgrpo_dspy.events import SCHEMA_VERSION, Event, to_record

from .files import create_private

__all__ = ["EventLog", "read_events"]


class EventLog:
    """A listener that writes each event as a line."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def __call__(self, event: Event) -> None:
        """Write one event."""
        line = json.dumps(to_record(event), ensure_ascii=False, default=str)
        data = f"{line}\n".encode("utf-8", "backslashreplace")
        if self._file is not None:
            os.write(self._file, data)
            return
        scratch = self._path.with_name(f".{self._path.name}.tmp")
        create_private(scratch)
        self._file = os.open(scratch, os.O_WRONLY | os.O_TRUNC | os.O_APPEND)
        os.write(self._file, data)
        os.replace(scratch, self._path)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_events(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The events of a log, in order; a last line that is not whole yet is left out.

    Raises:
        SchemaVersionError: They were written by a newer version.
        JournalError: Another line can't be read.
        OSError: The file can't be read.
    """
    *lines, _torn = Path(path).read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            version = record["schema_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise JournalError(
                f"line {number} of {os.fspath(path)!r} is no event ({error}); run again with the same log_dir to have "
                "the file written anew"
            ) from error
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{os.fspath(path)!r} holds events of schema {version}; this version reads up to {SCHEMA_VERSION}: "
                "upgrade trgrpo-dspy"
            )
        found.append(record)
    return found
