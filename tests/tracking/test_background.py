"""A listener in a thread of its own."""

from __future__ import annotations

import threading
import time

import pytest
from support.waiting import LONG

from trgrpo_dspy.events import Event, Notice
from trgrpo_dspy.report.tracking import background
from trgrpo_dspy.report.tracking.background import Background


def text(event: Event) -> str:
    assert isinstance(event, Notice)
    return event.text


def test_events_are_handled_in_order_and_nobody_waits_before_the_end() -> None:
    heard: list[str] = []
    free, began = threading.Event(), time.time_ns()

    def handle(event: Event, time_ns: int) -> None:
        free.wait(LONG)
        assert began <= time_ns <= given
        heard.append(text(event))

    listener = Background(handle, "a tracker")
    for i in range(20):
        listener(Notice(text=str(i)))
    given = time.time_ns()
    assert heard == []
    free.set()
    assert listener.close() and heard == [str(i) for i in range(20)]
    assert Background(handle, "unused").close()


def test_the_first_error_is_the_last(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []

    def handle(event: Event, time_ns: int) -> None:
        heard.append(text(event))
        raise ValueError("out of paint")

    listener = Background(handle, "a tracker")
    for i in range(3):
        listener(Notice(text=str(i)))
    assert not listener.close() and heard == ["0"]
    assert [r.getMessage() for r in caplog.records] == ["a tracker is given up: ValueError: out of paint"]


def test_a_tracker_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(background, "PATIENCE", 0.05)
    free = threading.Event()
    listener = Background(lambda event, time_ns: free.wait(LONG), "a tracker")
    listener(Notice(text="x"))
    assert not listener.close()
    assert "has not taken everything in" in caplog.text
    free.set()
