"""Answers to any signature: a value for every output field, from its type and the prompt.

Guarantees: never raises on a prompt that was read; a value of a closed type is always one of those allowed.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from .agent import is_failure, next_step, observations, submit_or_call
from .agreement import agreement
from .chance import Chance
from .judge import Verdict, judge_for
from .prompt import Prompt
from .schema import Schema, choices, is_text
from .text import content_words, noun_phrase, numbers, sentences, similarity, tokens

__all__ = ["answer"]

_LEANING = 0.1
_LONG = 400
"""Characters from which an observation is a page to pick a sentence from, not an answer."""
_HEADING = 4
"""Words of a line that may be a heading."""
_THINKING = re.compile(r"reason|thought|rational|explan|justif|analy|why|comment|feedback|critique", re.IGNORECASE)


def answer(prompt: Prompt, chance: Chance) -> dict[str, Any]:
    """A value for every output field, in the prompt's order."""
    outputs = prompt.layout.outputs
    notes: list[str] = []
    values: dict[str, Any] = {}
    if {"next_tool_name", "next_tool_args"} <= set(outputs) and _stated("next_tool_name", prompt) is None:
        values.update(next_step(prompt, chance))
    for name, schema in outputs.items():
        if name not in values and not is_text(schema):
            values[name] = _value(name, schema, prompt, chance, notes)
    for name in outputs:
        if name not in values:
            values[name] = _text(name, prompt, chance, notes)
    return {name: values[name] for name in outputs}


def _value(name: str, schema: Schema, prompt: Prompt, chance: Chance, notes: list[str]) -> Any:
    if allowed := choices(schema):
        return _choose(name, allowed, prompt, chance, notes)
    kind = schema.get("type")
    if kind in ("array", "object", "tool_calls") and (stated := _stated_data(name, prompt)) is not None:
        return stated
    if kind in ("integer", "number"):
        return _number(name, kind, prompt, chance)
    if kind == "array":
        return _items(name, schema.get("items", {"type": "string"}), prompt, chance, notes)
    if kind == "tool_calls":
        return submit_or_call(prompt, chance)
    if kind == "object":
        parts = schema.get("properties", {})
        return {
            key: _text(key, prompt, chance, notes) if is_text(part) else _value(key, part, prompt, chance, notes)
            for key, part in parts.items()
        }
    return None if kind == "null" else _text(name, prompt, chance, notes)


def _choose(name: str, allowed: list[Any], prompt: Prompt, chance: Chance, notes: list[str]) -> Any:
    """One of the allowed values: the one the input states outright, else drawn by score."""
    labels = [str(v) for v in allowed]
    stated = _stated(name, prompt)
    for value, label in zip(allowed, labels, strict=True):
        if stated is not None and stated.casefold() == label.casefold():
            return value
    if allowed == [True, False] and (found := agreement(name, prompt)) is not None:
        notes.append(found.note)
        return allowed[chance.pick([found.score, 0.0], name)]
    judge = judge_for(prompt.layout.instructions, tuple(labels), name, tuple(prompt.layout.outputs))
    verdict = judge.score(prompt.text, _demos(name, labels, prompt))
    scores = [s + _LEANING * chance.leaning(prompt.text, name, v) for s, v in zip(verdict.scores, labels, strict=True)]
    index = chance.pick(scores, name)
    notes.append(_note(verdict, index, name, labels[index], prompt))
    return allowed[index]


def _demos(name: str, labels: list[str], prompt: Prompt) -> list[tuple[str, int]]:
    folded = [label.casefold() for label in labels]
    pairs = [("\n".join(given.values()), told.get(name, "").strip().casefold()) for given, told in prompt.demos]
    return [(text, folded.index(value)) for text, value in pairs if text and value in folded]


def _note(verdict: Verdict, index: int, name: str, label: str, prompt: Prompt) -> str:
    """A sentence on what spoke for the choice."""
    found = sorted(verdict.evidence[index], key=lambda e: (-e[0], e[1]))[:3]
    if found:
        ids = sorted({id for _, _, id in found if id})
        following = f" ({', '.join(ids)})" if ids else ""
        words = ", ".join(f"'{w}'" for _, w, _ in found)
        return f"The input mentions {words}, which the advice{following} links to {name} '{label}'."
    words = ", ".join(f"'{w}'" for w in content_words(prompt.text)[:3])
    return f"No advice fits; judging by {words or 'the input'} the {name} may be '{label}'."


def _number(name: str, kind: str, prompt: Prompt, chance: Chance) -> int | float:
    stated = _stated(name, prompt)
    found = numbers(stated) if stated else numbers(prompt.text)
    if not found:
        return 0
    chosen = found[0 if stated else chance.pick([1.0, *([0.0] * (len(found) - 1))], name)]
    return int(float(chosen)) if kind == "integer" else float(chosen)


def _items(name: str, item: Schema, prompt: Prompt, chance: Chance, notes: list[str]) -> list[Any]:
    if is_text(item):
        return sorted(content_words(prompt.text), key=lambda w: (-len(w), w))[:3]
    value = _value(name, item, prompt, chance, notes)
    texts = [key for key, part in item.get("properties", {}).items() if is_text(part)]
    if texts and (count := _asked_for(prompt)) is not None:
        return [{**value, **dict.fromkeys(texts, sentence)} for sentence in _statements_of(prompt)[:count]]
    return [] if value is None else [value]


def _asked_for(prompt: Prompt) -> int | None:
    """How many of something the prompt asks for: the input that is a whole number and nothing else."""
    found = [int(value) for value in prompt.inputs.values() if re.fullmatch(r"\s*[0-9]{1,3}\s*", value)]
    return found[0] if len(found) == 1 else None


def _statements_of(prompt: Prompt) -> list[str]:
    """What this model has to say where texts are to be made up: the inputs' own statements, in order, each once."""
    found = [s for value in prompt.inputs.values() for s in sentences(value)]
    return list(dict.fromkeys(s for s in found if s.endswith(".") and len(tokens(s)) >= _HEADING))


def _text(name: str, prompt: Prompt, chance: Chance, notes: list[str]) -> str:
    stated = _stated(name, prompt)
    if stated is not None:
        return stated
    if _THINKING.search(name):
        return " ".join(notes) or f"The input is about {_about(prompt)}."
    candidates = _candidates(prompt)
    asked = _question(prompt)
    weight = max(3.0, 1.5 * math.log(max(1, len(candidates))))  # among many, a sharper choice
    scores = [weight * similarity(asked, c) - 0.01 * i for i, c in enumerate(candidates)]
    return candidates[chance.pick(scores, name)] if candidates else ""


def _about(prompt: Prompt) -> str:
    words = content_words(prompt.text)[:3]
    return ", ".join(f"'{w}'" for w in words) or "nothing I can read"


def _question(prompt: Prompt) -> str:
    for name, value in prompt.inputs.items():
        if re.search(r"question|query|request|task|instruction", name):
            return value
    return next(iter(prompt.inputs.values()), "")


def _candidates(prompt: Prompt) -> list[str]:
    """Texts an open answer may be taken from: observations of an agent, the other inputs' sentences, or this one's."""
    seen = observations(prompt.inputs.get("trajectory", ""))
    useful = [s for s in seen if s and not s.startswith("Completed.") and not is_failure(s)]
    asked = _question(prompt)
    if useful:
        return [part for text in useful[::-1] for part in (_statements(text, asked) if len(text) > _LONG else [text])]
    if re.search(r"\bhow (?:many|much)\b", asked, re.IGNORECASE) and (found := numbers(prompt.text)):
        return found[::-1]
    told = [value for name, value in prompt.inputs.items() if name != "trajectory" and value != asked]
    rest = [s for value in told for s in sentences(value)]
    return rest or [noun_phrase(asked), *sentences(asked)]


def _statements(text: str, asked: str) -> list[str]:
    """Statements of a long text, each with the one after it: lines and sentences that say more than the question does.

    Headings, addresses and marks are none.
    """
    known = set(tokens(asked))
    found = [s for s in sentences(text) if "://" not in s and not s.startswith("<<<") and len(tokens(s)) > _HEADING]
    found = [s for s in found if set(tokens(s)) - known]
    return [" ".join(found[i : i + 2]) for i in range(len(found))] or [text]


def _stated(name: str, prompt: Prompt) -> str | None:
    """The value an input gives under the field's own name ('name: x' on a line), up to the next such line."""
    names = "|".join(map(re.escape, prompt.layout.outputs))
    pattern = rf"^{re.escape(name)}: ?(.*?)(?=\n\s*\n?(?:{names}): |\Z)"
    for value in prompt.inputs.values():
        if f"{name}:" in value and (found := re.search(pattern, value, re.MULTILINE | re.DOTALL)):
            return found.group(1).strip()
    return None


def _stated_data(name: str, prompt: Prompt) -> Any:
    """The list or record an input gives under the field's own name."""
    try:
        data = json.loads(_stated(name, prompt) or "")
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, (list, dict)) else None
