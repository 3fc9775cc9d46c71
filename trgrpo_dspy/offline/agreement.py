"""Whether two inputs of a prompt say the same, for a yes-or-no output that asks about it.

Guarantees: only the words of the two inputs count; a prompt without two such inputs is left to the judge of values.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .prompt import Prompt
from .text import FUNCTION_WORDS, tokens, word_similarity

__all__ = ["Agreement", "agreement"]

_ASKED = re.compile(r"correct|right|same|match|equal|equivalent|agree", re.IGNORECASE)
_EXPECTED = re.compile(r"expected|reference|gold|truth|label", re.IGNORECASE)
_GIVEN = re.compile(r"predict|given|candidate|response|proposed", re.IGNORECASE)
_ENOUGH = 0.8
"""Share of the expected words from which two texts agree."""
_WEIGHT = 10.0


@dataclass(frozen=True)
class Agreement:
    """How far one input says what another expects."""

    score: float
    """Above 0 if they agree; differences of 1 are worth a factor of e at temperature 1."""
    note: str
    """A sentence on it."""


def agreement(field: str, prompt: Prompt) -> Agreement | None:
    """Compare the input that is expected with the one that is given; None if the prompt does not ask for that."""
    expected = next((name for name in prompt.inputs if _EXPECTED.search(name)), None)
    given = next((name for name in prompt.inputs if _GIVEN.search(name) and name != expected), None)
    if expected is None or given is None or not _ASKED.search(field):
        return None
    wanted = list(dict.fromkeys(tokens(prompt.inputs[expected])))
    wanted = [word for word in wanted if word not in FUNCTION_WORDS] or wanted
    there = set(tokens(prompt.inputs[given]))
    missing = [word for word in wanted if not any(_alike(word, other) for other in there)]
    share = 1 - len(missing) / len(wanted) if wanted else 0.0
    found = f"{len(wanted) - len(missing)} of the {len(wanted)} words of '{expected}' are in '{given}'"
    lacking = f"; missing: {', '.join(missing[:5])}" if missing else ""
    return Agreement(_WEIGHT * (share - _ENOUGH), f"{found}{lacking}.")


def _alike(word: str, other: str) -> bool:
    """Whether two words are the same or forms of one; numbers must be the same."""
    return word == other or (not (word + other).isdigit() and word_similarity(word, other) > 0.9)
