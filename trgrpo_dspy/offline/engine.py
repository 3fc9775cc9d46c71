"""The engine behind `dspy.LM`: a request in, a response out.

Guarantees: a reply depends on the model's seed, the request's content and the request's seed alone; at temperature 0,
also the default, not on the request's seed. No state, no clock, no network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from dspy.lm15 import Message, Request, Response, Usage, response_to_events

from .answer import answer
from .chance import Chance
from .prompt import Prompt, read
from .reflection import reflect
from .reply import write

__all__ = ["NOTICE", "AsyncOfflineEngine", "OfflineEngine"]

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

    def complete(self, request: Request) -> Response:
        """Answer one request. Never raises on any text."""
        system = _system_text(request)
        messages = [(m.role, _message_text(m)) for m in request.messages]
        content = "\x1e".join([system, *(f"{role}\x1f{text}" for role, text in messages)])
        chance = Chance(self.seed, content, request.config.seed, request.config.temperature or 0.0)
        text, reason = _cut(_reply(read(system, messages), chance), request.config.max_tokens)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(text),
            finish_reason="length" if reason else "stop",
            usage=Usage(input_tokens=_count(content), output_tokens=_count(text)),
        )

    def stream(self, request: Request) -> Iterator[Any]:
        """The reply as events."""
        yield from response_to_events(self.complete(request))

    def close(self) -> None:
        """Nothing to close."""

    def dump_state(self) -> dict[str, Any]:
        """What `load_state` needs: the seed."""
        return {"seed": self.seed}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> OfflineEngine:
        """The model of a dumped state."""
        return cls(int(state.get("seed", 0)))


class AsyncOfflineEngine:
    """The same model for `acall`."""

    def __init__(self, seed: int = 0) -> None:
        """Make the model of a seed."""
        self._engine = OfflineEngine(seed)

    async def complete(self, request: Request) -> Response:
        """Answer one request."""
        return self._engine.complete(request)

    async def stream(self, request: Request) -> Any:
        """The reply as events."""
        for event in self._engine.stream(request):
            yield event

    async def aclose(self) -> None:
        """Nothing to close."""

    def dump_state(self) -> dict[str, Any]:
        """What `load_state` needs: the seed."""
        return self._engine.dump_state()

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> AsyncOfflineEngine:
        """The model of a dumped state."""
        return cls(int(state.get("seed", 0)))


def _reply(prompt: Prompt, chance: Chance) -> str:
    values = reflect(prompt)
    return write(prompt.layout.style, answer(prompt, chance) if values is None else values)


def _system_text(request: Request) -> str:
    system = request.system
    if system is None or isinstance(system, str):
        return system or ""
    return "".join(getattr(part, "text", "") for part in system)


def _message_text(message: Message) -> str:
    return "\n".join(_part_text(part) for part in message.parts)


def _part_text(part: Any) -> str:
    """Text of a part; a tool's result reads as an adapter would write it, other media as nothing."""
    kind = getattr(part, "type", "")
    if kind == "tool_result":
        told = " ".join(getattr(p, "text", "") for p in part.content)
        return f'"value": "{told}", "is_error": {"true" if part.is_error else "false"}'
    return getattr(part, "text", "") if kind == "text" else ""


def _count(text: str) -> int:
    return math.ceil(len(text) / 4)


def _cut(text: str, max_tokens: int | None) -> tuple[str, bool]:
    if max_tokens is None or _count(text) <= max_tokens:
        return text, False
    return text[: 4 * max_tokens], True
