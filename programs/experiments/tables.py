"""What an experiment found, as Markdown, with the paper's figures beside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import paper
from .models import sampling_text
from .plan import ARMS, EVALUATION_TEMPERATURE, ROLLOUT_TEMPERATURE, Plan
from .records import OFFLINE, Cell, CurvePoint, Report

__all__ = ["markdown", "scores", "table"]

_MARK = "n-gram model, no LLM: means nothing"
_REPEATS = "The built-in text model can't write experiences: these are sentences it was shown, repeated."


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
    notes = [f"Tool calls, tokens and dollars are per attempt at a problem. Paper: {paper.SOURCE}."]
    if plan.mode == "agent":
        notes.append("The call of `finish` that ends an attempt is counted as a tool call.")
    if plan.task == "web":
        whole = [paper.published("web", "agent", arm, "WebWalkerQA", "pass@1") for arm in ("input", "full")]
        notes.append("Tokens and dollars include the judge's.")
        if name != "WebWalkerQA":
            notes.append(f"On all of WebWalkerQA the paper has pass@1 {whole[0]}, with Training-Free GRPO {whole[1]}.")
    for cell in cells.values():
        if cell.partial:
            notes.append(f"{ARMS[cell.arm]}: ended after {cell.problems} problems.")
    if any(cell.reliable is False for cell in cells.values()):
        notes.append("Fewer than 30 problems: the intervals of the differences are not reliable.")
    if unscored := sum(cell.unscored for cell in cells.values()):
        notes.append(f"{unscored} attempts have no score (outages, no verdict) and count in no mean.")
    for cell in cells.values():
        if cell.pass_problems < cell.problems:
            notes.append(
                f"{ARMS[cell.arm]}: {any_of} is over the {cell.pass_problems} of {cell.problems} problems whose every "
                "attempt has a score."
            )
    return "\n\n".join([f"## {title}{_marked(plan)}", table(head, rows), " ".join(notes)])


def _marked(plan: Plan) -> str:
    """What follows a heading where the built-in text model answered."""
    return f" ({_MARK})" if plan.offline else ""


def _row(cell: Cell | None, first: float | None, *more: float | None) -> list[str]:
    """The cells of a row after its name; what is not there is a dash."""
    figures = ["-" if f is None else f"{f:.1f}" for f in (first, *more)]
    if cell is None or cell.tool_calls is None:  # nothing was attempted
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
    return f"## What it took{_marked(report.plan)}\n\n{told}\n\nThe paper's learning: {paper.LEARNING}."


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
        label = report.plan.label(name)
        head += [f"{label}: mean, %", f"{label}: tool calls"]
    note = (
        "" if report.plan.curve else "\n\nWith `--curve` the libraries between the first and the last are measured too."
    )
    return f"## Learning curve{_marked(report.plan)}\n\n{table(head, rows)}{note}"


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
        f"seed {plan.seed}",
        *(f"{model}: {sampling_text(plan, model)}" for model in plan.models),
        *([f"agent: at most {plan.max_iters} steps"] if plan.mode == "agent" else []),
        f"the reference code: {paper.REFERENCE}",
        report.differs,
    ]
    text = "## Settings\n\n" + "\n".join(f"- {line}" for line in lines)
    return text + (f"\n\nThe estimate, before it began:\n\n```\n{report.expected}\n```" if report.expected else "")


def _libraries(report: Report) -> str:
    found = []
    for arm, entries in report.libraries.items():
        lines = "\n".join(entries) or "(nothing)"
        note = f"\n\n{_REPEATS}" if report.plan.offline and arm == "written" else ""
        found.append(f"## What was learned: {ARMS[arm]}{_marked(report.plan)}{note}\n\n```\n{lines}\n```")
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
