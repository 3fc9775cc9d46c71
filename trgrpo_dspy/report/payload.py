"""What the report's script shows on demand: groups of attempts and libraries, as one block of plain JSON data.

Guarantees: the block keeps to its budget of bytes (the longest texts are cut in their middles, and say so); equal texts
are kept once; nothing in it is invisible.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from jinja2.utils import htmlsafe_json_dumps

from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.entries import as_written
from trgrpo_dspy.program.rollout import Rollout

from .records import Group, Measured, Step, by_example
from .text import visible

if TYPE_CHECKING:
    from .history import RunHistory

__all__ = ["payload"]

_SHORTEST = 200
"""Bytes that every text may have, whatever the budget."""


def payload(history: RunHistory, budget: int) -> dict[str, Any]:
    """Groups, measurements and libraries as JSON data of at most so many bytes; a text is its place in `texts`."""
    texts = _Texts()
    groups = [group for step in history.steps for group in _groups(step, texts)]
    for step, measured in sorted(history.measured.items()):
        groups += _measured(history, step, measured, texts)
    libraries = {
        str(step): [
            {
                "id": entry.id,
                "text": texts.add(as_written(entry.text)),
                "targets": visible(", ".join(entry.targets)),
                "pinned": entry.pinned,
            }
            for entry in library
        ]
        for step, library in history.libraries.items()
    }
    left = budget - len(json.dumps([groups, libraries], separators=(",", ":")))
    return {"groups": groups, "libraries": libraries, "texts": texts.fitted(left)}


class _Texts:
    """Texts, each kept once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {"": 0}

    def add(self, text: str) -> int:
        """The text's number."""
        return self._numbers.setdefault(visible(text), len(self._numbers))

    def fitted(self, budget: int) -> list[str]:
        """All texts in order, the longest cut so that they fit together."""
        texts = list(self._numbers)
        sizes = [len(htmlsafe_json_dumps(text, ensure_ascii=False).encode()) for text in texts]
        cap = _cap(sizes, budget)
        return [t if size <= cap else _cut(t, int(cap * len(t) / size)) for t, size in zip(texts, sizes, strict=True)]


def _cap(sizes: Iterable[int], budget: int) -> int:
    """The length to which texts are cut: the largest one at which they fit together."""
    ordered, left = sorted(sizes), budget
    for i, size in enumerate(ordered):
        if size * (len(ordered) - i) > left:
            return max(_SHORTEST, left // (len(ordered) - i))
        left -= size
    return max(ordered, default=0)


def _cut(text: str, length: int) -> str:
    note = f"\n[... {len(text) - length:,} characters are left out here; events.jsonl holds the whole text ...]\n"
    half = max(0, (length - len(note)) // 2)
    return text[:half] + note + text[len(text) - half :]


def _groups(step: Step, texts: _Texts) -> Iterator[dict[str, Any]]:
    """The groups of a step; of those that were compared together, all but the first refer to it."""
    first: dict[str, str] = {}
    for group in step.groups:
        if group.attempts:
            comparison = group.compared.comparison if group.compared is not None else ""
            link = f"g-{group.step}-{group.example}"
            leads = first.setdefault(comparison, link) == link
            yield {
                **_shown(
                    link, f"Step {group.step}, training example {group.example}", texts, group.task, group.expected
                ),
                "comparison": texts.add(comparison if leads else ""),
                "with": "" if leads or not comparison else first[comparison],
                **_learned(step, group, texts),
            }


def _shown(link: str, title: str, texts: _Texts, task: str, expected: str) -> dict[str, Any]:
    return {"link": link, "title": title, "task": texts.add(task), "expected": texts.add(expected)}


def _learned(step: Step, group: Group, texts: _Texts) -> dict[str, Any]:
    compared = group.compared
    applied = [(a.edit, a.after or a.before) for a in step.applied if group.example in a.edit.sources]
    refused = [r for r in step.refused if group.example in r.edit.sources]
    return {
        "teaches": visible(group.teaches),
        "proposed": [_edit(e, texts) for e in (compared.edits if compared is not None else ())],
        "applied": [_edit(edit, texts, entry.id if entry is not None else "") for edit, entry in applied],
        "refused": [{**_edit(r.edit, texts), "reason": texts.add(r.reason)} for r in refused],
        "lost": [texts.add(reason) for reason in (compared.lost if compared is not None else ())],
        "attempts": _attempts(group.attempts, compared.summaries if compared is not None else (), texts),
    }


def _measured(history: RunHistory, step: int, measured: Measured, texts: _Texts) -> Iterator[dict[str, Any]]:
    tasks = history.started.valset
    what = f"Evaluation of program {step + 1}"
    if history.started.run == "compile":
        what = f"Validation of {f'step {step}' if step else 'the input'}"
    for example, attempts in by_example(measured.attempts).items():
        task, expected = tasks[example] if example < len(tasks) else ("", "")
        shown = _shown(f"v-{step}-{example}", f"{what}, example {example}", texts, task, expected)
        yield {**shown, "attempts": _attempts(attempts, (), texts)}


def _attempts(attempts: Sequence[Rollout], summaries: Sequence[str], texts: _Texts) -> list[dict[str, Any]]:
    """The attempts; summaries are of the usable ones, in order."""
    waiting = iter(summaries)
    return [
        {
            "attempt": r.attempt,
            "outcome": r.outcome.value,
            "score": r.score,
            **{name: texts.add(getattr(r, name)) for name in ("answer", "feedback", "transcript", "error")},
            "summary": texts.add(next(waiting, "") if r.score is not None or r.outcome is Outcome.LABEL_FREE else ""),
            "shown": texts.add(" ".join(r.shown)),
            "calls": r.lm_calls,
            "tools": r.tool_calls,
            "tokens": r.prompt_tokens + r.completion_tokens,
            "cost": r.cost,
            "seconds": round(r.seconds, 2),
        }
        for r in attempts
    ]


def _edit(edit: Edit, texts: _Texts, id: str = "") -> dict[str, Any]:
    return {
        "operation": visible(edit.operation),
        "id": visible(id or edit.id),
        "text": texts.add(as_written(edit.text)),
        "targets": visible(", ".join(edit.targets)),
    }
