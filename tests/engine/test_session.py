"""A session: one run put together, and given back whatever happens."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.scripted import Triage, exact, examples

from trgrpo_dspy import JournalError, RunStopped
from trgrpo_dspy.engine.attempts import attempt_task
from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.engine.flows import Flow, single
from trgrpo_dspy.engine.options import RunOptions
from trgrpo_dspy.engine.session import Session
from trgrpo_dspy.events import AttemptFinished, Event
from trgrpo_dspy.meter import Stage


@pytest.fixture(autouse=True)
def scripted(lm: dspy.LM) -> None:
    """A model for all."""


def opened(log_dir: Path | None = None, *, what: str | None = "a test", **options: Any) -> Session:
    return Session(
        RunOptions(log_dir=log_dir, num_threads=2, **options),
        metric=exact,
        kind="evaluate",
        fingerprint=(lambda: {"kind": what}) if what else None,
    )


def attempts(session: Session, count: int = 3) -> list[Flow[Any]]:
    program = session.copy(dspy.Predict(Triage))
    units = [Unit(Stage.EVALUATION, 0, ("evaluation", index, 0)) for index in range(count)]
    return [
        single(attempt_task(session.runner, program, example, unit, index=index, attempt=0))
        for index, (example, unit) in enumerate(zip(examples(count), units, strict=True))
    ]


def test_an_attempt_is_an_event_and_a_line_of_the_log_directory(lm: dspy.LM, tmp_path: Path) -> None:
    told: list[Event] = []
    for replayed in (False, True):
        told.clear()
        with opened(tmp_path, callbacks=[told.append]) as session:
            rollouts = session.run(attempts(session))
            assert session.calls_before == (3 if replayed else 0)
        finished = [event for event in told if isinstance(event, AttemptFinished)]
        assert sorted(event.rollout.example for event in finished) == [0, 1, 2]
        assert {event.replayed for event in finished} == {replayed}
        assert sorted(event.rollout.score for event in finished) == sorted(r.score for r in rollouts)
        lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
        assert [line["event"] for line in lines] == ["AttemptFinished"] * 3
        assert (tmp_path / "events.jsonl").stat().st_mode & 0o077 == 0
    assert len(lm.engine.calls) == 3


def test_a_listener_that_raises_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __call__(self, event: Event) -> None:
            raise ValueError("out of paint")

        def close(self) -> None:
            raise SystemExit("out of time")

    with opened(callbacks=[Broken()]) as session:
        assert len(session.run(attempts(session))) == 3
    messages = "\n".join(caplog.messages)
    assert messages.count("out of paint") == messages.count("out of time") == 1


def test_what_was_claimed_is_given_back(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), opened(tmp_path) as session:
        assert signal.getsignal(signal.SIGINT) is not handler
        session.run(attempts(session))
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(JournalError, match="another"), opened(tmp_path, what="another test"):
        pass
    with opened(tmp_path) as again:
        assert len(again.run(attempts(again))) == 3


def test_nothing_is_kept_without_a_fingerprint(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with opened(tmp_path / "unused", what=None) as session:
        assert signal.getsignal(signal.SIGINT) is handler
        assert len(session.run(attempts(session))) == 3
    assert not (tmp_path / "unused").exists()


def test_a_stopped_session_says_why() -> None:
    with opened() as session:
        session.gate.stop("max_cost")
        with pytest.raises(RunStopped):
            session.run(attempts(session))
        assert (session.stopped, session.stop_reason) == (True, "max_cost")
