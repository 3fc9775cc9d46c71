"""All chance of the model: draws that depend on texts alone, so that call order, threads and processes never matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

__all__ = ["Chance"]


class Chance:
    """Draws for one request; its own seed counts at temperatures above 0 only."""

    def __init__(self, model_seed: int, request: str, request_seed: int | None, temperature: float) -> None:
        self._temperature, self._model = temperature, str(model_seed)
        self._request = f"{model_seed}|{request_seed}|{temperature}|{request}"

    def leaning(self, *key: str) -> float:
        """What this model happens to favour, between 0 and 1: the same for every request seed."""
        return _unit(self._model, *key)

    def pick(self, scores: Sequence[float], *key: str) -> int:
        """An index: the best at temperature 0, else drawn from the softmax of the scores."""
        top = max(scores)
        if self._temperature <= 0 or len(scores) == 1:
            return list(scores).index(top)
        weights = [math.exp((score - top) / self._temperature) for score in scores]
        mark = _unit(self._request, *key) * sum(weights)
        return next((index for index, total in enumerate(accumulate(weights)) if mark < total), len(scores) - 1)


def _unit(*key: str) -> float:
    digest = blake2b("\x1f".join(key).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
