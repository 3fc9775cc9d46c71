"""All chance of the model: numbers that depend on texts alone.

Guarantees: the same seed, request and request seed give the same draws, in any order, thread or process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b

__all__ = ["Chance"]


class Chance:
    """Draws for one request."""

    def __init__(self, model_seed: int, request: str, request_seed: int | None, temperature: float) -> None:
        """Bind the draws.

        Args:
            model_seed: Seed of the model.
            request: The whole request as a text.
            request_seed: Seed of the request; it counts at temperatures above 0 only.
            temperature: 0 makes every choice the best-scored one.
        """
        self.temperature = temperature
        self._model = f"{model_seed}"
        self._request = f"{model_seed}|{request_seed}|{temperature}|{request}" if temperature > 0 else ""

    def leaning(self, *key: str) -> float:
        """What this model happens to favour, between 0 and 1: the same for every request seed."""
        return _unit(self._model, *key)

    def pick(self, scores: Sequence[float], *key: str) -> int:
        """An index: the best at temperature 0, else drawn from the softmax of the scores."""
        if self.temperature <= 0 or len(scores) == 1:
            return max(range(len(scores)), key=lambda i: scores[i])
        top = max(scores)
        weights = [math.exp((s - top) / self.temperature) for s in scores]
        mark = _unit(self._request, *key) * sum(weights)
        for index, weight in enumerate(weights):
            mark -= weight
            if mark < 0:
                return index
        return len(scores) - 1


def _unit(*key: str) -> float:
    digest = blake2b("\x1f".join(key).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
