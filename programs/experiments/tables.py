"""What an experiment found, as Markdown, with the paper's figures beside."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean, stdev

from . import paper
from .article import rows_of, to_markdown
from .models import sampling_text
from .pictures import PICTURES
from .plan import EVALUATION_TEMPERATURE, ROLLOUT_TEMPERATURE, Plan, arm_name, base
from .records import OFFLINE, Band, Cell, CurvePoint, Report, SpendRow, learning_of
from .text import counted, dollars, number, percent, table, without_empty

__all__ = ["markdown", "scores", "spent_in_all"]

_MARK = "n-gram model, no LLM: means nothing"
_REPEATS = "The built-in text model can't write experiences: these are sentences it was shown, repeated."


def markdown(report: Report) -> str:
    """The whole report as text."""
    plan = report.plan
    what = {"math": "Mathematics", "web": "Web search", "gym": f"Puzzles, {plan.family}"}[plan.task] + (
        f", {plan.mode}" if plan.task == "math" else ""
    )
    parts = [f"# {what}: {'ablations' if plan.command == 'ablations' else 'Training-Free GRPO'}"]
    if plan.offline:
        parts.append(f"**{OFFLINE}**")
    if report.partial:
        parts.append(f"**PARTIAL: {report.partial}.** Run the same command again and it goes on.")
    parts += [
        scores(report),
        _main_table(report),
        _learnings(report),
        _pictures(report),
        _spend(report),
        _curve(report),
        _settings(report),
        _libraries(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def scores(report: Report) -> str:
    """The tables of scores, one a data set."""
    return "\n\n".join(_scores_of(report, name, title) for name, title in report.titles.items())


def _scores_of(report: Report, name: str, title: str) -> str:
    plan, (first, *more) = report.plan, report.measures
    mean, any_of = (f"Mean@{plan.k}", f"Pass@{plan.k}") if plan.task != "web" else ("pass@1", f"pass@{plan.k}")
    mean = "Mean@1" if mean == any_of else mean  # each column has a name of its own
    head = ["program", f"{mean}, % [95% interval]", f"paper: {first}, {paper.MODEL}", "difference [95% interval]",
            "paper: difference", f"{any_of}, %", *(f"paper: {m}, {paper.MODEL}" for m in more), "tool calls",
            "tool calls: difference [95% interval]", "tokens in + out", "cost, $"]  # fmt: skip
    cells = {cell.arm: cell for cell in report.cells if cell.data_set == name}
    rows = []
    for arm in plan.in_tables:
        figures = [paper.published(plan.task, plan.mode, base(arm), name, m) for m in report.measures]
        gain = paper.gain(plan.task, plan.mode, base(arm), name, first)
        rows.append([arm_name(arm), *_row(cells.get(arm), gain, *figures, tools=plan.uses_tools)])
    for label, known in paper.others(plan.task, name).items():
        figures = [known.get(m) for m in report.measures]
        rows.append([f"paper only: {label}", *_row(None, None, *figures)])
    return "\n\n".join(
        [
            f"## {title}{_marked(plan)}",
            table(*without_empty(head, rows)),
            " ".join(_notes(report, name, cells, any_of)),
        ]
    )


def _notes(report: Report, name: str, cells: dict[str, Cell], any_of: str) -> list[str]:
    """What must be known to read a data set's table."""
    plan = report.plan
    notes = [f"{'Tool calls, tokens' if plan.uses_tools else 'Tokens'} and dollars are per attempt at a problem."]
    if plan.task != "gym":
        notes.append(f"Paper: {paper.SOURCE}.")
    if plan.mode == "agent":
        notes.append("The call of `finish` that ends an attempt is counted as a tool call.")
    if plan.task == "web":
        whole = [paper.published("web", "agent", arm, "WebWalkerQA", "pass@1") for arm in ("input", "full")]
        notes.append("Tokens and dollars include the judge's.")
        if name != "WebWalkerQA":
            notes.append(f"On all of WebWalkerQA the paper has pass@1 {whole[0]}, with Training-Free GRPO {whole[1]}.")
    notes += [
        f"{arm_name(arm)}: nothing was learned, so its program is the input program and any difference is chance."
        for arm in cells
        if report.libraries.get(arm) == []
    ]
    for cell in cells.values():
        notes += _notes_of(cell, any_of, paper.gain(plan.task, plan.mode, base(cell.arm), name, report.measures[0]))
    if any(cell.reliable is False for cell in cells.values()):
        notes.append("Fewer than 30 problems: the intervals of the differences are not reliable.")
    if unscored := sum(cell.unscored for cell in cells.values()):
        notes.append(f"{unscored} attempts have no score (outages, no verdict) and count in no mean.")
    return notes


def _notes_of(cell: Cell, any_of: str, gain: float | None) -> Iterator[str]:
    """What must be known to read a program's row; `gain` is the published one."""
    name = arm_name(cell.arm)
    if cell.partial:
        yield f"{name}: ended after {cell.problems} problems."
    if cell.detectable is not None:
        yield _detectable(cell, gain)
    if cell.failures:
        failed, kinds = sum(n for _, n in cell.failures), ", ".join(f"{kind} {n}" for kind, n in cell.failures)
        yield f"{name}: in {failed} attempts the program itself failed, which scores 0 ({kinds})."
    if cell.pass_problems < cell.problems:
        yield (
            f"{name}: {any_of} is over the {cell.pass_problems} of {cell.problems} problems whose every attempt has a "
            "score."
        )


def _marked(plan: Plan) -> str:
    """What follows a heading where the built-in text model answered."""
    return f" ({_MARK})" if plan.offline else ""


def _detectable(cell: Cell, gain: float | None) -> str:
    """Which difference would have been found, and whether the paper's is one."""
    points = 100 * (cell.detectable or 0.0)
    if points > 100:
        return f"{arm_name(cell.arm)}: these problems are too few to find any difference with 80% power."
    text = f"{arm_name(cell.arm)}: a true difference of {points:.1f} points is found with 80% power"
    if gain is None:
        return f"{text}."
    if abs(gain) < points:
        return f"{text}; a difference of the paper's size ({gain:+.1f}) could not be seen with these problems."
    return f"{text}; a difference of the paper's size ({gain:+.1f}) would be seen."


def _row(cell: Cell | None, gain: float | None, first: float | None, *more: float | None,
         tools: bool = False) -> list[str]:  # fmt: skip
    """The cells of a row after its name; what is not there is a dash."""
    figures = [percent(f) for f in (first, *more)]
    if cell is None or cell.tool_calls is None:  # nothing was attempted
        return ["-", figures[0], "-", percent(gain, sign="+"), "-", *figures[1:], "-", "-", "-", "-"]
    return [
        _share(cell.mean, cell.low, cell.high), figures[0],
        _share(cell.difference, cell.difference_low, cell.difference_high, sign="+"),
        percent(gain, sign="+"), _share(cell.pass_at_k), *figures[1:], number(cell.tool_calls, 1) if tools else "-",
        _band(cell.tool_difference if tools else None, sign="+"),
        f"{number(cell.prompt_tokens)} + {number(cell.completion_tokens)}", dollars(cell.cost, 4),
    ]  # fmt: skip


def _band(band: Band | None, *, sign: str = "") -> str:
    return "-" if band is None else percent(band.value, band.low, band.high, sign=sign)


def _main_table(report: Report) -> str:
    return f"## Main table{_marked(report.plan)}\n\n{to_markdown(rows_of(report))}"


def _pictures(report: Report) -> str:
    links = "\n\n".join(f"![{PICTURES[name]}]({name}.png)" for name in report.pictures)
    return f"## Pictures{_marked(report.plan)}\n\n{links}" if links else ""


def _learnings(report: Report) -> str:
    """How far apart the libraries of several learnings score."""
    if report.plan.learnings == 1:
        return ""
    rows = []
    for name in report.titles:
        cells = [c for c in report.cells if base(c.arm) == "full" and c.data_set == name and c.mean is not None]
        means, gains = [c.mean or 0.0 for c in cells], [c.difference for c in cells if c.difference is not None]
        spread = [_share(min(means)), _share(max(means))] if means else ["-", "-"]
        rows.append([
            report.plan.label(name), str(len(cells)), _share(fmean(means)) if means else "-",
            _share(stdev(means)) if len(means) > 1 else "-", *spread, _share(fmean(gains), sign="+") if gains else "-",
        ])  # fmt: skip
    head = ["data set", "learnings", "mean, %", "standard deviation, points", "lowest, %", "highest, %",
            "mean difference"]  # fmt: skip
    note = (
        "Each learning has a seed of its own, on the same problems. The standard deviation between them holds the "
        "noise of measuring as well. The intervals of the tables above are over problems, of one learning each."
    )
    return f"## Several learnings{_marked(report.plan)}\n\n{table(head, rows)}\n\n{note}"


def _spend(report: Report) -> str:
    if not report.spend:
        return ""
    names = ("calls", "failed", "cut", "prompt_tokens", "completion_tokens")
    learned = [row for arm in report.plan.in_tables if (row := learning_of(report, arm)) is not None]
    rows = [
        [arm_name(r.arm), r.stage, *(number(getattr(r, name)) for name in names), dollars(r.cost)]
        for r in (*report.spend, *learned)
    ]
    sums = [number(sum(getattr(r, name) for r in report.spend)) for name in names]
    rows.append(["all", "", *sums, dollars(spent_in_all(report))])
    head = ["program", "stage", "LM calls", "failed", "cut by length", "prompt tokens", "completion tokens", "cost, $"]
    told = table(head, rows)
    notes = [*map(_beside, learned), "The rows 'learning in all' are part of the sum already."]
    if report.plan.task != "gym":
        notes.insert(-1, f"The paper's learning: {paper.LEARNING}.")
    return f"## What it took{_marked(report.plan)}\n\n{told}\n\n{' '.join(notes)}"


def spent_in_all(report: Report) -> float | None:
    """US dollars of the experiment, its trial not counted; None is unknown."""
    costs = [r.cost for r in report.spend]
    return None if None in costs else sum(c or 0.0 for c in costs)


def _beside(row: SpendRow) -> str:
    return (
        f"{arm_name(row.arm)}: learning took {row.prompt_tokens:,} input and {row.completion_tokens:,} output tokens, "
        f"${dollars(row.cost)}."
    )


def _curve(report: Report) -> str:
    if not report.curve:
        return ""
    last = {point.arm: point.step for point in report.curve}
    start = CurvePoint("input", 0, 0, None, None, None, None, 0.0, 0, 0)
    rows = []
    for point in (start, *report.curve):
        at = None if point.step == last.get(point.arm, 0) else point.step
        held_out = [_held_out(report, name, point.arm, at) for name in report.titles]
        learned = (
            [
                _share(point.train_mean, point.train_low, point.train_high),
                _band(point.tools if report.plan.uses_tools else None),
                f"{100 * point.informative:.0f}%",
            ]
            if point.step
            else ["-"] * 3
        )
        rows.append([arm_name(point.arm), str(point.step), *learned, str(point.entries), str(point.library_tokens),
                     *(text for pair in held_out for text in pair)])  # fmt: skip
    head = [
        "program",
        "step",
        "train mean, % [95% interval]",
        "train: tool calls [95% interval]",
        "informative groups",
        "experiences",
        "library tokens",
    ]
    for name in report.titles:
        label = report.plan.label(name)
        head += [f"{label}: mean, %", f"{label}: tool calls"]
    note = (
        "" if report.plan.curve else "\n\nWith `--curve` the libraries between the first and the last are measured too."
    )
    return f"## Learning curve{_marked(report.plan)}\n\n{table(*without_empty(head, rows))}{note}"


def _held_out(report: Report, data_set: str, arm: str, step: int | None) -> tuple[str, str]:
    """Score and tool calls on problems that were not learned from; dashes where that was not measured."""
    cells = [c for c in (*report.cells, *report.along) if (c.data_set, c.arm, c.step) == (data_set, arm, step)]
    if not cells:
        return "-", "-"
    return _share(cells[0].mean), number(cells[0].tool_calls, 1) if report.plan.uses_tools else "-"


def _settings(report: Report) -> str:
    plan = report.plan
    model = "built-in n-gram model (no LLM)" if plan.offline else plan.model
    lines = [
        f"model {model}, reflection {plan.reflection_model or 'the same'}"
        + (f", judge {plan.judge or 'the same'}" if plan.task == "web" else ""),
        f"learning: {counted(plan.train, 'problem')}, {counted(plan.epochs, 'epoch')}, group size {plan.group_size}, "
        f"temperature {ROLLOUT_TEMPERATURE}; the library after the last step is measured, as in the paper",
        f"evaluation: {counted(plan.k, 'attempt')} at each problem, temperature {EVALUATION_TEMPERATURE}",
        f"seed {plan.seed}",
        *(f"{model}: {sampling_text(plan, model)}" for model in plan.models),
        *([f"agent: at most {plan.max_iters} steps"] if plan.mode == "agent" else []),
        *([f"the reference code: {paper.REFERENCE}"] if plan.task != "gym" else []),
        report.differs,
    ]
    text = "## Settings\n\n" + "\n".join(f"- {line}" for line in lines)
    return text + (f"\n\nThe estimate, before it began:\n\n```\n{report.expected}\n```" if report.expected else "")


def _libraries(report: Report) -> str:
    found = []
    for arm, entries in report.libraries.items():
        lines = "\n".join(entries) or "(nothing)"
        note = f"\n\n{_REPEATS}" if report.plan.offline and arm == "written" else ""
        found.append(f"## What was learned: {arm_name(arm)}{_marked(report.plan)}{note}\n\n```\n{lines}\n```")
        found += report.warnings.get(arm, [])
    return "\n\n".join(found)


def _share(value: float | None, low: float | None = None, high: float | None = None, *, sign: str = "") -> str:
    """A fraction as percent."""
    return percent(*(None if v is None else 100 * v for v in (value, low, high)), sign=sign)
