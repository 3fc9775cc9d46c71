"""What an experiment found, as plain records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from trgrpo_dspy import Evaluation, ExperienceLibrary
from trgrpo_dspy.evaluation.result import StepResult
from trgrpo_dspy.evaluation.statistics.intervals import Interval
from trgrpo_dspy.meter import Spend

from . import paper
from .plan import Plan

__all__ = [
    "OFFLINE", "Cell", "CurvePoint", "Report", "SpendRow", "cell_of", "curve_of", "entries_of", "spend_of",
]  # fmt: skip

SCHEMA_VERSION = 1
OFFLINE = (
    "OFFLINE: these figures come from a built-in character n-gram model on shipped sample data. It is no large "
    "language model, and they mean nothing for one. They show that the experiment runs."
)
"""What is said wherever the built-in text model answered."""


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
    reliable: bool | None
    """Whether there are enough problems to rely on the difference's interval; None for the input program."""
    tool_calls: float | None
    prompt_tokens: float | None
    completion_tokens: float | None
    cost: float | None
    """US dollars; None is unknown."""
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
    expected: str = ""
    """The estimate."""

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
    passed = found.pass_at_with_interval(found.k)
    low, high = _ends(found.mean.interval)
    gain_low, gain_high = _ends(gain.interval if gain else None)
    return Cell(
        arm, data_set, found.k, found.score, low, high, found.mean.n,
        sum(r.score is None for attempts in found.rollouts for r in attempts), passed.value, passed.n,
        gain.difference if gain else None, gain_low, gain_high, gain.reliable if gain else None,
        took.tool_calls, took.prompt_tokens, took.completion_tokens, took.cost, found.partial, step,
    )  # fmt: skip


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (interval.low, interval.high) if interval else (None, None)


def curve_of(arm: str, steps: Iterable[StepResult]) -> list[CurvePoint]:
    """The learning curve of an arm."""
    return [
        CurvePoint(arm, s.step, s.epoch, s.train_mean, s.informative, len(s.library), s.library_tokens) for s in steps
    ]


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


def entries_of(library: ExperienceLibrary) -> list[str]:
    """The entries of a library, a line each."""
    return [entry.line() for entry in library]
