"""The main table of the article: every program on every data set, the paper's figures and gains beside, and the cost.

One table holds as many reports as there are (direct and agent, or several families of puzzles). `to_csv` has every
figure, `to_markdown` and `to_latex` what an article shows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from trgrpo_dspy.engine.journal.files import write_atomically

from . import paper
from .plan import arm_name, base
from .records import OFFLINE, Cell, Report, learning_of
from .text import dollars, escaped, number, percent, table, without_empty

__all__ = ["Row", "rows_of", "to_csv", "to_latex", "to_markdown", "write"]

_HEAD = ["setting", "program", "data set", "score, % [95% interval]", "gain [95% interval]", "paper, %", "paper: gain",
         "tool calls", "learning: tokens, M in + out", "learning, $", "paper: learning"]  # fmt: skip
_SCORES = ("mean", "low", "high", "gain", "gain_low", "gain_high", "detectable", "pass_at_k")
"""Fractions in a cell, percent in a row."""


@dataclass(frozen=True)
class Row:
    """One program on one data set. Scores and gains are in percent."""

    setting: str
    """"direct", "agent" or the family of puzzles."""
    program: str
    data_set: str
    model: str
    k: int | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    detectable: float | None = None
    pass_at_k: float | None = None
    paper: float | None = None
    """The paper's figure for the mean."""
    paper_gain: float | None = None
    failed: float | None = None
    """Attempts in which the program itself failed, which score 0."""
    tool_calls: float | None = None
    tool_difference: float | None = None
    tool_low: float | None = None
    tool_high: float | None = None
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    cost: float | None = None
    """US dollars of an attempt."""
    learning_prompt_tokens: float | None = None
    learning_completion_tokens: float | None = None
    learning_cost: float | None = None
    paper_prompt_tokens: float | None = None
    """Of the paper's learning."""
    paper_completion_tokens: float | None = None
    paper_cost: float | None = None
    """US dollars of the paper's learning, or of the fine-tune."""
    notice: str = ""
    """What must be said with the row: built-in text model, partial."""


def rows_of(report: Report) -> list[Row]:
    """The rows of a report, in the order of its tables, the paper's figures of other models after them."""
    plan, measure = report.plan, report.measures[0]
    rows = []
    for name in report.titles:
        cells = {cell.arm: cell for cell in report.cells if cell.data_set == name}
        rows += [_row(report, arm, name, cells.get(arm)) for arm in plan.in_tables]
        for label, known in paper.others(plan.task, name).items():
            if plan.mode == "agent":
                took = _published(paper.learning(plan.task, plan.mode, label))
                rows.append(Row(plan.mode, f"paper only: {label}", name, "", paper=known[measure], **took))
    return rows


def _row(report: Report, arm: str, name: str, cell: Cell | None) -> Row:
    plan, known = report.plan, (report.plan.task, report.plan.mode, base(arm), name, report.measures[0])
    found: dict[str, float | None] = {}
    if cell is not None:
        scores = {key: getattr(cell, key if "gain" not in key else key.replace("gain", "difference"))
                  for key in _SCORES}  # fmt: skip
        found = {key: None if value is None else 100 * value for key, value in scores.items()}
        found |= {key: getattr(cell, key) for key in ("prompt_tokens", "completion_tokens", "cost")}
        found["tool_calls"] = cell.tool_calls if plan.uses_tools else None
        found["failed"] = sum(number for _, number in cell.failures)
        if (fewer := cell.tool_difference) is not None and plan.uses_tools:
            found |= {"tool_difference": fewer.value, "tool_low": fewer.low, "tool_high": fewer.high}
    if (took := learning_of(report, arm)) is not None:
        found |= {"learning_prompt_tokens": took.prompt_tokens, "learning_completion_tokens": took.completion_tokens,
                  "learning_cost": took.cost}  # fmt: skip
    found |= _published(paper.learning(plan.task, plan.mode, base(arm)))
    said = [OFFLINE] if plan.offline else []
    return Row(
        plan.setting, arm_name(arm), plan.label(name), plan.model, cell.k if cell else None,
        paper=paper.published(*known), paper_gain=paper.gain(*known),
        notice=" ".join([*said, f"PARTIAL: {report.partial}" if report.partial else ""]).strip(), **found,
    )  # fmt: skip


def _published(took: paper.Learning | None) -> dict[str, float | None]:
    return {f"paper_{key}": value for key, value in asdict(took).items()} if took else {}


def _shown(row: Row) -> list[str]:
    tokens = [row.learning_prompt_tokens, row.learning_completion_tokens]
    theirs = "-" if row.paper_cost is None else f"${row.paper_cost:,.0f}"
    if row.paper_prompt_tokens is not None:
        theirs = f"{_millions(row.paper_prompt_tokens, row.paper_completion_tokens)}, {theirs}"
    return [
        row.setting, row.program, row.data_set, percent(row.mean, row.low, row.high),
        percent(row.gain, row.gain_low, row.gain_high, sign="+"), percent(row.paper), percent(row.paper_gain, sign="+"),
        "-" if row.tool_calls is None else number(row.tool_calls, 1),
        "-" if tokens == [None, None] else _millions(*tokens),
        "-" if row.learning_cost is None and tokens == [None, None] else dollars(row.learning_cost), theirs,
    ]  # fmt: skip


def _millions(*tokens: float | None) -> str:
    return " + ".join("?" if t is None else f"{t / 1e6:.3g}" for t in tokens)


def to_markdown(rows: Iterable[Row]) -> str:
    """The table in Markdown, and what the paper's learning took."""
    rows = list(rows)
    shown = table(*without_empty(_HEAD, [_shown(row) for row in rows]))
    if all(row.paper is None for row in rows):
        return shown
    note = f"Paper: {paper.SOURCE}, {paper.MODEL}; its learning: {paper.LEARNING}. Its fine-tunes: {paper.FINE_TUNED}."
    return f"{shown}\n\n{note}"


def to_csv(rows: Iterable[Row]) -> str:
    """Every figure, a line a program and data set; what is not known is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in asdict(row).items()} for row in rows)
    return text.getvalue()


def to_latex(rows: Sequence[Row]) -> str:
    """A `tabular` of the package `booktabs`; its first lines are comments that say what must be known."""
    lines = [f"% {notice}" for notice in dict.fromkeys(row.notice for row in rows) if notice]
    head, cells = without_empty(_HEAD, [_shown(row) for row in rows])
    lines += ["% needs \\usepackage{booktabs}", f"\\begin{{tabular}}{{lll{'r' * (len(head) - 3)}}}", "\\toprule"]
    lines += [" & ".join(map(escaped, head)) + " \\\\", "\\midrule"]
    before = ""
    for row, shown in zip(rows, cells, strict=True):
        if before and before != row.setting:
            lines.append("\\midrule")
        before = row.setting
        lines.append(" & ".join("--" if cell == "-" else escaped(cell) for cell in shown) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def write(out: Path, reports: Iterable[Report]) -> None:
    """Write `table.csv` and `table.tex` into a directory."""
    rows = [row for report in reports for row in rows_of(report)]
    write_atomically(out / "table.csv", to_csv(rows))
    write_atomically(out / "table.tex", to_latex(rows))
