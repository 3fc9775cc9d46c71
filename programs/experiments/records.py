"""What an experiment found, as plain records."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trgrpo_dspy import Evaluation, ExperienceLibrary
from trgrpo_dspy.evaluation.result import StepResult
from trgrpo_dspy.evaluation.statistics.comparison import paired_comparison
from trgrpo_dspy.evaluation.statistics.intervals import mean_at_k, mean_with_interval
from trgrpo_dspy.evaluation.statistics.resampling import Interval
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.meter import Spend, Stage

from . import paper
from .plan import Plan

__all__ = [
    "OFFLINE", "Band", "Cell", "CurvePoint", "Report", "SpendRow", "cell_of", "curve_of", "entries_of", "learning_of",
    "spend_of",
]  # fmt: skip

SCHEMA_VERSION = 2
OFFLINE = (
    "OFFLINE: these figures come from a built-in character n-gram model on shipped sample data. It is no large "
    "language model, and they mean nothing for one. They show that the experiment runs."
)
"""What is said wherever the built-in text model answered."""
_OUTAGE = Outcome.INFRASTRUCTURE.value


@dataclass(frozen=True)
class Band:
    """A figure with its 95% interval."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Cell:
    """One program on one data set. Scores are fractions, tokens and dollars are per attempt at a problem."""

    arm: str
    data_set: str
    k: int
    """Attempts at each problem."""
    mean: float | None
    """Mean@k."""
    low: float | None
    """Lower end of its 95% interval."""
    high: float | None
    problems: int
    """Problems scored."""
    unscored: int
    """Attempts without a score: outages, no verdict."""
    pass_at_k: float | None
    """Pass@k, the unbiased estimator, over the problems whose every attempt was scored."""
    pass_problems: int
    """Those problems."""
    difference: float | None
    """Mean@k minus the input program's, paired by problem."""
    difference_low: float | None
    difference_high: float | None
    detectable: float | None
    """True difference found with 80% power at two-sided 5%."""
    reliable: bool | None
    """Whether there are enough problems to rely on the difference's interval; None for the input program."""
    tool_calls: float | None
    tools: Band
    """The same as a mean over problems."""
    tool_difference: Band | None
    """Tool calls minus the input program's, paired by problem; None for the input program."""
    lm_calls: float | None
    prompt_tokens: float | None
    completion_tokens: float | None
    cost: float | None
    """US dollars; None is unknown."""
    scores: tuple[float | None, ...]
    """Mean score of each problem; None is unscored."""
    failures: tuple[tuple[str, int], ...]
    """Attempts in which the program itself failed, which score 0, by outcome."""
    partial: bool
    """Whether the evaluation was ended before all problems were done."""
    step: int | None = None
    """Step whose library it carried, where that is not the arm's last."""


@dataclass(frozen=True)
class CurvePoint:
    """One step of learning."""

    arm: str
    step: int
    epoch: int
    train_mean: float | None
    """Mean score of the step's attempts, with the library before it."""
    train_low: float | None
    """Lower end of its 95% interval, over the step's problems."""
    train_high: float | None
    tools: Band | None
    """Tool calls of the step's attempts, over its problems; None if the log of the attempts is gone."""
    informative: float
    """Share of groups with something to learn from."""
    entries: int
    """Entries of the library after it."""
    library_tokens: int
    """Its size in tokens of 4 characters."""


@dataclass(frozen=True)
class SpendRow:
    """What one stage of one arm took."""

    arm: str
    stage: str
    calls: int
    failed: int
    """Calls that ended in an error."""
    cut: int
    """Replies cut by length."""
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass
class Report:
    """Everything an experiment found, so far."""

    plan: Plan
    titles: dict[str, str]
    """What stands above each data set's table."""
    measures: tuple[str, ...]
    """The paper's measures: of the mean, and of any attempt."""
    differs: str
    """What the paper's tools had that these have not."""
    partial: str = "it is under way"
    """Why this is not the whole; empty once it is."""
    cells: list[Cell] = field(default_factory=list)
    along: list[Cell] = field(default_factory=list)
    """The libraries before the last one, measured."""
    curve: list[CurvePoint] = field(default_factory=list)
    spend: list[SpendRow] = field(default_factory=list)
    libraries: dict[str, list[str]] = field(default_factory=dict)
    """What each arm learned, an entry each."""
    warnings: dict[str, list[str]] = field(default_factory=dict)
    """What each arm's learning warned of."""
    expected: str = ""
    """The estimate."""
    pictures: list[str] = field(default_factory=list)
    """Names of the pictures beside the report, without an ending."""

    def record(self) -> dict[str, Any]:
        """The report as plain data, the paper's figures included."""
        return {
            "schema_version": SCHEMA_VERSION,
            "notice": OFFLINE if self.plan.offline else "",
            **asdict(self),
            "paper": {
                "source": paper.SOURCE,
                "learning": paper.LEARNING,
                "figures": [asdict(f) for f in paper.FIGURES if f.task == self.plan.task],
            },
        }


def cell_of(arm: str, data_set: str, found: Evaluation, before: Evaluation | None, step: int | None = None) -> Cell:
    """What an evaluation found, beside the input program's (None for the input itself)."""
    took, gain = found.per_attempt, None if before is None else found.versus(before)
    tools = _tools(found)
    fewer = None if before is None else paired_comparison(_tools(before), tools, units=found.inputs or None)
    passed = found.pass_at_with_interval(found.k)
    failures = tuple((name, number) for name, number in found.outcomes.items() if Outcome(name).failed)
    low, high = _ends(found.mean.interval)
    gain_low, gain_high = _ends(gain.interval if gain else None)
    return Cell(
        arm, data_set, found.k, found.score, low, high, found.mean.n,
        sum(r.score is None for attempts in found.rollouts for r in attempts), passed.value, passed.n,
        gain.difference if gain else None, gain_low, gain_high, gain.detectable if gain else None,
        gain.reliable if gain else None, took.tool_calls, _band(tools, found.inputs),
        Band(fewer.difference, *_ends(fewer.interval)) if fewer else None, took.lm_calls, took.prompt_tokens,
        took.completion_tokens, took.cost, found.scores, failures, found.partial, step,
    )  # fmt: skip


def _tools(found: Evaluation) -> list[float | None]:
    """Tool calls of an attempt at each problem, attempts that met an outage left out."""
    counted = [[r.tool_calls for r in made if r.outcome is not Outcome.INFRASTRUCTURE] for made in found.rollouts]
    return mean_at_k(counted)


def _band(values: Iterable[float | None], units: Iterable[int] = ()) -> Band:
    """Mean and interval of what is never below 0."""
    mean = mean_with_interval(list(values), units=list(units) or None)
    low, high = _ends(mean.interval)
    return Band(mean.value, None if low is None else max(low, 0.0), high)


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (interval.low, interval.high) if interval else (None, None)


def curve_of(arm: str, steps: Iterable[StepResult], log: Path) -> list[CurvePoint]:
    """The learning curve of an arm, its intervals from the log of the attempts (`events.jsonl`)."""
    attempts = _attempts(log)
    points = []
    for s in steps:
        groups = attempts.get(s.step, {}).values()
        scores = _band(mean_at_k([[a["score"] for a in group] for group in groups])) if groups else None
        calls = [[a["tool_calls"] for a in group if a["outcome"] != _OUTAGE] for group in groups]
        points.append(CurvePoint(
            arm, s.step, s.epoch, s.train_mean, scores and scores.low, scores and scores.high,
            _band(mean_at_k(calls)) if groups else None, s.informative, len(s.library), s.library_tokens,
        ))  # fmt: skip
    return points


def _attempts(log: Path) -> dict[int, dict[int, list[dict[str, Any]]]]:
    """The attempts of learning by step and problem. A run that went on tells its story again: the last one counts."""
    found: dict[tuple[int, int, int], dict[str, Any]] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:  # the process was killed while it wrote the line
            continue
        if event.get("event") == "AttemptFinished" and event["stage"] == Stage.ROLLOUT.value:
            attempt = event["rollout"]
            found[event["step"], attempt["example"], attempt["attempt"]] = attempt
    steps: dict[int, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for (step, example, _), attempt in sorted(found.items()):
        steps[step][example].append(attempt)
    return steps


def spend_of(arm: str, spend: Iterable[Spend], where: str = "") -> list[SpendRow]:
    """The spend of an arm, all models together; `where` follows the stage's name."""
    merged: dict[str, Spend] = {}
    for row in spend:
        merged[row.stage] = merged[row.stage].plus(row) if row.stage in merged else row
    return [
        SpendRow(
            arm, f"{s} {where}".strip(), r.calls, r.failed, r.truncated, r.prompt_tokens, r.completion_tokens, r.cost
        )
        for s, r in merged.items()
    ]


def learning_of(report: Report, arm: str) -> SpendRow | None:
    """What an arm's learning took in all; None if it took nothing."""
    rows = [r for r in report.spend if r.arm == arm and not r.stage.startswith(Stage.EVALUATION.value)]
    if not rows:
        return None
    counts = (
        sum(getattr(r, n) for r in rows) for n in ("calls", "failed", "cut", "prompt_tokens", "completion_tokens")
    )
    costs = [r.cost for r in rows]
    return SpendRow(arm, "learning in all", *counts, None if None in costs else sum(c or 0.0 for c in costs))


def entries_of(library: ExperienceLibrary) -> list[str]:
    """The entries of a library, a line each."""
    return [entry.line() for entry in library]
