"""What a run measured and did: frozen records that round-trip through JSON. No dspy, no LM."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from trgrpo_dspy.evaluation.statistics.intervals import Interval, Mean
from trgrpo_dspy.library import ExperienceLibrary
from trgrpo_dspy.library.edits import RejectedEdit
from trgrpo_dspy.meter import Estimate, Spend, total_spend
from trgrpo_dspy.saved import Saved

__all__ = ["DetailedResults", "Measurement", "StepResult", "Verdict"]

SCHEMA_VERSION = 1
_SPEND_HEAD = (
    "stage", "expected", "at most", "calls", "retries", "failed", "cached", "cut", "prompt", "reply", "cost, $",
)  # fmt: skip


@dataclass(frozen=True)
class Measurement:
    """One library, measured on the valset."""

    step: int
    """Step that made the library; 0 is the input program."""
    library: ExperienceLibrary
    """What the program carried."""
    scores: tuple[float | None, ...]
    """Mean score of each validation example over its repeats, in the valset's order; None is unscored."""
    mean: Mean
    """Mean over the scored examples with its own (not simultaneous) interval."""
    outcomes: dict[str, int] = field(default_factory=dict)
    """Attempts by outcome."""
    tool_calls: float | None = None
    """Tool calls of a scored attempt, on average; None if nothing was scored."""
    tokens: float | None = None
    """Billed prompt and completion tokens of a scored attempt, on average."""


@dataclass(frozen=True)
class StepResult:
    """One step of the run."""

    step: int
    """From 1, over all epochs."""
    epoch: int
    """From 1."""
    examples: tuple[int, ...]
    """Indices into the trainset, in order."""
    train_mean: float | None
    """Mean score of all scored attempts, with the library the step started from; None if nothing was scored."""
    informative: float
    """Share of groups that held a contrast to learn from, 0 to 1."""
    outcomes: dict[str, int]
    """Attempts by outcome."""
    edits: dict[str, int]
    """Edits that took effect, by operation."""
    rejected: tuple[RejectedEdit, ...]
    """Edits that did not, with reasons."""
    lost: dict[str, int]
    """Reflection replies that could not be used, as 'stage: reason'."""
    library: ExperienceLibrary
    """The library after the step."""
    library_tokens: int
    """Its size in tokens of 4 characters."""
    spend: tuple[Spend, ...]
    """Spend of the step by stage and model, its validation included."""
    mistakes: float = 0.0
    """Share of groups that taught by mistakes alone, 0 to 1."""
    validation: Measurement | None = None
    """The new library measured on the valset; None without one, if the library was not due (`evaluate_every`) or says
    nothing new, or if the run ended first."""


@dataclass(frozen=True)
class Verdict:
    """What may be said of the result."""

    text: str
    """One plain sentence."""
    improved: bool | None
    """Whether the gain is beyond noise; None if it was not measured."""
    step: int
    """Step whose library was returned; 0 is the input."""
    gain: float | None = None
    """Mean paired gain over the input on the valset."""
    interval: Interval | None = None
    """Its interval, simultaneous over all libraries that were measured."""
    tried: int = 0
    """Libraries that were measured, the input not counted."""


@dataclass(frozen=True)
class DetailedResults(Saved):
    """Everything a run measured, did and spent."""

    saved_as = "results"
    verdict: Verdict
    """What may be said of the result."""
    baseline: Measurement | None
    """The input program on the valset; None without one."""
    steps: tuple[StepResult, ...]
    """In order."""
    stop_reason: str
    """Why the run ended: 'completed', 'interrupted', 'error_rate', 'unscored' (nothing could be scored), 'fatal'
    (in the program of a `FatalError`), or the cap that was reached, such as 'max_cost'."""
    warnings: tuple[str, ...]
    """What the user should know about data or settings, a sentence each."""
    spend: tuple[Spend, ...]
    """Spend of the whole run by stage and model."""
    estimate: Estimate
    """What the run was expected to take, to stand beside `spend`."""
    settings: dict[str, Any]
    """The optimizer's arguments, as plain data."""
    seconds: float
    """Wall time, in seconds."""
    schema_version: int = SCHEMA_VERSION
    """Version of this record."""

    @property
    def measured(self) -> tuple[Measurement, ...]:
        """Every library that was measured, the input's first."""
        found = [self.baseline, *(step.validation for step in self.steps)]
        return tuple(m for m in found if m is not None)

    @property
    def total(self) -> Spend:
        """Spend of the whole run, in one row."""
        return total_spend(self.spend)

    @property
    def spend_table(self) -> str:
        """What was spent beside what was expected, a line a stage: readable text. '?' is unknown."""
        rows = [
            _spend_row(row.stage, row.calls, row.at_most, _of_stage(self.spend, row.stage))
            for row in self.estimate.stages
        ]
        rows.append(_spend_row("all", self.estimate.calls, self.estimate.at_most, self.total))
        return "\n".join(
            "".join(f"{c:<14}" if i == 0 else f"{c:>11}" for i, c in enumerate(r)) for r in (_SPEND_HEAD, *rows)
        )

    def __str__(self) -> str:
        """The verdict, a line a step, the spend, and the warnings."""
        lines = [self.verdict.text]
        if self.baseline is not None:
            lines.append(f"input: validation {_percent(self.baseline.mean.value)}")
        lines += [step_line(step) for step in self.steps]
        total = self.total
        cost = "unknown" if total.cost is None else f"${total.cost:.2f}"
        lines.append(
            f"spent: {total.calls} LM calls ({total.cached} cached, {total.failed} failed, {total.retries} retries), "
            f"{total.prompt_tokens:,} prompt and {total.completion_tokens:,} completion tokens, cost {cost}"
        )
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


def step_line(step: StepResult) -> str:
    """One line that tells a step."""
    edits = ", ".join(f"{count} {name}" for name, count in sorted(step.edits.items())) or "no edits"
    parts = [
        f"step {step.step} (epoch {step.epoch})",
        f"train {_percent(step.train_mean)}",
        f"{100 * step.informative:.0f}% of {len(step.examples)} groups informative",
        f"{edits}, {len(step.rejected)} rejected",
        f"library {len(step.library)} entr{'y' if len(step.library) == 1 else 'ies'}, {step.library_tokens} tokens",
    ]
    if step.lost:
        parts.append("lost: " + ", ".join(f"{count} {reason}" for reason, count in step.lost.items()))
    if step.validation is not None:
        parts.append(f"validation {_percent(step.validation.mean.value)}")
        if step.validation.tool_calls:
            parts.append(
                f"{step.validation.tool_calls:.1f} tool calls and {step.validation.tokens or 0:,.0f} tokens each"
            )
    return " | ".join(parts)


def _of_stage(spend: Iterable[Spend], stage: str) -> Spend:
    return total_spend(row for row in spend if row.stage == stage)


def _spend_row(stage: str, expected: float, at_most: float, spent: Spend) -> tuple[str, ...]:
    counts = (spent.calls, spent.retries, spent.failed, spent.cached, spent.truncated)
    tokens = (spent.prompt_tokens, spent.completion_tokens)
    cost = "?" if spent.cost is None else f"{spent.cost:.2f}"
    return (stage, f"{expected:.0f}", f"{at_most:.0f}", *(f"{n:,}" for n in (*counts, *tokens)), cost)


def _percent(value: float | None) -> str:
    return "unscored" if value is None else f"{value:.3f}"
