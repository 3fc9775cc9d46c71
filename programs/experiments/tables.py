"""What an experiment found: plain records, as Markdown and as JSON, with the paper's figures beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trgrpo_dspy import Evaluation, ExperienceLibrary
from trgrpo_dspy.meter import Spend
from trgrpo_dspy.result import StepResult
from trgrpo_dspy.statistics import Interval

from . import paper
from .plan import ARMS, EVALUATION_TEMPERATURE, ROLLOUT_TEMPERATURE, Plan

__all__ = [
    "Cell",
    "CurvePoint",
    "Report",
    "SpendRow",
    "cell_of",
    "curve_of",
    "entries_of",
    "markdown",
    "scores",
    "spend_of",
    "table",
]

SCHEMA_VERSION = 1
OFFLINE = (
    "OFFLINE: these figures come from a built-in character n-gram model on shipped sample data. It is no large "
    "language model, and they mean nothing for one. They show that the experiment runs."
)
_MARK = "n-gram model, no LLM: means nothing"


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
    """Pass@k, the unbiased estimator."""
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
    low, high = _ends(found.mean.interval)
    gain_low, gain_high = _ends(gain.interval if gain else None)
    return Cell(
        arm, data_set, found.k, found.score, low, high, found.mean.n,
        sum(r.score is None for attempts in found.rollouts for r in attempts), found.pass_at(found.k),
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


def markdown(report: Report) -> str:
    """The whole report as text."""
    plan = report.plan
    what = {"math": "Mathematics", "web": "Web search"}[plan.task] + (f", {plan.mode}" if plan.task == "math" else "")
    parts = [f"# {what}: {'ablations' if plan.command == 'ablations' else 'Training-Free GRPO'}"]
    if plan.offline:
        parts.append(f"**{OFFLINE}**")
    if report.partial:
        parts.append(f"**PARTIAL: {report.partial}.** Run the same command again and it goes on.")
    parts += [scores(report), _spend(report), _curve(report), _settings(report), _libraries(report)]
    return "\n\n".join(part for part in parts if part) + "\n"


def scores(report: Report) -> str:
    """The tables of scores, one a data set."""
    return "\n\n".join(_scores_of(report, name, title) for name, title in report.titles.items())


def _scores_of(report: Report, name: str, title: str) -> str:
    plan, (first, *more) = report.plan, report.measures
    mean, any_of = (f"Mean@{plan.k}", f"Pass@{plan.k}") if plan.task == "math" else ("pass@1", f"pass@{plan.k}")
    head = ["program", f"{mean}, % [95% interval]", f"paper: {first}, {paper.MODEL}", "difference [95% interval]",
            f"{any_of}, %", *(f"paper: {m}, {paper.MODEL}" for m in more), "tool calls", "tokens in + out",
            "cost, $"]  # fmt: skip
    cells = {cell.arm: cell for cell in report.cells if cell.data_set == name}
    rows = []
    for arm in (arm for arm in ARMS if arm in plan.arms):
        figures = [paper.published(plan.task, plan.mode, arm, name, m) for m in report.measures]
        rows.append([ARMS[arm], *_row(cells.get(arm), *figures)])
    for label, known in paper.others(plan.task, name).items():
        figures = [known.get(m) for m in report.measures]
        rows.append([f"paper only: {label}", *_row(None, *figures)])
    heading = f"## {title}" + (f" ({_MARK})" if plan.offline else "")
    notes = [f"Tool calls, tokens and dollars are per attempt at a problem. Paper: {paper.SOURCE}."]
    if plan.task == "web":
        whole = [paper.published("web", "agent", arm, "WebWalkerQA", "pass@1") for arm in ("input", "full")]
        notes.append(f"On all of WebWalkerQA the paper has pass@1 {whole[0]}, with Training-Free GRPO {whole[1]}.")
    for cell in cells.values():
        if cell.partial:
            notes.append(f"{ARMS[cell.arm]}: ended after {cell.problems} problems.")
    if any(cell.reliable is False for cell in cells.values()):
        notes.append("Fewer than 30 problems: the intervals of the differences are not reliable.")
    if unscored := sum(cell.unscored for cell in cells.values()):
        notes.append(f"{unscored} attempts have no score (outages, no verdict) and count in no mean.")
    return "\n\n".join([heading, table(head, rows), " ".join(notes)])


def _row(cell: Cell | None, first: float | None, *more: float | None) -> list[str]:
    """The cells of a row after its name; what is not there is a dash."""
    figures = ["-" if f is None else f"{f:.1f}" for f in (first, *more)]
    if cell is None:
        return ["-", figures[0], "-", "-", *figures[1:], "-", "-", "-"]
    return [
        _percent(cell.mean, cell.low, cell.high), figures[0],
        _percent(cell.difference, cell.difference_low, cell.difference_high, sign="+"),
        _percent(cell.pass_at_k), *figures[1:], _number(cell.tool_calls, 1),
        f"{_number(cell.prompt_tokens)} + {_number(cell.completion_tokens)}", _dollars(cell.cost, 4),
    ]  # fmt: skip


def _spend(report: Report) -> str:
    if not report.spend:
        return ""
    names = ("calls", "failed", "cut", "prompt_tokens", "completion_tokens")
    rows = [
        [ARMS[r.arm], r.stage, *(_number(getattr(r, name)) for name in names), _dollars(r.cost)] for r in report.spend
    ]
    costs = [r.cost for r in report.spend]
    sums = [_number(sum(getattr(r, name) for r in report.spend)) for name in names]
    rows.append(["all", "", *sums, _dollars(None if None in costs else sum(c or 0.0 for c in costs))])
    head = ["program", "stage", "LM calls", "failed", "cut by length", "prompt tokens", "completion tokens", "cost, $"]
    told = table(head, rows)
    return f"## What it took\n\n{told}\n\nThe paper's learning: {paper.LEARNING}."


def _curve(report: Report) -> str:
    if not report.curve:
        return ""
    last = {point.arm: point.step for point in report.curve}
    start = CurvePoint("input", 0, 0, None, 0.0, 0, 0)
    rows = []
    for point in (start, *report.curve):
        at = None if point.step == last.get(point.arm, 0) else point.step
        held_out = [_held_out(report, name, point.arm, at) for name in report.titles]
        learned = [_percent(point.train_mean), f"{100 * point.informative:.0f}%"] if point.step else ["-", "-"]
        rows.append([ARMS[point.arm], str(point.step), *learned, str(point.entries), str(point.library_tokens),
                     *(text for pair in held_out for text in pair)])  # fmt: skip
    head = ["program", "step", "train mean, %", "informative groups", "experiences", "library tokens"]
    for name in report.titles:
        head += [f"{name}: mean, %", f"{name}: tool calls"]
    note = (
        "" if report.plan.curve else "\n\nWith `--curve` the libraries between the first and the last are measured too."
    )
    return f"## Learning curve\n\n{table(head, rows)}{note}"


def _held_out(report: Report, data_set: str, arm: str, step: int | None) -> tuple[str, str]:
    """Score and tool calls on problems that were not learned from; dashes where that was not measured."""
    cells = [c for c in (*report.cells, *report.along) if (c.data_set, c.arm, c.step) == (data_set, arm, step)]
    return (_percent(cells[0].mean), _number(cells[0].tool_calls, 1)) if cells else ("-", "-")


def _settings(report: Report) -> str:
    plan = report.plan
    model = "built-in n-gram model (no LLM)" if plan.offline else plan.model
    lines = [
        f"model {model}, reflection {plan.reflection_model or 'the same'}"
        + (f", judge {plan.judge or 'the same'}" if plan.task == "web" else ""),
        f"learning: {plan.train} problems, {plan.epochs} epochs, group size {plan.group_size}, temperature "
        f"{ROLLOUT_TEMPERATURE}; the library after the last step is measured, as in the paper",
        f"evaluation: {plan.k} attempts at each problem, temperature {EVALUATION_TEMPERATURE}",
        f"seed {plan.seed}; replies of at most {plan.max_tokens or 'as many tokens as the provider allows by default'}"
        + (" tokens" if plan.max_tokens else ""),
        report.differs,
    ]
    text = "## Settings\n\n" + "\n".join(f"- {line}" for line in lines)
    return text + (f"\n\n```\n{report.expected}\n```" if report.expected else "")


def _libraries(report: Report) -> str:
    found = []
    for arm, entries in report.libraries.items():
        lines = "\n".join(entries) or "(nothing)"
        found.append(f"## What was learned: {ARMS[arm]}\n\n```\n{lines}\n```")
    return "\n\n".join(found)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with columns of equal width."""
    cells = [[c.replace("|", "\\|") for c in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _percent(value: float | None, low: float | None = None, high: float | None = None, *, sign: str = "") -> str:
    if value is None:
        return "-"
    text = f"{100 * value:{sign}.1f}"
    return text if low is None or high is None else f"{text} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def _number(value: float | None, digits: int = 0) -> str:
    return "?" if value is None else f"{value:,.{digits}f}"


def _dollars(value: float | None, digits: int = 2) -> str:
    return "?" if value is None else f"{value:.{digits}f}"
