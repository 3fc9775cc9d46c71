"""A chat request while it is served: what was asked, what is answered in OpenAI's format, and what is kept of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from dspy.lm15 import Response

from .faults import FaultPlan

__all__ = ["Exchange", "Refusal", "ServedRequest", "spoil"]

_STREAM_PIECE = 40
"""Characters of an event."""


@dataclass(frozen=True)
class ServedRequest:
    """The record of one chat request."""

    time: float
    """When it arrived, in seconds since the epoch."""
    request: str
    """Hash of its content: model, messages, seed and settings. Equal requests have equal hashes."""
    attempt: int
    """1 if the request was new, 2 if it was seen once before, and so on."""
    model: str
    """The model it named."""
    seed: int | None
    """Its seed."""
    fault: str | None
    """What was made to go wrong, if anything."""
    status: int | None
    """HTTP status; None if none was sent (`reset`, `hang`), 499 if the client left or the server stopped first."""
    latency: float
    """Seconds from its arrival to its reply."""
    prompt_tokens: int
    """Tokens of the prompt, as reported; 0 without a reply."""
    completion_tokens: int
    """Tokens of the reply, as reported; 0 without a reply."""


class Refusal(Exception):
    """An error reply, as providers write them."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Exchange:
    """One chat request while it is served."""

    def __init__(self, raw: bytes) -> None:
        self.began, self._clock = time.time(), time.perf_counter()
        self.body, self.request = _parse(raw)
        self.attempt = 0
        self.plan = FaultPlan(None, 0.0, 1.0, "")
        self.status: int | None = None
        self.usage = (0, 0)

    @property
    def elapsed(self) -> float:
        """Seconds since its arrival."""
        return time.perf_counter() - self._clock

    @property
    def model(self) -> str:
        """The model it names."""
        return str(self.body.get("model", ""))[:200]

    def record(self) -> ServedRequest:
        """What is kept of it."""
        seed = self.body.get("seed")
        return ServedRequest(
            round(self.began, 6),
            self.request,
            self.attempt,
            self.model,
            seed if isinstance(seed, int) else None,
            self.plan.fault,
            self.status,
            round(self.elapsed, 6),
            *self.usage,
        )

    def completion(self, model: str, text: str, finish: str) -> dict[str, Any]:
        """The reply in one piece; `model` is the name of the model that made it."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self._envelope(model, "chat.completion"), "choices": [choice], "usage": self._usage()}

    def events(self, model: str, text: str, finish: str) -> Iterator[dict[str, Any]]:
        """The reply as the events of a stream; `model` is the name of the model that made it."""
        head = self._envelope(model, "chat.completion.chunk")
        pieces = [text[i : i + _STREAM_PIECE] for i in range(0, len(text), _STREAM_PIECE)] or [""]
        for delta in ({"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)):
            yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
        options = self.body.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage"):
            yield {**head, "choices": [], "usage": self._usage()}

    def _envelope(self, model: str, kind: str) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.request[:24]}-{self.attempt}",
            "object": kind,
            "created": int(self.began),
            "model": self.model,
            "system_fingerprint": f"{model}: a built-in character n-gram model, not a large language model",
        }

    def _usage(self) -> dict[str, int]:
        prompt, completion = self.usage
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _parse(raw: bytes) -> tuple[dict[str, Any], str]:
    """A body, empty if it is no JSON object, and the hash of its content.

    Both spellings of the token limit hash alike, and so do streamed and whole replies.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return {}, blake2b(raw, digest_size=16).hexdigest()
    body = {key: value for key, value in body.items() if value is not None}
    content = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
    if content.get("n") == 1:
        del content["n"]
    if "max_completion_tokens" in content:
        content["max_tokens"] = content.pop("max_completion_tokens")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return body, blake2b(canonical.encode(), digest_size=16).hexdigest()


def spoil(reply: Response, plan: FaultPlan) -> tuple[str, str]:
    """The text and finish reason to send for a model's reply."""
    text = reply.message.text or ""
    if plan.fault == "garbage":
        return plan.nonsense, "stop"
    if plan.fault == "truncated":
        return text[: int(len(text) * plan.fraction)], "length"
    return text, reply.finish_reason
