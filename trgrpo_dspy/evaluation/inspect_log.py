"""Attempts as a log of inspect_ai (extra `inspect`), for `inspect view`: written by its own log API."""

from __future__ import annotations

import importlib.metadata
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter.meter import Spend, added_up
from trgrpo_dspy.program.rollout import Rollout

if TYPE_CHECKING:
    from inspect_ai.log import EvalResults, EvalSample

    from .statistics.intervals import Mean

__all__ = ["LoggedAttempt", "write_inspect_log"]

_SCORER = "metric"


@dataclass(frozen=True)
class LoggedAttempt:
    """An attempt as a sample of a log."""

    id: int | str
    """The sample; attempts at the same example share it."""
    rollout: Rollout
    """The attempt. One without a score has the score NaN, which inspect counts as unscored."""
    task: str = ""
    """The example's inputs as text; empty is unknown."""
    expected: str = ""
    """The expected answer as text; empty is unknown."""
    where: Mapping[str, str | int] = field(default_factory=dict)
    """Stage and step it belongs to, for the sample's metadata."""


def write_inspect_log(
    path: str | os.PathLike[str],
    attempts: Sequence[LoggedAttempt],
    mean: Mean,
    *,
    spend: Sequence[Spend],
    name: str,
    partial: bool,
    seconds: float,
) -> None:
    """Write attempts as a log, a sample each; errors as in `run_to_inspect`.

    Args:
        path: The file to write; it ends in `.eval` or `.json`.
        attempts: The attempts.
        mean: The mean over the examples.
        spend: What was spent, by model.
        name: Name of the task.
        partial: Whether attempts are missing because the run ended early.
        seconds: Wall time of the run, which is taken to have ended now.
    """
    try:
        from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, EvalStats, write_eval_log
        from inspect_ai.model import ModelUsage
    except ImportError as error:
        raise ImportError("to_inspect() needs inspect_ai: pip install 'trgrpo-dspy[inspect]'") from error
    if not os.fspath(path).endswith((".eval", ".json")):
        raise ValueError(f"path={os.fspath(path)!r} must end in .eval or .json: inspect tells its logs by that")
    ended = datetime.now(timezone.utc)
    began, until = ((ended - timedelta(seconds=s)).isoformat(timespec="seconds") for s in (seconds, 0))
    usage = {
        model: ModelUsage(
            input_tokens=row.prompt_tokens,
            output_tokens=row.completion_tokens,
            total_tokens=row.prompt_tokens + row.completion_tokens,
            total_cost=row.cost,
        )
        for model, row in added_up(spend, lambda row: row.model).items()
        if model
    }
    models = list(usage) or ["unknown"]
    samples = [_sample(attempt, models[0]) for attempt in attempts]
    ids: list[Any] = list(dict.fromkeys(attempt.id for attempt in attempts))
    spec = EvalSpec(
        created=began,
        task=name,
        model=", ".join(models),
        dataset=EvalDataset(name=name, samples=len(ids), sample_ids=ids),
        config=EvalConfig(epochs=max((attempt.rollout.attempt + 1 for attempt in attempts), default=1)),
        packages={"trgrpo_dspy": importlib.metadata.version("trgrpo-dspy")},
    )
    log = EvalLog(
        status="cancelled" if partial else "success",
        eval=spec,
        results=_results(samples, mean),
        stats=EvalStats(started_at=began, completed_at=until, model_usage=usage),
        samples=samples,
    )
    write_eval_log(log, os.fspath(path))


def _sample(attempt: LoggedAttempt, model: str) -> EvalSample:
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelOutput
    from inspect_ai.scorer import Score

    rollout = attempt.rollout
    task, expected, answer, error = map(_text, (attempt.task, attempt.expected, rollout.answer, rollout.error))
    did = _text(rollout.transcript) or answer or error
    counts = ("lm_calls", "tool_calls", "prompt_tokens", "completion_tokens", "cost")
    facts = {**attempt.where, "outcome": rollout.outcome.value, "shown": list(rollout.shown), "error": error}
    facts |= {name: getattr(rollout, name) for name in counts}
    score = Score(
        value=math.nan if rollout.score is None else rollout.score,
        answer=answer,
        explanation=_text(rollout.feedback) or error or None,
    )
    failed = rollout.outcome not in (Outcome.COMPLETED, Outcome.LABEL_FREE)
    return EvalSample(
        id=attempt.id,
        epoch=rollout.attempt + 1,
        input=task,
        target=expected,
        messages=[ChatMessageUser(content=task), ChatMessageAssistant(content=did, model=model)],
        output=ModelOutput.from_content(model, answer, error=error or None),
        scores={_SCORER: score},
        metadata=facts,
        total_time=rollout.seconds,
        error=EvalError(message=error, traceback=error, traceback_ansi=error) if failed and error else None,
    )


def _results(samples: Sequence[EvalSample], mean: Mean) -> EvalResults:
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    metrics = {"mean": mean.value}
    if mean.interval is not None:
        metrics |= {"low": mean.interval.low, "high": mean.interval.high}
    scored = sum(not math.isnan(s.scores[_SCORER].as_float()) for s in samples if s.scores)
    return EvalResults(
        total_samples=len(samples),
        completed_samples=sum(sample.error is None for sample in samples),
        scores=[
            EvalScore(
                name=_SCORER,
                scorer=_SCORER,
                scored_samples=scored,
                unscored_samples=len(samples) - scored,
                metrics={n: EvalMetric(name=n, value=v) for n, v in metrics.items() if v is not None},
            )
        ],
    )


def _text(text: str) -> str:
    """The text as UTF-8 can hold it: a lone surrogate becomes a question mark."""
    return text.encode(errors="replace").decode()
