"""Worker processes whose replies wait until threads have come together, so that no test depends on who is fast."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from programs.workers import Workers

LONG = 60.0
"""Seconds that only a real fault takes."""


def hold_replies(monkeypatch: pytest.MonkeyPatch, workers: Workers, waiting: int) -> list[str]:
    """Hold every reply until so many threads wait for one that another thread asked for.

    Returns:
        The questions that reach a worker, in the end all of them.
    """
    count, ready, asked, reply = itertools.count(1), threading.Event(), [], workers._reply

    class Counted(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            if next(count) == waiting:
                ready.set()
            return super().result(timeout)

    def held(line: str, wall_seconds: float) -> dict[str, Any]:
        asked.append(line)
        assert ready.wait(LONG), f"fewer than {waiting} threads wait for the reply of another"
        return reply(line, wall_seconds)

    monkeypatch.setattr("programs.workers.Future", Counted)
    monkeypatch.setattr(workers, "_reply", held)
    return asked
