"""The built-in offline text model behind a `dspy.LM`: no key, no network, and no large language model.

Guarantees: same seed and same request, same reply; nothing of any task is built in; it imports nothing of the package
above it.
"""

from __future__ import annotations

from typing import Any

import dspy

from .engine import NOTICE, AsyncOfflineEngine, OfflineEngine

__all__ = ["NOTICE", "AsyncOfflineEngine", "OfflineEngine", "offline_lm"]


def offline_lm(seed: int = 0, **kwargs: Any) -> dspy.LM:
    """A `dspy.LM` backed by the built-in model; without DSPy's cache, for the model is faster than the disk.

    Args:
        seed: Seed of the model. It is part of the model's name, because DSPy's cache key holds no engine, and it is
            the LM's default request seed.
        kwargs: Passed on to `dspy.LM`. Temperatures None and 0 give the best-scored reply; a token is 4 characters.
    """
    engines = {"engine": OfflineEngine(seed), "async_engine": AsyncOfflineEngine(seed)}
    return dspy.LM(f"offline/ngram-1-seed{seed}", **engines, **{"cache": False, "seed": seed, **kwargs})
