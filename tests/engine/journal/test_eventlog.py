"""The events of a run on disk: whole lines, one story a process, for its owner alone."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.scripted import Triage, examples, scripted_lm, told
from support.waiting import until

from trgrpo_dspy import Budget, JournalError, SchemaVersionError, TrainingFreeGRPO
from trgrpo_dspy.engine.journal.eventlog import EventLog, read_events
from trgrpo_dspy.events import SCHEMA_VERSION, AttemptFinished, Notice
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.program.rollout import Rollout


def run(log_dir: Path, **settings: Any) -> list[dict[str, Any]]:
    arguments = {"metric": told, "group_size": 3, "num_epochs": 2, "num_threads": 1, "log_dir": log_dir, **settings}
    with dspy.context(lm=scripted_lm()):
        data = {"trainset": examples(4), "valset": examples(3, start=4)}
        TrainingFreeGRPO(**arguments).compile(dspy.Predict(Triage), **data)
    return read_events(log_dir / "events.jsonl")


def kinds(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((e["event"], e.get("step", 0), e.get("rollout", {}).get("score") or 0.0) for e in events)


def test_a_resumed_run_tells_the_whole_story_again(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    cut = run(tmp_path / "cut", budget=Budget(max_lm_calls=20))
    resumed = run(tmp_path / "cut")
    assert (whole[0]["event"], whole[-1]["event"]) == ("RunStarted", "RunEnded")
    assert len(cut) < len(whole)
    assert kinds(resumed) == kinds(whole)
    assert not any(event["replayed"] for event in whole)
    replayed = [event["event"] for event in resumed if event["replayed"]]
    assert 0 < replayed.count("AttemptFinished") <= [event["event"] for event in cut].count("AttemptFinished")


def test_a_finished_run_keeps_its_story_and_restores_its_results(tmp_path: Path) -> None:
    story = run(tmp_path)
    results = (tmp_path / "results.json").read_text()
    for text in ("{ half", "{}", None):
        (tmp_path / "results.json").unlink() if text is None else (tmp_path / "results.json").write_text(text)
        assert run(tmp_path) == story
        assert (tmp_path / "results.json").read_text() == results


def test_a_reader_sees_whole_lines_at_any_moment(tmp_path: Path) -> None:
    path, done, seen = tmp_path / "events.jsonl", threading.Event(), list[int]()

    def read() -> None:
        while not done.is_set():
            if path.exists():
                seen.append(len(read_events(path)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(3):
            log = EventLog(path)
            for number in range(200):
                log(Notice(text=f"{number} \ud83d\u2028 " * 50))
                before = len(seen)
                assert number % 50 or until(lambda before=before: len(seen) > before)
            log.close()
    finally:
        done.set()
        reader.join()
    assert seen and len(read_events(path)) == 200 and min(seen) > 0
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_torn_or_newer_or_no_event(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    rollout = Rollout(0, 0, Outcome.COMPLETED, 0.5)
    log(AttemptFinished(stage="rollout", step=1, rollout=rollout))
    log.close()
    (event,) = read_events(path)
    assert (event["rollout"]["score"], event["rollout"]["outcome"]) == (0.5, "completed")
    whole = path.read_bytes()
    for cut in (1, 10, len(whole) - 1):
        path.write_bytes(whole + whole[:cut])
        assert read_events(path) == [event]
    path.write_bytes(b"{ half\n" + whole)
    with pytest.raises(JournalError, match=r"line 1 of .* is no event .*; run again with the same log_dir"):
        read_events(path)
    path.write_text(json.dumps({**event, "schema_version": SCHEMA_VERSION + 1}) + "\n")
    with pytest.raises(SchemaVersionError, match="upgrade trgrpo-dspy"):
        read_events(path)
