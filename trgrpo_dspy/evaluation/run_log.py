"""The events of a run as a log of inspect_ai."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from trgrpo_dspy.engine.journal.eventlog import read_events
from trgrpo_dspy.meter.meter import Spend
from trgrpo_dspy.program.rollout import Rollout

from .inspect_log import LoggedAttempt, write_inspect_log
from .statistics.intervals import mean_with_interval

__all__ = ["run_to_inspect"]

_ROLLOUT: TypeAdapter[Rollout] = TypeAdapter(Rollout)
_SPEND: TypeAdapter[tuple[Spend, ...]] = TypeAdapter(tuple[Spend, ...])


def run_to_inspect(
    log_dir: str | os.PathLike[str], path: str | os.PathLike[str], name: str = "training-free-grpo"
) -> None:
    """Write the attempts of a run or an evaluation with this `log_dir`, transcripts included (extra `inspect`).

    A sample's id says stage, step and example, as in 'rollout 1/3'. The mean is that of the library measured last, else
    that of all attempts.

    Args:
        log_dir: The run's directory; the run may still be going on.
        path: The file to write; it ends in `.eval` or `.json`.
        name: Name of the task in the log.

    Raises:
        ImportError: inspect_ai is not installed.
        ValueError: The path ends in neither.
        OSError: There is no log of events.
    """
    attempts: list[LoggedAttempt] = []
    last: dict[str, dict[str, Any]] = {}
    for event in read_events(Path(log_dir) / "events.jsonl"):
        last[event["event"]] = event
        if event["event"] == "AttemptFinished":
            attempts.append(_attempt(event, last.get("RunStarted", {})))
    ended = last.get("RunEnded", {})
    scores = last.get("LibraryMeasured", {}).get("scores")
    write_inspect_log(
        path,
        attempts,
        mean_with_interval(scores or [attempt.rollout.score for attempt in attempts] or [None]),
        spend=_SPEND.validate_python(ended.get("spend", ())),
        name=name,
        partial=ended.get("stop_reason") != "completed",
        seconds=float(ended.get("seconds", 0.0)),
    )


def _attempt(event: dict[str, Any], started: dict[str, Any]) -> LoggedAttempt:
    rollout, stage, step = _ROLLOUT.validate_python(event["rollout"]), event["stage"], event["step"]
    tasks = started.get("trainset" if stage == "rollout" else "valset", ())
    task, expected = tasks[rollout.example] if rollout.example < len(tasks) else ("", "")
    where = {"stage": stage, "step": step}
    return LoggedAttempt(f"{stage} {step}/{rollout.example}", rollout, task, expected, where)
