"""Listeners of the engine's own: the events as JSON lines in the log directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

from trgrpo_dspy.events import Event, to_record

__all__ = ["EventFile"]


class EventFile:
    """Writes each event as a line of `events.jsonl`, for its owner only.

    The file is written anew by every process: a resumed run emits its whole story again.
    """

    def __init__(self, path: Path) -> None:
        """Open the file at the first event."""
        self._path = path
        self._file: int | None = None

    def __call__(self, event: Event) -> None:
        """Write one event."""
        if self._file is None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        line = json.dumps(to_record(event), ensure_ascii=False, default=str)
        os.write(self._file, f"{line}\n".encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
