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
from trgrpo_dspy.engine.calls.units import Unit, current_unit

LONG = 60.0
"""Seconds that only a real fault takes."""
HOURS = 36_000.0
"""A `rollout_timeout` that no attempt reaches, but for those that a test lets `run_late`."""


def until(condition: Callable[[], object]) -> bool:
    """Wait until something is so; returns whether it is."""
    end = time.monotonic() + LONG
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.001)
    return bool(found)


def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs look often at whose time is over; they expect nobody's to be over all at once."""
    monkeypatch.setattr("trgrpo_dspy.engine.pool._LOOK", 0.05)


def let_run_late(unit: Unit) -> None:
    """Let `HOURS` pass for a unit of work, and for no other one."""
    unit.account.clock.held -= 2 * HOURS


def run_late() -> None:
    """Let `HOURS` pass for the attempt that this thread makes; returns once the run has given the attempt up."""
    let_run_late(unit := current_unit())
    assert unit.account.abandoned.wait(LONG), "the attempt was not given up"


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
