"""Answers to any signature: a value for every output field, from its type and the prompt.

Guarantees: never raises on a prompt that was read; a value of a closed type is always one of those allowed.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from .agent import is_failure, next_step, observations
from .chance import Chance
from .formats import Prompt
from .judge import judge
from .text import content_words, is_content, noun_phrase, numbers, sentences, similarity, tokens, word_similarity
from .types import Schema, choices, is_text

__all__ = ["answer"]

_LEANING = 0.1
_PAGE = 400
"""Characters from which an observation is a page to pick a statement from, not an answer."""
_STATEMENT = 4
"""Words of a statement at least; shorter lines may be headings."""
_AGREE = 0.8
"""Share of the expected words from which two texts say the same."""
_THINKING = re.compile(r"reason|thought|rational|explan|justif|analy|why|comment|feedback|critique", re.IGNORECASE)
_QUESTION = re.compile(r"question|query|request|task|instruction")


def answer(prompt: Prompt, chance: Chance) -> dict[str, Any]:
    """A value for every output field, in the prompt's order."""
    outputs = prompt.layout.outputs
    values: dict[str, Any] = {}
    if {"next_tool_name", "next_tool_args"} <= set(outputs) and _stated("next_tool_name", prompt) is None:
        values.update(next_step(prompt, chance))
    writer = _Writer(prompt, chance)
    for name in sorted(outputs, key=lambda name: is_text(outputs[name])):  # what is thought follows what is chosen
        if name not in values:
            values[name] = writer.value(name, outputs[name])
    return {name: values[name] for name in outputs}


class _Writer:
    """Makes the values of one reply, and keeps notes of why."""

    def __init__(self, prompt: Prompt, chance: Chance) -> None:
        self.prompt, self.chance = prompt, chance
        self.notes: list[str] = []

    def value(self, name: str, schema: Schema) -> Any:
        stated, kind = _stated(name, self.prompt), schema.get("type")
        if allowed := choices(schema):
            return self.choice(name, allowed, stated)
        if kind in ("integer", "number"):
            found = numbers(self.prompt.text if stated is None else stated) or ["0"]
            index = self.chance.pick([1.0, *([0.0] * (len(found) - 1))], name)
            return int(float(found[index])) if kind == "integer" else float(found[index])
        if kind in ("array", "object"):
            given = _data(stated)
            return given if given is not None else self.data(name, schema)
        return None if kind == "null" else self.text(name) if stated is None else stated

    def choice(self, name: str, allowed: list[Any], stated: str | None) -> Any:
        """The value the input states outright, else one drawn by score."""
        labels = tuple(map(str, allowed))
        for value, label in zip(allowed, labels, strict=True):
            if stated is not None and stated.casefold() == label.casefold():
                return value
        if allowed == [True, False] and (found := _agreement(name, self.prompt)) is not None:
            self.notes.append(found[1])
            return allowed[self.chance.pick([found[0], 0.0], name)]
        layout, text = self.prompt.layout, self.prompt.text
        verdict = judge(text, layout.instructions, labels, name, tuple(layout.outputs))
        leanings = [_LEANING * self.chance.leaning(text, name, label) for label in labels]
        index = self.chance.pick([s + x for s, x in zip(verdict.scores, leanings, strict=True)], name)
        words = sorted(verdict.evidence[index], key=lambda e: (-e[0], e[1]))[:3]
        why = ", ".join(f"'{word}' ({id})" if id else f"'{word}'" for _, word, id in words)
        self.notes.append(f"For {name} '{labels[index]}' speaks: {why or 'no advice, only the input'}.")
        return allowed[index]

    def data(self, name: str, schema: Schema) -> Any:
        """A record of values; a list of one such record, or of as many statements as an input asks for."""
        if schema["type"] == "object":
            return {key: self.value(key, part) for key, part in schema.get("properties", {}).items()}
        item = schema.get("items", {"type": "string"})
        if is_text(item):
            return sorted(content_words(self.prompt.text), key=lambda word: (-len(word), word))[:3]
        value = self.value(name, item)
        texts = [key for key, part in item.get("properties", {}).items() if is_text(part)]
        counts = [int(v) for v in self.prompt.inputs.values() if re.fullmatch(r"\s*[0-9]{1,3}\s*", v)]
        if texts and len(counts) == 1:
            parts = [s for v in self.prompt.inputs.values() for s in sentences(v)]
            made = [s for s in dict.fromkeys(parts) if s.endswith(".") and len(tokens(s)) >= _STATEMENT]
            return [{**value, **dict.fromkeys(texts, statement)} for statement in made[: counts[0]]]
        return [value]

    def text(self, name: str) -> str:
        """The notes, for an output that asks for reasons; else what is most like the question."""
        if _THINKING.search(name):
            words = ", ".join(f"'{word}'" for word in content_words(self.prompt.text)[:3])
            return " ".join(self.notes) or f"The input is about {words or 'nothing I can read'}."
        inputs = self.prompt.inputs
        asked = next((v for k, v in inputs.items() if _QUESTION.search(k)), next(iter(inputs.values()), ""))
        candidates = _candidates(self.prompt, asked)
        weight = max(3.0, 1.5 * math.log(len(candidates) or 1))  # among many, a sharper choice
        scores = [weight * similarity(asked, text) - 0.01 * i for i, text in enumerate(candidates)]
        return candidates[self.chance.pick(scores, name)]


def _candidates(prompt: Prompt, asked: str) -> list[str]:
    """Texts an open answer may be taken from: observations of an agent, the other inputs' sentences, or the input's."""
    seen = [s for s in observations(prompt.inputs.get("trajectory", "")) if s != "Completed." and not is_failure(s)]
    if seen:
        return [part for text in seen[::-1] for part in (_statements(text, asked) if len(text) > _PAGE else [text])]
    if re.search(r"\bhow (?:many|much)\b", asked, re.IGNORECASE) and (found := numbers(prompt.text)):
        return found[::-1]
    others = [value for name, value in prompt.inputs.items() if name != "trajectory" and value != asked]
    return [s for value in others for s in sentences(value)] or [noun_phrase(asked), *sentences(asked)]


def _statements(text: str, asked: str) -> list[str]:
    """Statements of a page, each with the one after it: sentences that say more than the question does."""
    known = set(tokens(asked))
    found = [s for s in sentences(text) if "://" not in s and not s.startswith("<<<") and len(tokens(s)) > _STATEMENT]
    found = [s for s in found if set(tokens(s)) - known]
    return [" ".join(found[i : i + 2]) for i in range(len(found))] or [text]


def _agreement(name: str, prompt: Prompt) -> tuple[float, str] | None:
    """How far a given input says what another expects, with the words; None if the prompt does not ask for that."""
    expected = next((key for key in prompt.inputs if re.search(r"expected|reference|gold|truth|label", key)), "")
    given = next((key for key in prompt.inputs if re.search(r"predict|given|candidate|response", key)), "")
    if not expected or not given or not re.search(r"correct|right|same|match|equal|agree", name, re.IGNORECASE):
        return None
    wanted = list(dict.fromkeys(tokens(prompt.inputs[expected])))
    wanted = [word for word in wanted if is_content(word) or not word.isalpha()] or wanted
    there = tokens(prompt.inputs[given])
    missing = [w for w in wanted if not any(w == t or (w.isalpha() and word_similarity(w, t) > 0.9) for t in there)]
    note = f"{len(wanted) - len(missing)} of {len(wanted)} words of '{expected}' are in '{given}'" + (
        f"; missing: {', '.join(missing[:5])}." if missing else "."
    )
    return 10 * ((1 - len(missing) / len(wanted) if wanted else 0.0) - _AGREE), note


def _stated(name: str, prompt: Prompt) -> str | None:
    """The value an input gives under the field's own name ('name: x' on a line), up to the next such line."""
    names = "|".join(map(re.escape, prompt.layout.outputs))
    pattern = rf"^{re.escape(name)}: ?(.*?)(?=\n\s*\n?(?:{names}): |\Z)"
    for value in prompt.inputs.values():
        if f"{name}:" in value and (found := re.search(pattern, value, re.MULTILINE | re.DOTALL)):
            return found.group(1).strip()
    return None


def _data(stated: str | None) -> Any:
    try:
        data = json.loads(stated or "")
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, (list, dict)) else None
