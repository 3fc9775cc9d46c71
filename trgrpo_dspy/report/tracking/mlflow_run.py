"""A run of learning as an MLflow run (extra `mlflow`): a listener of its events.

What is logged: the optimizer's options as parameters; over steps the scores with their intervals, the share of groups
that taught, the library's size, and calls, tokens and cost; the library after each step, the program and the report as
artifacts; gain, verdict and total spend; each attempt as a trace (`mlflow_traces.py`).

Guarantees:

- The active MLflow run is used, else one is begun with the first event and ended with the run.
- With a `log_dir` the MLflow run's id is kept in its `mlflow.json`: a resumed run goes on in the same MLflow run, and
  what that one holds is not logged again.
- No tracking server is waited for while the run goes on, and none that fails ends it.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from trgrpo_dspy import events
from trgrpo_dspy.engine.journal.files import write_atomically
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.meter.meter import Spend, total_spend
from trgrpo_dspy.program.rollout import Rollout

from .background import Background
from .mlflow_traces import AttemptTraces, storable

__all__ = ["MLflowTracker", "SaveProgram", "carried_run"]

SaveProgram = Callable[[Path, ExperienceLibrary], object]
"""Writes the program with a library into a directory, as `program.json`."""

_Values = Mapping[str, Any]
_NONE: _Values = {}
PATIENCE = 20.0
"""Seconds in which a server has to answer before a run is reported to it; MLflow's client tries for four minutes."""
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
_CARRIED: ContextVar[Any] = ContextVar("trgrpo_mlflow_run", default=None)
"""The MLflow run that was active where the work was handed to another thread; MLflow's own is each thread's."""
_LONGEST = 5000
"""Characters of a parameter or tag; MLflow refuses 6,000 and 8,000."""
_FILE = "mlflow.json"
"""File in the `log_dir` that says which MLflow run is this run's."""


@contextmanager
def carried_run() -> Iterator[None]:
    """Let work that is handed to another thread within use the MLflow run that is active here."""
    token = _CARRIED.set(mlflow.active_run())
    try:
        yield
    finally:
        _CARRIED.reset(token)


@contextmanager
def _impatient() -> Iterator[None]:
    """Let MLflow's client try once, for a few seconds: for the last word to a server that seems gone."""
    before = {name: os.environ.get(name) for name in _IMPATIENT}
    os.environ.update(_IMPATIENT)
    try:
        yield
    finally:
        for name in _IMPATIENT:
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in before.items() if value is not None})


class MLflowTracker:
    """Logs one run into MLflow."""

    def __init__(self, traces: AttemptTraces, save_program: SaveProgram) -> None:
        """Log nothing yet."""
        self._client = mlflow.MlflowClient()
        self._traces, self._save_program = traces, save_program
        self._run: Any = None
        self._began = False
        self._status = "FAILED"
        self._log_dir: Path | None = None
        self._held: dict[tuple[str, int], float] = {}
        """Values of the metrics that the MLflow run holds, by name and step."""
        self._counts: Counter[type[events.Event]] = Counter()
        self._validation: defaultdict[int, list[Rollout]] = defaultdict(list)
        self._background = Background(self._handle, "report_to='mlflow'")

    def __call__(self, event: events.Event) -> None:
        """Take an event in; the first one opens the MLflow run, in the thread that may have one active."""
        if isinstance(event, events.RunStarted):
            self._begin(event)
        self._background(event)

    def end(self) -> None:
        """Wait for what is still to be logged, and end the MLflow run if it was begun here."""
        if self._run is None:
            return
        handled = self._background.close()
        with nullcontext() if handled else _impatient():
            if handled and self._log_dir is not None and (report := self._log_dir / "report.html").exists():
                self._client.log_artifact(self._run.info.run_id, str(report))
            if self._began:
                mlflow.end_run(self._status)

    def _begin(self, event: events.RunStarted) -> None:
        _check_server()
        directory = event.options.get("log_dir")
        self._log_dir = Path(directory).expanduser() if directory else None
        known = self._known_run()
        if (active := mlflow.active_run() or _CARRIED.get()) is not None:
            self._run = active
        else:
            name = " ".join(["trgrpo", self._log_dir.name if self._log_dir else ", ".join(event.models)])
            self._run, self._began = mlflow.start_run(run_id=known, run_name=None if known else name), True
        run_id = self._run.info.run_id
        if self._log_dir is not None:
            write_atomically(self._log_dir / _FILE, json.dumps({"run_id": run_id}))
        if run_id == known:
            for name in self._client.get_run(run_id).data.metrics:
                found = self._client.get_metric_history(run_id, name)
                self._held |= {(name, at.step): at.value for at in found}
        self._traces.begin(self._run, event, continued=run_id == known)

    def _known_run(self) -> str | None:
        """The MLflow run that an earlier process logged into, if the tracking server still has it."""
        if self._log_dir is None:
            return None
        with suppress(OSError, ValueError, KeyError, TypeError, MlflowException):
            run = self._client.get_run(json.loads((self._log_dir / _FILE).read_text())["run_id"])
            return str(run.info.run_id) if run.info.lifecycle_stage == "active" else None
        return None

    # -- in the background -------------------------------------------------------------------------------------------

    def _handle(self, event: events.Event, time_ns: int) -> None:
        if isinstance(event, events.RunStarted):
            sizes = {"training_examples": len(event.trainset), "validation_examples": len(event.valset)}
            self._log(params={**sizes, "models": ", ".join(event.models), **_flat(event.options)})
            self._text(event.program, "program.txt")
            self._text(event.library.to_markdown(), "libraries/step_000.md")
        elif isinstance(event, events.AttemptFinished):
            if event.stage != "rollout":
                self._validation[event.step].append(event.rollout)
            self._traces.add(event, time_ns)
        elif isinstance(event, (events.EditApplied, events.EditRefused)):
            self._counts[type(event)] += 1
        elif isinstance(event, events.StepEnded):
            self._step_ended(event)
        elif isinstance(event, events.LibraryMeasured):
            self._measured(event)
        elif isinstance(event, events.RunEnded):
            self._run_ended(event)

    def _step_ended(self, event: events.StepEnded) -> None:
        values = {
            "train/score": event.train_mean,
            "train/scored": event.scored,
            "train/informative": event.informative,
            "train/mistakes": event.mistakes,
            "library/entries": len(event.library),
            "library/tokens": event.library.tokens,
            "edits/applied": self._counts[events.EditApplied],
            "edits/refused": self._counts[events.EditRefused],
            **_spent("step", event.spend),
        }
        self._counts.clear()
        self._log(values, event.step)
        self._text(event.library.to_markdown(), f"libraries/step_{event.step:03d}.md")
        self._traces.flush()

    def _measured(self, event: events.LibraryMeasured) -> None:
        low, high = event.interval or (None, None)
        attempts = self._validation.pop(event.step, [])
        costs = [rollout.cost for rollout in attempts]
        values = {
            "score": event.mean,
            "low": low,
            "high": high,
            "scored": event.scored,
            "tool_calls_per_attempt": event.tool_calls,
            "tokens_per_attempt": event.tokens,
            "calls": sum(rollout.lm_calls for rollout in attempts),
            "tokens": sum(rollout.prompt_tokens + rollout.completion_tokens for rollout in attempts),
            "cost": None if None in costs else sum(cost or 0.0 for cost in costs),
        }
        self._log({f"validation/{name}": value for name, value in values.items()}, event.step)
        self._traces.flush()

    def _run_ended(self, event: events.RunEnded) -> None:
        low, high = event.interval or (None, None)
        values = {"gain": event.gain, "gain_low": low, "gain_high": high, **_spent("total", event.spend)}
        tags = {
            "verdict": event.verdict,
            "improved": {True: "yes", False: "no", None: "not measured"}[event.improved],
            "stop_reason": event.stop_reason,
            "returned_step": event.step,
            "mlflow.note.content": "\n\n".join([event.verdict, *event.warnings]),
        }
        for name, value in values.items():
            if self._held.get((name, 0)) != value:  # an earlier process ended this run with another value
                self._held.pop((name, 0), None)
        self._log(values, tags=tags)
        self._text(event.library.to_markdown(), "library.md")
        self._text(event.library.to_json(), "library.json")
        with tempfile.TemporaryDirectory() as directory:
            self._save_program(Path(directory), event.library)
            for path in Path(directory).glob("*.json"):
                self._client.log_artifact(self._run.info.run_id, str(path))
        self._traces.close()
        self._status = "KILLED" if event.stop_reason == "interrupted" else "FINISHED"

    def _log(self, metrics: _Values = _NONE, step: int = 0, params: _Values = _NONE, tags: _Values = _NONE) -> None:
        """Log values that are known and that the MLflow run does not hold yet."""
        run_id, now = self._run.info.run_id, time.time_ns() // 1_000_000
        values = [
            Metric(name, float(value), now, step)
            for name, value in metrics.items()
            if value is not None and (name, step) not in self._held
        ]
        texts = {name: _short(value) for name, value in params.items()}
        held = self._client.get_run(run_id).data.params if texts else {}
        new = [Param(name, text) for name, text in texts.items() if name not in held]
        # MLflow refuses another value for a parameter; what may change when a run is resumed becomes a tag.
        changed = {name: text for name, text in texts.items() if held.get(name, text) != text}
        given = {**{name: _short(value) for name, value in tags.items()}, **changed}
        self._client.log_batch(run_id, values, new, [RunTag(name, text) for name, text in given.items()])

    def _text(self, text: str, name: str) -> None:
        self._client.log_text(self._run.info.run_id, storable(text), name)


def _spent(prefix: str, spend: Iterable[Spend]) -> dict[str, float | None]:
    total = total_spend(spend)
    tokens = total.prompt_tokens + total.completion_tokens
    return {f"{prefix}/calls": total.calls, f"{prefix}/tokens": tokens, f"{prefix}/cost": total.cost}


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options with those inside options as `budget.max_cost`; those that were left out are not in it."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None and value != []:
            flat[prefix + name] = value
    return flat


def _short(value: Any) -> str:
    text = storable(str(value))
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _check_server() -> None:
    """Ask the tracking server anything; a `TimeoutError` if it does not answer within `PATIENCE` seconds."""
    uri = mlflow.get_tracking_uri()
    if not uri.startswith("http"):  # a database or a directory is there or raises at once
        return
    answered = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # the client has tried for minutes; nobody waits for this any more
            mlflow.search_experiments(max_results=1)
            answered.set()

    threading.Thread(target=ask, name="mlflow-server", daemon=True).start()
    if not answered.wait(PATIENCE):
        raise TimeoutError(f"the tracking server at {uri} did not answer within {PATIENCE:g} seconds")
