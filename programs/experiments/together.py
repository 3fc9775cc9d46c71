"""Experiments that belong in one table (direct and agent, several families): each in a directory of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from trgrpo_dspy import JournalError
from trgrpo_dspy.engine.journal.files import write_atomically

from . import article
from .plan import Limits, Plan
from .records import OFFLINE, Report
from .run import run
from .tables import spent_in_all

__all__ = ["run_together"]


def run_together(
    plans: Mapping[str, Plan], limits: Limits, out: Path, say: Callable[[str], object] = print
) -> list[Report]:
    """Run experiments one after the other and write their common table, after each of them.

    `--max-cost` is for all of them; each is estimated when its turn comes.

    Args:
        plans: The experiments; the names are their directories.
        limits: What may be different when they go on.
        out: Directory of the common table.
        say: Where a line on what goes on is told.

    Returns:
        The reports so far; it ends with the first partial one.

    Raises:
        JournalError: The directory holds a single experiment; and what `run` raises.
    """
    if (out / "plan.json").exists():
        raise JournalError(f"--out {out} holds a single experiment; give another --out")
    reports: list[Report] = []
    for name, plan in plans.items():
        say(f"== {name} ==")
        left = limits.max_cost - sum(spent_in_all(report) or 0.0 for report in reports)
        if left <= 0:
            reports[-1].partial = f"--max-cost {limits.max_cost:g} is reached before {name}; raise it"
            break
        reports.append(run(plan, replace(limits, max_cost=left), out / name, say))
        _write(out, plans, reports)
        if reports[-1].partial:
            break
    _write(out, plans, reports)
    return reports


def _write(out: Path, plans: Mapping[str, Plan], reports: list[Report]) -> None:
    article.write(out, reports)
    rows = [row for report in reports for row in article.rows_of(report)]
    parts = [f"# {', '.join(plans)}: one table"]
    if reports[0].plan.offline:
        parts.append(f"**{OFFLINE}**")
    missing = list(plans)[len(reports) :]
    if why := reports[-1].partial or ("it is under way" if missing else ""):
        parts.append(f"**PARTIAL: {why}.** Run the same command again and it goes on.")
    each = " ".join(f"[{name}]({name}/report.md)" for name in list(plans)[: len(reports)])
    parts += [article.to_markdown(rows), f"The reports: {each}."]
    write_atomically(out / "report.md", "\n\n".join(parts) + "\n")
