"""What a run measured and did: frozen records that round-trip through JSON. No dspy, no LM.

Records grow by fields that have a default, so that older JSON loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BeforeValidator

from trgrpo_dspy.evaluation.statistics.intervals import Mean
from trgrpo_dspy.evaluation.statistics.resampling import Interval
from trgrpo_dspy.library.edits import RejectedEdit
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.library.saved import Saved
from trgrpo_dspy.meter.estimate import Estimate
from trgrpo_dspy.meter.meter import Spend, total_spend
from trgrpo_dspy.program.rollout import Rollout

from .gepa_names import GEPANames
from .html import details, page, table
from .measurement import average, calls_text, summarize_evaluation
from .warnings import UNSCORED

__all__ = ["DetailedResults", "Measurement", "StepResult", "Verdict", "step_line"]

SCHEMA_VERSION = 2
_SPEND_HEAD = (
    "stage", "expected", "at most", "calls", "retries", "failed", "cached", "cut", "prompt", "reply", "cost, $",
)  # fmt: skip


def _from_schema_1(value: Any) -> Any:
    """Read a rejected edit of schema 1, which held the edit's fields beside the reason."""
    if isinstance(value, Mapping) and "edit" not in value and "reason" in value:
        return {"edit": {name: value.get(name, "") for name in ("operation", "id", "text")}, "reason": value["reason"]}
    return value


Refused = Annotated[RejectedEdit, BeforeValidator(_from_schema_1)]
"""An edit that did not take effect, and why."""


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
    inputs: tuple[int, ...] = ()
    """For each validation example the index of the first one with equal inputs: copies count once in every interval.
    Empty: each example counts as its own."""

    @classmethod
    def of(
        cls,
        step: int,
        library: ExperienceLibrary,
        rollouts: Sequence[tuple[Rollout, ...]],
        inputs: Sequence[int] = (),
    ) -> Measurement:
        """What the attempts at the validation examples say of a library."""
        found = summarize_evaluation(rollouts, (), inputs)
        scored = [r for attempts in rollouts for r in attempts if r.score is not None]
        tools, tokens = (r.tool_calls for r in scored), (r.prompt_tokens + r.completion_tokens for r in scored)
        return cls(
            step, library, found.scores, found.mean, found.outcomes, average(tools), average(tokens), tuple(inputs)
        )


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
    rejected: tuple[Refused, ...]
    """Edits that did not, with reasons."""
    lost: dict[str, int]
    """Reflection replies that could not be used, as 'stage: reason'."""
    library: ExperienceLibrary
    """The library after the step."""
    library_tokens: int
    """Its size in tokens of 4 characters."""
    spend: tuple[Spend, ...]
    """Spend of the step by stage and model, its validation included."""
    validation: Measurement | None = None
    """The new library measured on the valset; None without one, if the library was not due (`evaluate_every`) or says
    nothing new, or if the run ended first."""
    mistakes: float = 0.0
    """Share of groups without a contrast that taught by what all attempts got wrong, 0 to 1."""
    held: tuple[Refused, ...] = ()
    """Edits held back for the user to allow, with reasons; they are in no library until then."""
    notes: tuple[str, ...] = ()
    """What else the user should know of the step, a sentence each."""

    @property
    def attempts(self) -> int:
        """Attempts of the step."""
        return sum(self.outcomes.values())

    @property
    def scored(self) -> int:
        """Attempts that are in `train_mean`; without a metric those that answered."""
        return self.attempts - sum(self.outcomes.get(name, 0) for name in UNSCORED)


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
class DetailedResults(Saved, GEPANames):
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
    calls_before: int = field(default=0, compare=False)
    """LM calls of `spend` that earlier processes of the run made; the others were made now."""

    @property
    def replayed(self) -> DetailedResults:
        """The same results, of a run that was finished before: all calls were made then."""
        return replace(self, calls_before=self.total.calls)

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
            _spend_row(row.stage, row.calls, row.at_most, total_spend(r for r in self.spend if r.stage == row.stage))
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
            lines.append(f"input: validation {self.baseline.mean.brief}")
        lines += [step_line(step) for step in self.steps]
        lines.append(f"spent: {self._spent()}")
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def _spent(self) -> str:
        total = self.total
        cost = "unknown" if total.cost is None else f"${total.cost:.2f}"
        return (
            f"{calls_text(total.calls, self.calls_before)} ({total.cached} cached, {total.failed} failed, "
            f"{total.retries} retries), {total.prompt_tokens:,} prompt and {total.completion_tokens:,} completion "
            f"tokens, cost {cost}"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: verdict, steps, spend, warnings."""
        rows = [["input", "", "", "", "", self.baseline.mean.brief]] if self.baseline is not None else []
        rows += [
            [
                f"step {step.step}",
                _train_text(step),
                _teaching_text(step),
                _edits_text(step),
                f"{len(step.library)} ({step.library_tokens} tokens)",
                "" if step.validation is None else step.validation.mean.brief,
            ]
            for step in self.steps
        ]
        head = ["", "train", "groups", "edits", "entries", "validation"]
        return page(self.verdict.text, [table(head, rows), details("spend", [self._spent()]), *_listed(self.warnings)])


def step_line(step: StepResult) -> str:
    """One line that says how a step went."""
    parts = [
        f"step {step.step} (epoch {step.epoch})",
        f"train {_train_text(step)}",
        _teaching_text(step),
        _edits_text(step),
        f"library {len(step.library)} entr{'y' if len(step.library) == 1 else 'ies'}, {step.library_tokens} tokens",
    ]
    if step.lost:
        parts.append("lost: " + ", ".join(f"{count} {reason}" for reason, count in step.lost.items()))
    if step.validation is not None:
        parts.append(f"validation {step.validation.mean.brief}")
        if step.validation.tool_calls:
            parts.append(
                f"{step.validation.tool_calls:.1f} tool calls and {step.validation.tokens or 0:,.0f} tokens each"
            )
    return " | ".join([*parts, *step.notes])


def _train_text(step: StepResult) -> str:
    """The mean of the attempts, and of how many, where some have no score."""
    text = "unscored" if step.train_mean is None else f"{step.train_mean:.3f}"
    return text if step.scored == step.attempts else f"{text} over {step.scored} of {step.attempts} attempts"


def _teaching_text(step: StepResult) -> str:
    text = f"{100 * step.informative:.0f}% of {len(step.examples)} groups informative"
    return text + (f", {100 * step.mistakes:.0f}% by mistakes alone" if step.mistakes else "")


def _edits_text(step: StepResult) -> str:
    edits = ", ".join(f"{count} {name}" for name, count in sorted(step.edits.items())) or "no edits"
    return f"{edits}, {len(step.rejected)} rejected" + (f", {len(step.held)} held back" if step.held else "")


def _listed(warnings: Sequence[str]) -> list[str]:
    return [details(f"{len(warnings)} warnings" if len(warnings) > 1 else "1 warning", warnings)] if warnings else []


def _spend_row(stage: str, expected: float, at_most: float, spent: Spend) -> tuple[str, ...]:
    counts = (spent.calls, spent.retries, spent.failed, spent.cached, spent.truncated)
    tokens = (spent.prompt_tokens, spent.completion_tokens)
    cost = "?" if spent.cost is None else f"{spent.cost:.2f}"
    return (stage, f"{expected:.0f}", f"{at_most:.0f}", *(f"{n:,}" for n in (*counts, *tokens)), cost)
