"""The built-in offline text model behind a `dspy.LM`: no key, no network, and no large language model.

Guarantees: same seed and same request, same reply; nothing of any task is built in; it imports nothing of the package
above it.
"""

from __future__ import annotations

from typing import Any

import dspy

from .engine import NOTICE, AsyncOfflineEngine, OfflineEngine

__all__ = ["NOTICE", "AsyncOfflineEngine", "OfflineEngine", "offline_lm"]


def offline_lm(
    seed: int = 0,
    *,
    temperature: float | None = None,
    max_tokens: int | None = None,
    cache: bool = False,
    **kwargs: Any,
) -> dspy.LM:
    """A `dspy.LM` backed by the built-in model.

    Args:
        seed: Seed of the model. It is part of the model's name, because DSPy's cache key holds no engine, and it is
            the LM's default request seed.
        temperature: Sampling temperature; None and 0 give the best-scored reply.
        max_tokens: Bound on a reply in tokens of 4 characters; None for none.
        cache: Whether DSPy's cache keeps replies. The model is faster than the disk.
        kwargs: Passed on to `dspy.LM`.
    """
    return dspy.LM(
        f"offline/ngram-1-seed{seed}",
        engine=OfflineEngine(seed),
        async_engine=AsyncOfflineEngine(seed),
        temperature=temperature,
        max_tokens=max_tokens,
        cache=cache,
        seed=seed,
        **kwargs,
    )
