"""What tests wait for in place of a time, so that none depends on who is fast."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from programs.workers import Workers
from trgrpo_dspy.engine.calls.state import Ending

LONG = 60.0
"""Seconds that only a real fault takes."""


def until(condition: Callable[[], object]) -> bool:
    """Wait until something is so; returns whether it is."""
    end = time.monotonic() + LONG
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.001)
    return bool(found)


def stops(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that is set once a run has been stopped: from then on no call may go out."""
    stop, stopped = Ending.stop, threading.Event()

    def stop_and_say(self: Ending, *args: Any, **kwargs: Any) -> None:
        stop(self, *args, **kwargs)
        stopped.set()

    monkeypatch.setattr(Ending, "stop", stop_and_say)
    return stopped


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
