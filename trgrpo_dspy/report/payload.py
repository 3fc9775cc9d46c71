"""What the report's script shows on demand: groups of attempts and libraries, as one block of plain JSON data.

Guarantees: the block keeps to its budget of bytes (the longest texts are cut in their middles, and say so); equal texts
are kept once; nothing in it is invisible.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2.utils import htmlsafe_json_dumps

from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.library import Edit, ExperienceLibrary
from trgrpo_dspy.library.entries import as_written
from trgrpo_dspy.program.rollout import Rollout

from .history import RunHistory
from .records import Group, Measured, Step, by_example
from .text import visible

__all__ = ["payload"]

_SHORTEST = 200
"""Bytes that every text may have, whatever the budget."""


def payload(history: RunHistory, budget: int) -> dict[str, Any]:
    """Groups, measurements and libraries as JSON data; a text is given by its place in `texts`.

    Args:
        history: The run.
        budget: Bytes of the JSON.
    """
    texts = _Texts()
    groups = [_group(step, group, texts) for step in history.steps for group in step.groups if group.attempts]
    kind = "validation" if history.started.run == "compile" else "evaluation"
    for step, measured in sorted(history.measured.items()):
        groups += _measured(kind, step, measured, history.started.valset, texts)
    libraries = {str(step): _library(library, texts) for step, library in history.libraries.items()}
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


def _group(step: Step, group: Group, texts: _Texts) -> dict[str, Any]:
    compared = group.compared
    lost = [] if compared is None else [texts.add(reason) for reason in compared.lost]
    return {
        "link": f"g-{group.step}-{group.example}",
        "title": f"Step {group.step}, training example {group.example}",
        "task": texts.add(group.task),
        "expected": texts.add(group.expected),
        "teaches": visible(group.teaches),
        "comparison": texts.add("" if compared is None else compared.comparison),
        "proposed": [_edit(e, texts) for e in (() if compared is None else compared.edits)],
        "applied": [_edit(a.edit, texts, _id(a)) for a in step.applied if group.example in a.edit.sources],
        "refused": [
            {**_edit(r.edit, texts), "reason": texts.add(r.reason)}
            for r in step.refused
            if group.example in r.edit.sources
        ],
        "lost": lost,
        "attempts": _attempts(group.attempts, () if compared is None else compared.summaries, texts),
    }


def _id(applied: Any) -> str:
    entry = applied.after or applied.before
    return entry.id if entry is not None else ""


def _measured(
    kind: str, step: int, measured: Measured, valset: Sequence[tuple[str, str]], texts: _Texts
) -> list[dict[str, Any]]:
    found = []
    library = f"program {step + 1}" if kind == "evaluation" else "the input" if not step else f"step {step}"
    for example, attempts in by_example(measured.attempts).items():
        task, expected = valset[example] if example < len(valset) else ("", "")
        found.append(
            {
                "link": f"v-{step}-{example}",
                "title": f"{kind.capitalize()} of {library}, example {example}",
                "task": texts.add(task),
                "expected": texts.add(expected),
                "attempts": _attempts(attempts, (), texts),
            }
        )
    return found


def _attempts(attempts: Sequence[Rollout], summaries: Sequence[str], texts: _Texts) -> list[dict[str, Any]]:
    """The attempts; summaries are of the usable ones, in order."""
    waiting = list(summaries)
    found = []
    for r in attempts:
        usable = r.score is not None or r.outcome is Outcome.LABEL_FREE
        found.append(
            {
                "attempt": r.attempt,
                "outcome": r.outcome.value,
                "score": r.score,
                "answer": texts.add(r.answer),
                "feedback": texts.add(r.feedback),
                "transcript": texts.add(r.transcript),
                "error": texts.add(r.error),
                "summary": texts.add(waiting.pop(0) if usable and waiting else ""),
                "shown": texts.add(" ".join(r.shown)),
                "calls": r.lm_calls,
                "tools": r.tool_calls,
                "tokens": r.prompt_tokens + r.completion_tokens,
                "cost": r.cost,
                "seconds": round(r.seconds, 2),
            }
        )
    return found


def _edit(edit: Edit, texts: _Texts, id: str = "") -> dict[str, Any]:
    return {
        "operation": visible(edit.operation),
        "id": visible(id or edit.id),
        "text": texts.add(as_written(edit.text)),
        "targets": visible(", ".join(edit.targets)),
    }


def _library(library: ExperienceLibrary, texts: _Texts) -> list[dict[str, Any]]:
    return [
        {
            "id": entry.id,
            "text": texts.add(as_written(entry.text)),
            "targets": visible(", ".join(entry.targets)),
            "pinned": entry.pinned,
        }
        for entry in library
    ]
