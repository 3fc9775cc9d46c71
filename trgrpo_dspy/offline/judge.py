"""Scores the allowed values of an output against an input: by the values' own names and the advice in the instructions.

Guarantees: scores depend on the prompt alone; building a judge is cached by the texts it is built from.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from .advice import read_advice
from .text import is_content, root, tokens, word_similarity

__all__ = ["Verdict", "judge"]

_NAME_WEIGHT, _ADVICE_WEIGHT = 5.0, 2.0
_LATER_CUES = 0.5
"""How much less the last cue of a list counts than its first."""
_Effects = dict[int, tuple[float, str]]
"""By index of a value: weight, negative where it speaks against the value, and id of the advice."""


@dataclass(frozen=True)
class Verdict:
    """Scores of all values for one input."""

    scores: list[float]
    """One for each value, in order; differences of 1 are worth a factor of e at temperature 1."""
    evidence: list[list[tuple[float, str, str]]]
    """For each value: strength, words of the input and id of the advice that speak for it."""


def judge(text: str, instructions: str, values: tuple[str, ...], name: str, fields: tuple[str, ...]) -> Verdict:
    """Score the values of an output for an input, by the instructions."""
    return _judge(instructions, values, name, fields).score(text)


class _Judge:
    def __init__(self, instructions: str, values: tuple[str, ...], name: str, fields: tuple[str, ...]) -> None:
        names = [_name_words(value) for value in values]
        shared = Counter(known for words in names for known in {root(word) for word in words})
        rare = {known: math.log((len(values) + 1) / n) / math.log(len(values) + 1) for known, n in shared.items()}
        self._names = [{word: rare[root(word)] for word in words} for words in names]
        self._cues = _cues(instructions, values, name, fields, shared)
        self._by_letter: dict[str, dict[str, None]] = defaultdict(dict)
        for word in (w for words in (*self._names, *self._cues) for w in words):
            self._by_letter[word[0]][word] = None

    def score(self, text: str) -> Verdict:
        alike: dict[str, float] = defaultdict(float)
        for word in dict.fromkeys(tokens(text)):
            for known in self._by_letter.get(word[0], ()):
                alike[known] = max(alike[known], word_similarity(word, known))
        scores = [
            _NAME_WEIGHT * sum(w * alike[word] for word, w in name.items()) / math.sqrt(sum(name.values()) or 1)
            for name in self._names
        ]
        evidence: list[list[tuple[float, str, str]]] = [[] for _ in scores]
        for words, effects in self._cues.items():
            strength = min(alike[word] for word in words)
            for value, (weight, id) in effects.items() if strength else ():
                scores[value] += _ADVICE_WEIGHT * weight * strength
                if weight > 0:
                    evidence[value].append((weight * strength, " ".join(words), id))
        return Verdict(scores, evidence)


_judge = lru_cache(maxsize=256)(_Judge)


def _name_words(value: str) -> list[str]:
    """The words of a value's own name, content words if it has any."""
    words = list(dict.fromkeys(tokens(re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-/.]+", " ", value))))
    return [word for word in words if is_content(word)] or words


def _cues(
    instructions: str, values: tuple[str, ...], name: str, fields: Sequence[str], shared: Counter[str]
) -> dict[tuple[str, ...], _Effects]:
    """What each cue does to each value; a cue that speaks for several values is worth less for each."""
    found: dict[tuple[str, ...], _Effects] = defaultdict(dict)
    for item in read_advice(instructions, values, name, fields):
        for order, words in enumerate(map(tokens, item.cues)):
            weight = 1 - _LATER_CUES * order / len(item.cues) if item.quoted else 1.5 / math.sqrt(len(item.cues) + 1)
            weight /= 1 + min((max(0, shared[root(word)] - 1) for word in words), default=0)
            for value, good in item.values.items() if words else ():
                index = values.index(value)
                if weight > abs(found[words].get(index, (0.0, ""))[0]):
                    found[words][index] = (weight if good else -weight, item.id)
    for effects in found.values():
        shares = max(1, sum(weight > 0 for weight, _ in effects.values()))
        effects.update({value: (weight / shares, id) for value, (weight, id) in effects.items()})
    return found
