"""What a run shows of itself on standard error."""

from __future__ import annotations

import io
from types import SimpleNamespace

import dspy
import pytest
from support.scripted import Triage, exact, examples, scripted_lm

from trgrpo_dspy import TrainingFreeGRPO, evaluate
from trgrpo_dspy.engine import listeners
from trgrpo_dspy.engine.listeners import Progress
from trgrpo_dspy.events import AttemptFinished, Notice, RunEnded, RunStarted
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import LMCall, Meter, Stage
from trgrpo_dspy.program.rollout import Rollout


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture(autouse=True)
def shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "0")
    monkeypatch.setattr(listeners, "_DRAW_EVERY", 0.0)
    monkeypatch.setattr(listeners, "time", SimpleNamespace(monotonic=lambda: 0.0))  # no second passes


def attempt(number: int, replayed: bool = False) -> AttemptFinished:
    return AttemptFinished(
        stage="rollout", step=1, rollout=Rollout(number, 0, Outcome.COMPLETED, 1.0), replayed=replayed
    )


def test_in_a_terminal_one_bar_for_the_run_and_a_last_line_that_stays() -> None:
    stream, meter = Stream(True), Meter()
    show = Progress(meter, stream)
    show(RunStarted(run="compile", options={}, steps=2, attempts=4))
    meter.record(LMCall("m", cost=0.25), Stage.ROLLOUT, 1)
    show(attempt(0))
    assert "compile ██░" in stream.getvalue()
    assert "1 of 4 attempts, 0:00, 0:00 left, 1 calls, $0.25" in stream.getvalue()
    show(Notice(text="look"))
    assert stream.getvalue().endswith("\r\x1b[K"), "the log line that follows gets the line"
    show(RunEnded(stop_reason="completed", verdict="fine"))
    show.close()
    assert stream.getvalue().endswith("compile done: 1 of 4 attempts, 0:00, 1 calls, $0.25\n")


def test_in_a_pipe_a_line_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    with dspy.context(lm=scripted_lm()):
        TrainingFreeGRPO(metric=exact, num_epochs=2, group_size=2).compile(dspy.Predict(Triage), trainset=examples(4))
        evaluate(dspy.Predict(Triage), examples(4), exact)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "attempts" in line]
    assert [line.split(",")[0] for line in lines][:2] == ["compile: step 1 of 2", "compile: step 2 of 2"]
    assert " of " in lines[0] and "0:00" in lines[0] and "calls" in lines[0]
    assert lines[2].startswith("compile done: 16 of 16 attempts") and lines[3].startswith("evaluate done: 4 of 4")
    assert captured.out == "" and "\r" not in captured.err


def test_it_can_be_hidden_and_never_ends_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("_instances")

    with dspy.context(lm=scripted_lm()):
        monkeypatch.setattr(Progress, "_show", broken)
        assert evaluate(dspy.Predict(Triage), examples(4), exact).mean.n == 4
        monkeypatch.undo()
        monkeypatch.setenv("TRGRPO_PROGRESS", "0")
        evaluate(dspy.Predict(Triage), examples(4), exact)
    assert "done" not in capsys.readouterr().err


def test_a_line_that_is_drawn_over_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Stream(True)
    show = Progress(Meter(), stream)
    show(RunStarted(run="compile", options={}, steps=2, attempts=4))
    show(attempt(0))
    assert max(len(text) for text in stream.getvalue().split("\r\x1b[K")) == 39
