"""Summaries, comparisons and lessons: what this model writes when it is shown attempts at a task.

A reflection prompt is known by its output fields, as any reader would know what is asked. Lessons are sentences such
as "When the note mentions 'frost' or 'ice', choose crew 'north', not 'south'.", written from the words of the task and
from the answers the prompt shows.

Guarantees: pure functions of the prompt; a lesson keeps the prompt's bounds; no score or label is told that the prompt
does not give.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .advice import write_sentence
from .edits import consolidate, propose
from .notes import Attempt, Entry, majority, read_attempts, read_entries, read_fields
from .prompt import Prompt
from .text import content_words, phrases, root, tokens

__all__ = ["reflect"]

_CUES = 12
_SHORT = 6
_UNFIT = "'\"`"


def reflect(prompt: Prompt) -> dict[str, Any] | None:
    """The reply to a reflection prompt; None if the prompt is none."""
    outputs, inputs = set(prompt.layout.outputs), prompt.inputs
    if outputs == {"summary"} and {"task", "attempt"} <= set(inputs):
        return {"summary": _summary(inputs)}
    if outputs == {"comparison", "lessons"} and "attempts" in inputs:
        return _compare(inputs)
    if outputs == {"edits"} and "lessons" in inputs:
        return {"edits": propose(inputs)}
    if outputs == {"edits"} and "proposals" in inputs:
        return {"edits": consolidate(inputs)}
    return None


def _summary(inputs: dict[str, str]) -> str:
    """What the attempt answered, and where the prompt says it was right or wrong."""
    attempt, expected = inputs["attempt"], read_fields(inputs.get("expected", ""))
    told = read_fields(attempt) or read_fields(_unindented(attempt))
    said = {name: value for name, value in told.items() if value}
    names = [name for name in expected if name in said] or list(said)[-3:]
    words = ", ".join(f"'{w}'" for w in content_words(inputs["task"])[:5])
    lines = [f"The task mentions {words}." if words else "The task has no words to quote."]
    if names:
        lines.append("The attempt answered " + ", ".join(f"{n} '{_quote(said[n])}'" for n in names) + ".")
    elif attempt:
        lines.append(f"The attempt says: {_short(attempt, 25)}.")
    for name in (n for n in names if n in expected):
        right = said[name].casefold() == expected[name].casefold()
        lines.append(
            f"Its {name} is right." if right else f"Its {name} is wrong: '{_short(expected[name])}' was expected."
        )
    if reason := next((said[n] for n in said if n in ("reasoning", "rationale", "thought")), ""):
        lines.append(f"It reasoned: {_short(reason, 30)}")
    if "score" in inputs:
        lines.append(f"It scored {inputs['score']}.")
    if "feedback" in inputs:
        lines.append(f"Feedback: {_short(inputs['feedback'], 30)}")
    return " ".join(" ".join(lines).split()[:150])


def _unindented(text: str) -> str:
    return "\n".join(line.strip() for line in text.split("\n"))


def _short(text: str, words: int = 8) -> str:
    parts = text.split()
    return " ".join(parts[:words]) + (" ..." if len(parts) > words else "")


def _quote(text: str) -> str:
    """A short value whole, of a long one the beginning and, where the answer stands, the end."""
    parts = text.split()
    return " ".join(parts if len(parts) <= 24 else [*parts[:8], "...", *parts[-14:]])


def _compare(inputs: dict[str, str]) -> dict[str, Any]:
    attempts = [a for a in read_attempts(inputs["attempts"]) if a.answer]
    expected = read_fields(inputs.get("expected", ""))
    task = read_fields(inputs.get("task", "")) or {"task": inputs.get("task", "")}
    entries = read_entries(inputs.get("experiences", ""))
    stated = inputs.get("max_lessons", "")
    limit = int(stated) if stated.isdecimal() else 2
    missed = sorted(_missed(attempts, expected), key=lambda m: -m[2])[:limit]
    subject = next(iter(task)).replace("_", " ") if len(task) == 1 else "task"
    text = "\n".join(task.values())
    lessons, reasons = [], []
    for name, right, _, wrong in missed:
        lesson = _lesson(subject, text, name, right, wrong, entries)
        if lesson:
            lessons.append({"text": lesson, "predictors": _predictor(name, inputs.get("predictors", ""))})
        reasons.append(f"For {name} the better answer is '{right}', not {' or '.join(repr(w) for w in wrong[:2])}.")
    if not missed and (advice := _prose_lesson(subject, text, attempts)):
        lessons, reasons = [{"text": advice, "predictors": ""}], ["The better attempts bring in what the others lack."]
    words = ", ".join(f"'{w}'" for w in content_words(text)[:4])
    reasons.append(f"The {subject} mentions {words}." if words else "")
    return {"comparison": " ".join(r for r in reasons if r), "lessons": lessons}


def _missed(attempts: Sequence[Attempt], expected: dict[str, str]) -> list[tuple[str, str, float, list[str]]]:
    """Output fields that some attempts got wrong: name, better value, share of wrong attempts, wrong values."""
    names = list(expected) or list(dict.fromkeys(n for a in attempts for n in a.answer))
    best = max((a.score for a in attempts if a.score is not None), default=None)
    found = []
    for name in names:
        values = [a.answer[name] for a in attempts if name in a.answer]
        better = [a.answer[name] for a in attempts if name in a.answer and a.score == best]
        right = expected.get(name) or majority(better)
        wrong = [v for v in values if v.casefold() != right.casefold()]
        if right and wrong and len(right.split()) <= _SHORT and not set(_UNFIT) & set(right):
            ordered = sorted(set(wrong), key=lambda v: (-wrong.count(v), v))
            found.append((name, right, len(wrong) / len(values), ordered))
    return found


def _lesson(subject: str, text: str, name: str, right: str, wrong: list[str], entries: Sequence[Entry]) -> str:
    """Advice for this kind of task; says which experience misled, if one did."""
    told = [e for e in entries if e.advice and e.advice.field in (name, "")]
    present = {root(w) for w in tokens(text)}
    known = {c for e in told if e.advice and right in e.advice.values for c in e.advice.cues}
    foreign = {c for e in told if e.advice and right not in e.advice.values for c in e.advice.cues}
    named = {root(w) for value in (right, *wrong) for w in tokens(value.replace("_", " "))}
    cues = [c for c in _cues(text, known, foreign) if not any(root(w) in named for w in c.split())]
    misled = [
        f"{e.id} misleads by " + ", ".join(f"'{c}'" for c in hits[:3])
        for e in told
        if e.advice
        and set(e.advice.values) & set(wrong)
        and (hits := [c for c in e.advice.cues if all(root(w) in present for w in c.split())])
    ]
    because = "; ".join(misled[:2])
    instead = wrong[0] if wrong and not set(_UNFIT) & set(wrong[0]) and len(wrong[0].split()) <= _SHORT else ""
    return write_sentence(subject, cues, name, right, instead=instead, because=because)


def _prose_lesson(subject: str, text: str, attempts: Sequence[Attempt]) -> str:
    """Advice where answers are prose: what the better attempts bring in and the others do not; empty if nothing."""
    scores = [a.score for a in attempts if a.score is not None]
    if not scores or min(scores) == max(scores):
        return ""
    better = [set(content_words(" ".join(a.answer.values()))) for a in attempts if a.score == max(scores)]
    worse = {w for a in attempts if a.score != max(scores) for w in content_words(" ".join(a.answer.values()))}
    known = worse | set(content_words(text))
    first = next(a for a in attempts if a.score == max(scores))
    fresh = [
        w for w in content_words(" ".join(first.answer.values())) if w not in known and all(w in b for b in better)
    ]
    about = [w for w in content_words(text) if not set(_UNFIT) & set(w)][:3]
    if not fresh or not about:
        return ""
    return (
        f"When a {subject} is about {' and '.join(about)}, bring in {', '.join(fresh[:4])} as the better attempts did."
    )


def _cues(text: str, known: set[str], foreign: set[str]) -> list[str]:
    """The most telling words and phrases of a task: long words first, those that speak for another answer last."""
    seen: dict[str, str] = {}
    for word in content_words(text):
        seen.setdefault(root(word), word)
    words = [w for w in seen.values() if not set(_UNFIT) & set(w)]
    words.sort(key=lambda w: (w in foreign, w not in known, -len(w)))
    pairs = [p for p in phrases(text) if not set(_UNFIT) & set(p)]
    pairs.sort(key=lambda p: (p in foreign, p not in known, -len(p)))
    return [*words[: _CUES - 2], *pairs[:2], *words[_CUES - 2 :]]


def _predictor(field: str, predictors: str) -> str:
    """The predictors that write this field, if the prompt lists any."""
    found = re.findall(r"^([\w.\[\]]+): .*-> (.*)$", predictors, re.MULTILINE)
    return ", ".join(name for name, outputs in found if field in outputs.split(", "))
