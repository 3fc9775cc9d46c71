"""Worker processes: identical questions are asked once, limits are answers, failures are none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.waiting import LONG, hold_replies

from programs import workers as workers_module
from programs.workers import TOO_HARD, WorkerError, Workers

SOURCE = """
import os, signal, sys, time
state = []
def answer(question):
    print("noise")
    if state:
        raise ImportError("half imported")
    if "work" in question:
        {body}
    return {{"pid": os.getpid(), "env": sorted(os.environ), "n": question.get("n")}}
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Workers]]:
    """A function that starts workers whose question `{"work": ...}` runs the given line."""
    made: list[Workers] = []

    def start(body: str = "pass", **options: Any) -> Workers:
        (tmp_path / "judge.py").write_text(SOURCE.format(body=body))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        made.append(Workers("judge", count=1, **{"patience": LONG, **options}))
        return made[-1]

    yield start
    for workers in made:
        workers.close()


def test_a_worker_is_kept_and_gets_no_secret(started: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "hush-hush")
    workers = started()
    first, second = workers.ask({"n": 1}), workers.ask({"n": 2})
    assert (first["pid"], first["n"], second["n"]) == (second["pid"], 1, 2)
    assert "OPENAI_API_KEY" not in first["env"]


@pytest.mark.parametrize("body", ["while True: pass", "int('9' * 4000) ** 2000000", "'a' * 10**10", "answer(question)"])
def test_a_limit_is_the_answer_of_all_who_asked(
    started: Callable[..., Workers], body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = started(body, cpu_seconds=0.3)
    workers.ask({})
    asked = hold_replies(monkeypatch, workers, waiting=15)
    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(lambda _: workers.ask({"work": 1}), range(16)))
    assert replies == [TOO_HARD] * 16
    assert len(asked) == 1, "identical questions are asked once"
    assert workers.ask({"n": 3})["n"] == 3


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit(3)", "code 3"),
        ("time.sleep(60)", "no reply in time"),
        ("raise ValueError('odd')", "ValueError: odd"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "code -9"),
        ("os.close(1)", "process ended|code"),
        ("state.append('broken'); answer(question)", "half imported"),
    ],
)
def test_a_failure_is_no_answer(started: Callable[..., Workers], body: str, reason: str) -> None:
    workers = started(body)
    patience = workers.patience
    workers.patience = 0.1 if "sleep" in body else patience
    with pytest.raises(WorkerError, match=reason):
        workers.ask({"work": 1})
    workers.patience = patience
    assert workers.ask({"n": 3})["n"] == 3, "others are answered afterwards"


def test_a_process_that_cant_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module.sys, "executable", "/nowhere/python")
    with pytest.raises(WorkerError, match="can't be started"):
        Workers("judge").ask({})


def test_an_interrupt_reaches_its_own_thread_only(
    started: Callable[..., Workers], monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = started()

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "_reply", interrupted)
    hold_replies(monkeypatch, workers, waiting=1)
    with ThreadPoolExecutor(2) as threads:
        both = [threads.submit(workers.ask, {"n": 1}) for _ in range(2)]
        outcomes = {type(f.exception()) for f in both}
    assert outcomes == {KeyboardInterrupt, WorkerError}
