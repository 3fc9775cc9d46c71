"""The built-in offline text model behind a `dspy.LM`: no key, no network, and no large language model.

Guarantees: a reply depends on the model's seed, the request's content and the request's seed alone; at temperature 0,
also the default, not on the request's seed. No state, no clock, no network; `complete` never raises on any text.
Nothing of any task is built in. It imports nothing of the package above it.
"""

from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage

from .answer import answer
from .formats import read, write
from .reflection import reflect
from .text import Chance

__all__ = ["NOTICE", "AsyncOfflineEngine", "OfflineEngine", "offline_lm"]

NOTICE = (
    "These figures come from a small built-in character n-gram model, not a large language model; "
    "they show that the machinery works, not what a real model would reach."
)
"""A sentence to show beside any figure this model produced."""


class OfflineEngine:
    """A small built-in text model, for machines without a key or a network. It is no large language model.

    It compares words by character n-grams, reads advice sentences for quoted words, and draws from a softmax at the
    request's temperature (0 if the request names none). It sees the prompt and nothing else, and knows no task.
    """

    def __init__(self, seed: int = 0) -> None:
        """Make the model of a seed; different seeds are different models with different leanings."""
        self.seed = seed

    def dump_state(self) -> dict[str, Any]:
        """What `load_state` needs: the seed."""
        return {"seed": self.seed}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> "OfflineEngine":
        """The model of a dumped state."""
        return cls(int(state.get("seed", 0)))

    def complete(self, request: Request) -> Response:
        """Answer one request."""
        system = request.system if isinstance(request.system, str) else _text(request.system or ())
        said = [(message.role, _text(message.parts)) for message in request.messages]
        content = "\x1e".join([system, *(f"{role}\x1f{text}" for role, text in said)])
        prompt, config = read(system, said[-1][1] if said else ""), request.config
        values = reflect(prompt)
        if values is None:
            values = answer(prompt, Chance(self.seed, content, config.seed, config.temperature or 0.0))
        whole = write(prompt.style, values)
        text = whole if config.max_tokens is None else whole[: 4 * config.max_tokens]
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(text),
            finish_reason="stop" if text == whole else "length",
            usage=Usage(input_tokens=-(-len(content) // 4), output_tokens=-(-len(text) // 4)),
        )


class AsyncOfflineEngine(OfflineEngine):
    """The same model for `acall`."""

    async def complete(self, request: Request) -> Response:
        """Answer one request."""
        return super().complete(request)


def offline_lm(seed: int = 0, **kwargs: Any) -> dspy.LM:
    """A `dspy.LM` backed by the built-in model; without DSPy's cache, for the model is faster than the disk.

    Args:
        seed: Seed of the model. It is part of the model's name, because DSPy's cache key holds no engine, and it is
            the LM's default request seed.
        kwargs: Passed on to `dspy.LM`. Temperatures None and 0 give the best-scored reply; a token is 4 characters.
    """
    engines = {"engine": OfflineEngine(seed), "async_engine": AsyncOfflineEngine(seed)}
    return dspy.LM(f"offline/ngram-1-seed{seed}", **engines, **{"cache": False, "seed": seed, **kwargs})


def _text(parts: Any) -> str:
    """The text of a message's parts; other media read as nothing."""
    return "\n".join(part.text for part in parts if getattr(part, "type", "") == "text")
