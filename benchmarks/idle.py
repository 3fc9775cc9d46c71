"""An engine that does nothing, and two programs for it: what the benchmarks of the client's own cost run.

The engine answers at once, without a network: all that is measured is what the client does. Both sides of a benchmark
use the same engine, the same program and the same prompts, without DSPy's cache.
"""

from __future__ import annotations

import itertools
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage

from programs import tickets

__all__ = ["LOOKUPS", "IdleEngine", "agent", "examples", "idle_lm", "one_call"]

LOOKUPS = 3
"""Tool calls of an agent's attempt; with the one that ends it and the answer, five LM calls."""
_ANSWER = (
    "[[ ## reasoning ## ]]\nThe rules say so.\n\n[[ ## queue ## ]]\nharbor\n\n[[ ## urgency ## ]]\ntoday\n\n"
    "[[ ## completed ## ]]"
)
_STEP = (
    "[[ ## next_thought ## ]]\nThe rules say more about this.\n\n[[ ## next_tool_name ## ]]\n{tool}\n\n"
    "[[ ## next_tool_args ## ]]\n{args}\n\n[[ ## completed ## ]]"
)


class IdleEngine:
    """Answers at once, and counts."""

    def __init__(self) -> None:
        """Count from 0."""
        self._numbers = itertools.count()
        self.calls = 0

    def complete(self, request: Request) -> Response:
        """A fixed reply; for an agent the next step of a fixed course."""
        text = _ANSWER
        if "next_tool_name" in _text(request.system):
            told = _text(request.messages[-1].parts).count("[[ ## observation_")
            args = f'{{"word": "word {told}"}}' if told < LOOKUPS else "{}"
            text = _STEP.format(tool="look_up" if told < LOOKUPS else "finish", args=args)
        self.calls = next(self._numbers) + 1
        return Response(
            id=None, model=request.model, message=Message.assistant(text), finish_reason="stop",
            usage=Usage(input_tokens=900, output_tokens=30),
        )  # fmt: skip


def _text(parts: Any) -> str:
    return parts if isinstance(parts, str) else "".join(getattr(part, "text", "") or "" for part in parts or ())


def idle_lm() -> dspy.LM:
    """A fresh LM with an engine of its own (`lm.engine`)."""
    return dspy.LM("idle/model", engine=IdleEngine(), cache=False, num_retries=0, seed=0)


def one_call() -> dspy.Module:
    """A program of one LM call: a bare `dspy.Predict`."""
    return tickets.program()


def agent() -> dspy.Module:
    """A program of five LM calls and three tool calls."""

    def look_up(word: str) -> str:
        """Look a word up in the rules."""
        return f"{word}: see the house rules"

    return dspy.ReAct(tickets.TriageTicket, tools=[look_up], max_iters=LOOKUPS + 2)


def examples(count: int) -> list[dspy.Example]:
    """So many different examples."""
    known = tickets.trainset()
    picked = (known[i % len(known)] for i in range(count))
    return [e.copy(ticket=f"{e.ticket} (number {i})").with_inputs("ticket") for i, e in enumerate(picked)]
