"""A run, an entry's history and the state of a run that goes on, as tables of text."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trgrpo_dspy.library.entries import as_written
from trgrpo_dspy.meter.meter import Spend
from trgrpo_dspy.offline import NOTICE

from .console import column_table, experiences, library_table, printable

if TYPE_CHECKING:
    from trgrpo_dspy.report import EntryHistory, RunHistory
    from trgrpo_dspy.report.records import Group, Measured, Moment, Step

__all__ = ["entry_data", "entry_view", "label_offline", "run_data", "run_view", "watch_view"]

_STEPS = 12
"""Steps that the live view shows."""
_BAR = 60
"""Characters of its bar."""
_EDITS = 5
"""Edits that the live view shows."""
_GROUPS = 3
"""Groups that the history of an entry shows, unless all are asked for."""


def label_offline(offline: bool, say: Callable[[str], None]) -> None:
    """Say once, beside a command's figures, that they are the built-in model's."""
    if offline:
        say(NOTICE)


def run_view(run: RunHistory, most: int | None = None) -> Iterator[RenderableType]:
    """A run: its verdict, steps, library (of `most` entries) and spend."""
    if run.started.run == "compile":
        yield _verdict(run)
        yield ""
        yield _step_table(run)
        yield "* returned\n" if run.ended is not None else ""
        yield f"{experiences(len(run.library))}, {run.library.tokens:,} tokens"
        if run.library.entries:
            yield library_table(run.library.entries[:most])
        if most and len(run.library) > most:
            yield f"... and {len(run.library) - most} more: trgrpo show {run.log_dir}"
    else:
        yield f"{run.started.run}: {_verdict(run)}"
    yield ""
    if run.ended is not None:
        yield f"spent: {_spent(run.total)}"
    for f in run.failures:
        yield f"{f.count} x {f.kind}{' (unscored)' if f.unscored else ''}; first: {f.first or '-'} ({f.where})"
    for text in run.ended.warnings if run.ended is not None else ():
        yield f"warning: {text}"
    if run.offline:
        yield NOTICE


def run_data(run: RunHistory) -> dict[str, Any]:
    """A run for a script."""
    ended = run.ended
    names = ("stop_reason", "verdict", "improved", "gain", "interval", "step")
    return {
        "run": str(run.log_dir),
        "kind": run.started.run,
        **{name: getattr(ended, name, None) for name in names},
        "offline": run.offline,
        "models": run.models,
        "validation": {step: m.result.mean for step, m in run.measured.items() if m.result is not None},
        "steps": [
            {"step": s.step, "train": s.ended.train_mean, "entries": len(s.ended.library), "refused": len(s.refused)}
            for s in run.steps
            if s.ended is not None
        ],
        "experiences": [dataclasses.asdict(entry) for entry in run.library],
        "tokens": run.library.tokens,
        "spend": dataclasses.asdict(run.total) if ended is not None else None,
        "warnings": ended.warnings if ended is not None else [],
    }


def _spent(spend: Spend) -> str:
    """Calls, tokens and cost."""
    cost = "cost unknown" if spend.cost is None else f"${spend.cost:.2f}" if spend.cost >= 1 else f"${spend.cost:.4f}"
    return (
        f"{spend.calls:,} LM calls ({spend.failed} failed, {spend.retries} retries), {spend.prompt_tokens:,} prompt "
        f"and {spend.completion_tokens:,} completion tokens, {cost}"
    )


def _verdict(run: RunHistory) -> str:
    """What the run came to, or that it is not over."""
    if run.ended is not None:
        return run.ended.verdict
    idle = time.time() - (run.log_dir / "events.jsonl").stat().st_mtime
    quiet = f"; nothing happened for {idle:,.0f} s: if its process is gone, `trgrpo resume {run.log_dir}`"
    return "not over yet" + (quiet if idle > 60 else "")


def _step_table(run: RunHistory, last: int = 0) -> Table:
    rows = [["input", "", "", "", "", "", _measured(run, 0)]]
    for step in run.steps[-last:]:
        ended = step.ended
        teaching = sum(1 for group in step.groups if group.teaches)
        after = ["", ""] if ended is None else [str(len(step.refused)), str(len(ended.library))]
        train = _mean(ended.train_mean if ended is not None else None)
        teach = f"{teaching} of {len(step.groups)}"
        rows.append([f"step {step.step}", train, teach, _edits(step), *after, _measured(run, step.step)])
    return column_table(["", "train", "groups teach", "edits", "refused", "entries", "validation"], rows)


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _measured(run: RunHistory, step: int) -> str:
    """The validation score of a step's library, with a star at the one that was returned."""
    found, star = run.measured.get(step), " *" if run.ended is not None and run.ended.step == step else ""
    return (_score(found) if found is not None else "-") + star


def _score(found: Measured) -> str:
    if found.result is None:
        return f"{len(found.attempts)} attempts" if found.attempts else "-"
    unscored = len(found.result.scores) - found.result.scored
    return _mean(found.result.mean) + (f" ({unscored} unscored)" if unscored else "")


def _edits(step: Step) -> str:
    counts = Counter(a.edit.operation for a in step.applied)
    signs = {"ADD": "+", "MODIFY": "~", "DELETE": "-"}
    return " ".join(f"{sign}{counts[name]}" for name, sign in signs.items() if counts[name]) or "none"


# -- one entry ---------------------------------------------------------------------------------------------------------


def entry_view(run: RunHistory, found: EntryHistory, *, everything: bool = False) -> Iterator[RenderableType]:
    """Why an entry exists: what happened to it, and the attempts and comparisons behind that."""
    where = "the returned library" if run.ended is not None else "the newest library"
    yield f"[{found.id}] {as_written(found.entry.text)}"
    yield "; ".join([f"{'in' if found.returned else 'not in'} {where}", *found.entry.notes()])
    yield ""
    moments = [row for moment in found.moments for row in _moment(run, moment, found.id)]
    yield column_table(["step", "what", "why"], moments, wide=(2,))
    if (ended := run.ended) is not None and any(moment.step > ended.step for moment in found.moments):
        yield f"The library of step {ended.step} was returned: what later steps did is not in it."
    if (effect := found.effect).attempts_after:
        yield ""
        yield (
            f"Attempts at its examples scored {_mean(effect.before)} without it ({effect.attempts_before}) and "
            f"{_mean(effect.after)} with it ({effect.attempts_after}); other entries came with it."
        )
    groups = found.groups if everything else found.groups[:_GROUPS]
    before = ""
    for group in groups:
        yield from _group_view(group)
        if group.compared is not None and (said := group.compared.comparison):
            yield f"compared ({group.teaches})" + (" together with the group above" if said == before else f": {said}")
            before = said
    if len(found.groups) > len(groups):
        yield f"\n{len(found.groups) - len(groups)} more groups; --all shows them"
    if run.offline:
        yield f"\n{NOTICE}"


def entry_data(found: EntryHistory) -> dict[str, Any]:
    """The history of an entry for a script."""
    return dataclasses.asdict(found)


def _moment(run: RunHistory, moment: Moment, id: str) -> Iterator[list[str]]:
    examples = f"from examples {', '.join(map(str, moment.examples))}" if moment.examples else ""
    before, after = (as_written(entry.text) if entry else "" for entry in (moment.before, moment.after))
    proposed = f"{moment.edit.operation} {moment.edit.text}" if moment.edit is not None else ""
    against = f", wrong on {', '.join(map(str, moment.against))}" if moment.against else ""
    lines = {
        "checked": [f"right on {', '.join(map(str, moment.support)) or 'none'}{against}"],
        "changed": [f"- {before}", f"+ {after}", examples],
        "refused": [proposed, f"refused: {moment.reason}"],
        "proposed": [proposed, examples],
    }
    yield [str(moment.step), moment.kind, "\n".join(filter(None, lines.get(moment.kind, [after or before, examples])))]
    step = next((s for s in run.steps if s.step == moment.step), None)
    if moment.kind in ("added", "changed", "deleted") and step is not None and step.plan is not None:
        for name, came_to in step.plan.dispositions.items():
            if id in came_to.replace(",", " ").replace(".", " ").split():
                number = int(name[1:]) if name[1:].isdigit() else 0
                known = 0 < number <= len(step.plan.proposals)
                proposal = f"'{as_written(step.plan.proposals[number - 1].text)}'" if known else ""
                yield ["", "", f"{name} {proposal}: {came_to}"]


def _group_view(group: Group) -> Iterator[RenderableType]:
    yield f"\nStep {group.step}, example {group.example}: {group.task}"
    if group.expected:
        yield f"expected: {group.expected}"
    rows = [[str(r.attempt + 1), _mean(r.score), r.answer or r.error, r.feedback] for r in group.attempts]
    yield column_table(["attempt", "score", "answer", "feedback"], rows, wide=(2, 3))


# -- while it goes on --------------------------------------------------------------------------------------------------


def watch_view(run: RunHistory) -> RenderableType:
    """The state of a run in one screen."""
    done, total = len(run.attempts), max(run.started.attempts, len(run.attempts), 1)
    outcomes = Counter(r.outcome.value for r in run.attempts)
    calls = f"{sum(r.lm_calls for r in run.attempts):,} calls of attempts" if run.ended is None else _spent(run.total)
    parts: list[RenderableType] = [
        Text(printable(f"{run.started.run} {run.log_dir}  {', '.join(run.models)}")),
        Text("█" * (_BAR * done // total) + "░" * (_BAR - _BAR * done // total)),
        Text(f"{done:,} of {total:,} attempts; {', '.join(f'{n} {name}' for name, n in outcomes.items())}; {calls}"),
    ]
    if run.started.run == "compile":
        parts += [Text(""), _step_table(run, _STEPS), Text("")]
        parts += [Text(printable(text)) for text in _news(run)]
    parts += [Text(printable(f"! {notice.text}"), style="yellow") for notice in run.notices[-3:]]
    if run.offline:
        parts.append(Text("offline model, no LLM: figures show that the machinery works", style="dim"))
    parts.append(Text(printable(_verdict(run)), style="bold"))
    return Stack(*parts)


def _news(run: RunHistory) -> list[str]:
    """The newest edits, those that were refused too."""
    found: list[str] = []
    for step in run.steps:
        for applied in step.applied:
            if applied.edit.operation != "KEEP" and (entry := applied.after or applied.before) is not None:
                found.append(f"step {step.step} {applied.edit.operation} [{entry.id}] {as_written(entry.text)}")
        found += [f"step {step.step} refused {r.edit.operation} {r.edit.text}: {r.reason}" for r in step.refused]
    return found[-_EDITS:]
