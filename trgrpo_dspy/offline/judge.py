"""Scores the allowed values of an output against an input.

Three sources count, all in the prompt: the values' own names, the advice in the instructions, and the demos.

Guarantees: scores depend on the prompt alone; building a judge is cached by the texts it is built from.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from .advice import Advice, read_advice
from .text import FUNCTION_WORDS, WordIndex, is_content, root, similarity, tokens

__all__ = ["Judge", "Verdict", "judge_for"]

_NAME_WEIGHT = 5.0
_ADVICE_WEIGHT = 2.0
_DEMO_WEIGHT = 6.0
_PHRASE_WEIGHT = 1.5
_LATER_CUES = 0.5


@dataclass(frozen=True)
class Verdict:
    """Scores of all values for one input."""

    scores: list[float]
    """One for each value, in order; differences of 1 are worth a factor of e at temperature 1."""
    evidence: list[list[tuple[float, str, str]]]
    """For each value: strength, words of the input and id of the advice that speak for it."""


@dataclass(frozen=True)
class _Cue:
    words: tuple[str, ...]
    effects: tuple[tuple[int, float, str], ...]
    """Index of a value, weight (negative speaks against), id of the advice."""


class Judge:
    """Scores values for inputs."""

    def __init__(self, instructions: str, values: tuple[str, ...], field: str, fields: tuple[str, ...]) -> None:
        """Read the advice.

        Args:
            instructions: Text with any advice in it.
            values: The allowed values.
            field: The output field; advice that names another one of `fields` does not count.
            fields: Names of all output fields.
        """
        self._names = _name_weights(values)
        advice = [a for a in read_advice(instructions, values, fields) if a.field in ("", field)]
        self._cues = _cues(advice, values, _common(values))
        vocabulary = [word for cue in self._cues for word in cue.words]
        vocabulary += [word for name in self._names for word in name]
        self._index = WordIndex(vocabulary)
        self._size = len(values)

    def score(self, text: str, demos: Sequence[tuple[str, int]] = ()) -> Verdict:
        """Score every value.

        Args:
            text: The input.
            demos: Texts of earlier inputs, with the index of the value each got.
        """
        words = tokens(text)
        places: dict[str, list[tuple[int, float]]] = {}
        for at, word in enumerate(words):
            for known, alike in self._index.like(word):
                places.setdefault(known, []).append((at, alike))
        evidence: list[list[tuple[float, str, str]]] = [[] for _ in range(self._size)]
        scores = [_NAME_WEIGHT * self._name_score(name, places) for name in self._names]
        for cue in self._cues:
            strength = _strength(cue.words, places)
            if strength:
                for value, weight, id in cue.effects:
                    scores[value] += _ADVICE_WEIGHT * weight * strength
                    if weight > 0:
                        evidence[value].append((weight * strength, " ".join(cue.words), id))
        for demo, value in demos:
            scores[value] += _DEMO_WEIGHT * similarity(text, demo) ** 2
        return Verdict(scores, evidence)

    def _name_score(self, name: dict[str, float], places: dict[str, list[tuple[int, float]]]) -> float:
        found = sum(weight * max(alike for _, alike in places[word]) for word, weight in name.items() if word in places)
        return found / math.sqrt(sum(name.values())) if found else 0.0


@lru_cache(maxsize=256)
def judge_for(instructions: str, values: tuple[str, ...], field: str, fields: tuple[str, ...]) -> Judge:
    """The judge for a field of a prompt."""
    return Judge(instructions, values, field, fields)


def _name_weights(values: Sequence[str]) -> list[dict[str, float]]:
    """The words in each value's own name, weighted by how few names share them."""
    named = [[w for w in _name_words(v) if w not in FUNCTION_WORDS] or _name_words(v) for v in values]
    shared = Counter(root(word) for words in named for word in set(words))
    total = math.log(len(values) + 1)
    return [{w: math.log((len(values) + 1) / shared[root(w)]) / total for w in words} for words in named]


def _name_words(value: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-/.]+", " ", value)
    return list(dict.fromkeys(tokens(spaced)))


def _common(values: Sequence[str]) -> Counter[str]:
    """In how many names each word is, by root."""
    return Counter(root(word) for v in values for word in set(_name_words(v)))


def _cues(advice: Sequence[Advice], values: Sequence[str], common: Counter[str]) -> list[_Cue]:
    """Cues with their effects; a cue that speaks for several values is worth less for each."""
    position = {v.casefold(): i for i, v in enumerate(values)}
    effects: dict[tuple[str, ...], dict[int, tuple[float, str]]] = {}
    for item in advice:
        for order, cue in enumerate(item.cues):
            words = tuple(w for w in tokens(cue) if item.quoted or is_content(w))
            if not words:
                continue
            weight = 1 - _LATER_CUES * order / len(item.cues) if item.quoted else 1.5 / math.sqrt(len(item.cues) + 1)
            weight /= 1 + min(max(0, common[root(w)] - 1) for w in words)
            targets = effects.setdefault(words, {})
            for value, sign in [*((v, 1.0) for v in item.values), *((v, -1.0) for v in item.against)]:
                index = position[value.casefold()]
                if abs(sign * weight) > abs(targets.get(index, (0.0, ""))[0]):
                    targets[index] = (sign * weight, item.id)
    return [
        _Cue(
            words, tuple((v, w / max(1, sum(x > 0 for x, _ in targets.values())), id) for v, (w, id) in targets.items())
        )
        for words, targets in effects.items()
    ]


def _strength(words: tuple[str, ...], places: dict[str, list[tuple[int, float]]]) -> float:
    """How clearly a cue is in the input: the likeness of its word, more for a phrase whose words stand together."""
    if any(word not in places for word in words):
        return 0.0
    alike = sum(max(s for _, s in places[word]) for word in words) / len(words)
    if len(words) == 1:
        return alike
    near = all(
        any(0 < b - a <= 3 for a, _ in places[first] for b, _ in places[second]) for first, second in pairwise(words)
    )
    return _PHRASE_WEIGHT * alike if near else 0.5 * alike
