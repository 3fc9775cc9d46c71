"""Attempts as MLflow traces, tagged with stage, step, example, attempt and score.

Two ways, by what the user asked of `mlflow.dspy.autolog`:

- `log_traces_from_compile=True`: autolog traces every module and LM call of the run, and its traces are tagged.
- Else, and where attempts are made in other processes (`executor=`): autolog's callback is left out of the run, and
  each attempt is one trace of ours, made from its event.

Both hold whichever of autolog and this package came first. Autolog patches the optimizers it finds when it is called,
and a patched `compile` runs with tracing switched off; one that was imported later is not patched.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dspy
import mlflow
from dspy.utils.callback import BaseCallback
from mlflow.entities import AssessmentSource, SpanStatusCode, SpanType
from mlflow.tracing.provider import is_tracing_enabled, safe_set_span_in_context

from trgrpo_dspy.engine.calls.units import Unit
from trgrpo_dspy.events import AttemptFinished, RunStarted
from trgrpo_dspy.program.rollout import Rollout

from .spans import labels_here

__all__ = ["AttemptTraces", "attempts_traced", "storable"]

logger = logging.getLogger(__name__)

_LONGEST_TAG = 250
"""Characters; MLflow cuts longer tags with a warning."""


@contextmanager
def attempts_traced(elsewhere: bool = False) -> Iterator[AttemptTraces]:
    """Decide who traces attempts, and see to it while the run goes on.

    Args:
        elsewhere: Whether attempts are made in other processes. A forked one has autolog's callback too, and nobody
            hears which traces it made.
    """
    callbacks = list(dspy.settings.callbacks or [])
    autolog = [c for c in callbacks if type(c).__module__.startswith("mlflow.dspy")]
    if autolog and not elsewhere and _autolog("log_traces") and _autolog("log_traces_from_compile"):
        tags = _TagTraces()
        with dspy.context(callbacks=[*callbacks, tags]):
            yield AttemptTraces(tags)
        return
    switched_off = bool(autolog) and not is_tracing_enabled()  # by a patched `compile`, which puts it back afterwards
    if switched_off:
        mlflow.tracing.enable()
    with dspy.context(callbacks=[c for c in callbacks if c not in autolog]):
        yield AttemptTraces(None)
    if switched_off:  # what MLflow has not sent yet is out of its sight after that
        mlflow.flush_trace_async_logging()


def _autolog(option: str) -> bool:
    from mlflow.utils.autologging_utils import get_autologging_config

    return "mlflow.dspy" in sys.modules and bool(get_autologging_config("dspy", option, False))


class _TagTraces(BaseCallback):
    """Tags the traces that autolog opens within the run; DSPy calls it after autolog's own callback."""

    def __init__(self) -> None:
        self.traces: dict[str, list[str]] = {}
        """Ids of the traces of each unit of work, by the text of its labels."""

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        span, labels = mlflow.get_current_active_span(), labels_here()
        if span is not None and span.parent_id is None and labels:
            tags = {name: str(value) for name, value in labels.items()}
            mlflow.update_current_trace(tags=tags)
            known = self.traces.setdefault(identity(tags), [])
            if span.trace_id not in known:
                known.append(span.trace_id)

    on_lm_start = on_module_start


def identity(tags: dict[str, str]) -> str:
    """What tells a unit's traces from those of others."""
    return "/".join(tags.get(name, "") for name in Unit.LABELS)


class AttemptTraces:
    """Logs attempts as traces of one MLflow run; used by one thread."""

    def __init__(self, tags: Any) -> None:
        """Take the callback that tags autolog's traces; None where there are none."""
        self._autolog: _TagTraces | None = tags
        self._run: Any = None
        self._continued = False
        self._held: set[str] = set()
        self._tasks: dict[bool, Sequence[tuple[str, str]]] = {}
        """Inputs and labels of the training examples (True) and of the others."""
        self._waiting: list[tuple[AttemptFinished, int]] = []

    def begin(self, run: Any, started: RunStarted, continued: bool) -> None:
        """Log into this MLflow run; one that is continued may hold traces already."""
        self._run, self._continued = run, continued
        self._tasks = {True: started.trainset, False: started.valset}
        if continued:
            where = {"locations": [run.info.experiment_id], "run_id": run.info.run_id, "max_results": 100_000}
            found = mlflow.search_traces(**where, return_type="list", include_spans=False)
            self._held = {identity(trace.info.tags) for trace in found}

    def add(self, event: AttemptFinished, time_ns: int) -> None:
        """Log an attempt, or wait for autolog's trace of it."""
        self._waiting.append((event, time_ns))
        if self._autolog is None:
            self.flush()

    def flush(self) -> None:
        """Log what is waiting."""
        if self._autolog is not None and self._waiting:
            mlflow.flush_trace_async_logging()
        for event, time_ns in self._waiting:
            tags = _tags(event)
            if identity(tags) in self._held:
                continue
            made = self._autolog.traces.get(identity(tags), []) if self._autolog is not None else []
            for trace in made:
                for name in ("score", "outcome"):
                    mlflow.set_trace_tag(trace, name, tags[name])
                _log_score(trace, event.rollout)
            if not made and (self._continued or not event.replayed):  # a killed process had not sent everything
                self._log(event, tags, time_ns)
        self._waiting.clear()

    def close(self) -> None:
        """Log what is waiting; take back autolog's traces of replies that an earlier process had traced already."""
        self.flush()
        if self._autolog is None or not self._held:
            return
        mlflow.flush_trace_async_logging()
        again = [trace for unit, traces in self._autolog.traces.items() if unit in self._held for trace in traces]
        for i in range(0, len(again), 100):  # MLflow deletes 100 at a time
            mlflow.MlflowClient().delete_traces(self._run.info.experiment_id, trace_ids=again[i : i + 100])

    def _log(self, event: AttemptFinished, tags: dict[str, str], time_ns: int) -> None:
        rollout = event.rollout
        tasks = self._tasks[event.stage == "rollout"]
        task, expected = tasks[rollout.example] if rollout.example < len(tasks) else ("", "")
        tokens = rollout.prompt_tokens, rollout.completion_tokens
        usage = dict(zip(("input_tokens", "output_tokens", "total_tokens"), (*tokens, sum(tokens)), strict=True))
        names = ("transcript", "score", "error", "feedback", "lm_calls", "tool_calls", "cost")
        facts = {
            **{name: getattr(rollout, name) for name in names},
            "expected": expected, "outcome": rollout.outcome.value, "shown": list(rollout.shown),
            "mlflow.chat.tokenUsage": usage,
        }  # fmt: skip
        span = mlflow.start_span_no_context(
            name=event.stage,
            span_type=SpanType.AGENT if rollout.tool_calls else SpanType.CHAIN,
            inputs=storable(task),
            attributes={
                name: storable(value) if isinstance(value, str) else value
                for name, value in facts.items()
                if value not in (None, "")
            },
            tags=tags,
            metadata={"mlflow.sourceRun": self._run.info.run_id},
            experiment_id=self._run.info.experiment_id,
            start_time_ns=time_ns - round(rollout.seconds * 1e9),
        )
        with safe_set_span_in_context(span):  # what is said of a trace that is under way is sent with the trace
            _log_score(span.trace_id, rollout)
        span.end(
            outputs=storable(rollout.answer or rollout.error),
            status=SpanStatusCode.ERROR if rollout.error else SpanStatusCode.OK,
            end_time_ns=time_ns,
        )


def _log_score(trace: str, rollout: Rollout) -> None:
    """Log the score as feedback, for which MLflow has a column in its table of traces."""
    if rollout.score is not None:
        mlflow.log_feedback(
            trace_id=trace,
            name="score",
            value=rollout.score,
            rationale=storable(rollout.feedback) or None,
            source=AssessmentSource(source_type="CODE", source_id="metric"),
        )


def _tags(event: AttemptFinished) -> dict[str, str]:
    rollout = event.rollout
    tags = {
        "stage": event.stage,
        "step": event.step,
        "example": rollout.example,
        "attempt": rollout.attempt,
        "score": "unscored" if rollout.score is None else f"{rollout.score:g}",
        "outcome": rollout.outcome.value,
    }
    return {name: str(value)[:_LONGEST_TAG] for name, value in tags.items()}


def storable(text: str) -> str:
    """The text without lone surrogates, and without NUL, which PostgreSQL bars."""
    return text.encode(errors="replace").decode().replace("\x00", "\ufffd")
