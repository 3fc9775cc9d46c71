"""A run, an entry's history and the state of a run that goes on, as tables of text."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Group as Stack
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from trgrpo_dspy.library import Experience, ExperienceLibrary
from trgrpo_dspy.library.entries import as_written
from trgrpo_dspy.meter import Spend, total_spend
from trgrpo_dspy.report.entries import EntryHistory, Moment
from trgrpo_dspy.report.history import RunHistory
from trgrpo_dspy.report.records import Group, Measured, Step

from .console import column_table, experiences, library_table, printable

__all__ = ["NOTICE", "entry_data", "entry_view", "run_data", "run_view", "spend_text", "watch_view"]

NOTICE = (
    "Figures of the built-in offline model, which is no large language model: they show that the machinery works, not "
    "what a real model would reach."
)
_STEPS = 12
"""Steps that the live view shows."""
_BAR = 60
"""Characters of its bar."""
_EDITS = 5
"""Edits that the live view shows."""
_GROUPS = 3
"""Groups that the history of an entry shows, unless all are asked for."""


def run_view(run: RunHistory, most: int | None = None) -> Iterator[RenderableType]:
    """A run: its verdict, steps, library (of `most` entries) and spend."""
    if run.started.run == "compile":
        yield run.ended.verdict if run.ended is not None else _state(run)
        yield ""
        yield _step_table(run)
        if run.ended is not None:
            yield "* returned"
        yield ""
        yield f"{experiences(len(run.library))}, {run.library.tokens:,} tokens"
        if run.library.entries:
            yield library_table(ExperienceLibrary(run.library.entries[:most], run.library.next_id))
        if most and len(run.library) > most:
            yield f"... and {len(run.library) - most} more: trgrpo show {run.log_dir}"
    else:
        yield f"{run.started.run}: {run.ended.verdict if run.ended is not None else _state(run)}"
    yield ""
    if run.ended is not None:
        yield f"spent: {spend_text(run.total)}"
    yield from (
        f"{f.count} x {f.kind}{' (unscored)' if f.unscored else ''}; first: {f.first or '-'} ({f.where})"
        for f in run.failures
    )
    yield from (f"warning: {text}" for text in (run.ended.warnings if run.ended is not None else ()))
    if run.offline:
        yield NOTICE


def run_data(run: RunHistory) -> dict[str, Any]:
    """A run for a script."""
    ended = run.ended
    return {
        "run": str(run.log_dir),
        "kind": run.started.run,
        "stop_reason": ended.stop_reason if ended is not None else None,
        "verdict": ended.verdict if ended is not None else None,
        "improved": ended.improved if ended is not None else None,
        "gain": ended.gain if ended is not None else None,
        "interval": ended.interval if ended is not None else None,
        "step": ended.step if ended is not None else None,
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


def spend_text(spend: Spend) -> str:
    """Calls, tokens and cost."""
    cost = "cost unknown" if spend.cost is None else f"${spend.cost:.2f}" if spend.cost >= 1 else f"${spend.cost:.4f}"
    return (
        f"{spend.calls:,} LM calls ({spend.failed} failed, {spend.retries} retries), {spend.prompt_tokens:,} prompt "
        f"and {spend.completion_tokens:,} completion tokens, {cost}"
    )


def _state(run: RunHistory) -> str:
    idle = time.time() - (run.log_dir / "events.jsonl").stat().st_mtime
    quiet = f"; nothing happened for {idle:,.0f} s: if its process is gone, `trgrpo resume {run.log_dir}`"
    return "not over yet" + (quiet if idle > 60 else "")


def _step_table(run: RunHistory, last: int | None = None) -> Table:
    rows = [["input", "", "", "", "", "", _measured(run.measured.get(0)) + _returned(run, 0)]]
    for step in run.steps[-last:] if last else run.steps:
        ended = step.ended
        teaching = sum(1 for group in step.groups if group.teaches)
        rows.append(
            [
                f"step {step.step}",
                _mean(ended.train_mean if ended is not None else None),
                f"{teaching} of {len(step.groups)}",
                _edits(step),
                str(len(step.refused)) if ended is not None else "",
                str(len(ended.library)) if ended is not None else "",
                _measured(run.measured.get(step.step)) + _returned(run, step.step),
            ]
        )
    return column_table(["", "train", "groups teach", "edits", "refused", "entries", "validation"], rows)


def _returned(run: RunHistory, step: int) -> str:
    return " *" if run.ended is not None and run.ended.step == step else ""


def _mean(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _measured(found: Measured | None) -> str:
    if found is None or found.result is None:
        return f"{len(found.attempts)} attempts" if found is not None and found.attempts else "-"
    unscored = len(found.result.scores) - found.result.scored
    return _mean(found.result.mean) + (f" ({unscored} unscored)" if unscored else "")


def _edits(step: Step) -> str:
    counts = Counter(a.edit.operation for a in step.applied)
    signs = {"ADD": "+", "MODIFY": "~", "DELETE": "-"}
    return " ".join(f"{sign}{counts[name]}" for name, sign in signs.items() if counts[name]) or "none"


# -- one entry ---------------------------------------------------------------------------------------------------------


def entry_view(run: RunHistory, found: EntryHistory, *, everything: bool = False) -> Iterator[RenderableType]:
    """Why an entry exists: what happened to it, and the attempts and comparisons behind that."""
    state = "in" if found.returned else "not in"
    where = "the returned library" if run.ended is not None else "the newest library"
    yield f"[{found.id}] {as_written(found.entry.text)}"
    yield "; ".join([f"{state} {where}", *found.entry.notes()])
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
        yield ""
        yield from _group_view(group)
        if group.compared is not None and (said := group.compared.comparison):
            together = "together with the group above" if said == before else f": {said}"
            yield f"compared ({group.teaches}){' ' if said == before else ''}{together}"
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
    if moment.kind == "checked":
        against = f", wrong on {', '.join(map(str, moment.against))}" if moment.against else ""
        text = f"right on {', '.join(map(str, moment.support)) or 'none'}{against}"
    elif moment.kind == "changed" and moment.before is not None and moment.after is not None:
        text = f"- {_text(moment.before)}\n+ {_text(moment.after)}" + (f"\n{examples}" if examples else "")
    elif moment.kind == "refused" and moment.edit is not None:
        text = f"{moment.edit.operation} {moment.edit.text}\nrefused: {moment.reason}"
    elif moment.kind == "proposed" and moment.edit is not None:
        text = f"{moment.edit.operation} {moment.edit.text}\n{examples}"
    else:
        entry = moment.after or moment.before
        text = "\n".join(filter(None, [_text(entry) if entry is not None else "", examples]))
    yield [str(moment.step), moment.kind, text]
    step = next((s for s in run.steps if s.step == moment.step), None)
    if moment.kind in ("added", "changed", "deleted") and step is not None and step.plan is not None:
        for name, came_to in step.plan.dispositions.items():
            if id in came_to.replace(",", " ").replace(".", " ").split():
                yield ["", "", f"{name} {_proposal(step, name)}: {came_to}"]


def _proposal(step: Step, name: str) -> str:
    number = int(name[1:]) if name[1:].isdigit() else 0
    proposals = step.plan.proposals if step.plan is not None else ()
    return f"'{as_written(proposals[number - 1].text)}'" if 0 < number <= len(proposals) else ""


def _text(entry: Experience) -> str:
    return as_written(entry.text)


def _group_view(group: Group) -> Iterator[RenderableType]:
    yield f"Step {group.step}, example {group.example}: {group.task}"
    if group.expected:
        yield f"expected: {group.expected}"
    rows = [[str(r.attempt + 1), _mean(r.score), r.answer or r.error, r.feedback] for r in group.attempts]
    yield column_table(["attempt", "score", "answer", "feedback"], rows, wide=(2, 3))


# -- while it goes on --------------------------------------------------------------------------------------------------


def watch_view(run: RunHistory) -> RenderableType:
    """The state of a run in one screen."""
    done, total = len(run.attempts), max(run.started.attempts, len(run.attempts), 1)
    outcomes = Counter(r.outcome.value for r in run.attempts)
    spent = total_spend(run.spend) if run.ended is not None else None
    calls = spend_text(spent) if spent is not None else f"{sum(r.lm_calls for r in run.attempts):,} calls of attempts"
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
    parts.append(Text(printable(run.ended.verdict if run.ended is not None else _state(run)), style="bold"))
    return Stack(*parts)


def _news(run: RunHistory) -> list[str]:
    """The newest edits, those that were refused too."""
    found: list[str] = []
    for step in run.steps:
        for applied in step.applied:
            if applied.edit.operation != "KEEP" and (entry := applied.after or applied.before) is not None:
                found.append(f"step {step.step} {applied.edit.operation} [{entry.id}] {_text(entry)}")
        found += [f"step {step.step} refused {r.edit.operation} {r.edit.text}: {r.reason}" for r in step.refused]
    return found[-_EDITS:]
