"""What a reply of an LM lacks where it holds no answer, by what its backend said and never by guessing."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import message_in

__all__ = ["ReplyFault", "reply_fault", "words_in"]


class ReplyFault(enum.Enum):
    """Why a reply holds no text, in words for people."""

    NO_CHOICE = "the reply held no choice at all"
    """No verdict on the program: the backend answered with nothing."""
    FILTERED = "the provider's content filter withheld the reply"
    CUT = "the reply was cut off by its length limit before any answer"
    REFUSED = "the model refused to answer"
    TOOL_CALL = "the reply held a tool call and no text"
    REASONING = "the reply held reasoning and no text"
    EMPTY = "the reply was empty"


_WORDS = 500
_CUT = frozenset({"length", "max_tokens", "max_output_tokens", "MAX_TOKENS"})
_FILTERS = frozenset({"content_filter", "safety", "SAFETY", "blocklist", "prohibited_content", "recitation"})


def reply_fault(response: Any) -> ReplyFault | None:
    """What a reply lacks; None if it has text. A program that uses native tools expects replies without.

    Args:
        response: DSPy's typed response, or one in the form of OpenAI's chat completions, as object or mapping.
    """
    raw = _get(response, "provider_data")
    choices = _get(raw if isinstance(raw, Mapping) and "choices" in raw else response, "choices")
    if choices is not None and not choices:
        return ReplyFault.NO_CHOICE
    if _get(raw, "object") == "error":  # an error under the status of a success
        return ReplyFault.NO_CHOICE
    parts = list(_parts(response))
    kinds = {kind for kind, _ in parts}
    if any(kind == "text" and text.strip() for kind, text in parts):
        return None
    reasons = {str(reason) for reason in _reasons(response) if reason}
    if reasons & _FILTERS:
        return ReplyFault.FILTERED
    if "refusal" in kinds or "refusal" in reasons:
        return ReplyFault.REFUSED
    if "tool_call" in kinds:
        return ReplyFault.TOOL_CALL
    if reasons & _CUT:
        return ReplyFault.CUT
    return ReplyFault.REASONING if kinds & {"thinking", "reasoning"} else ReplyFault.EMPTY


def words_in(response: Any) -> str:
    """What a backend says in an error that it sent under the status of a success; empty for other replies."""
    raw = _get(response, "provider_data")
    return " ".join(message_in(raw).split())[:_WORDS] if isinstance(raw, Mapping) and "choices" not in raw else ""


def _parts(response: Any) -> Iterator[tuple[str, str]]:
    """Kind and text of each part of a reply that is there."""
    for part in _get(_get(response, "message"), "parts") or ():
        yield str(_get(part, "type")), str(_get(part, "text") or "")
    for choice in _get(response, "choices") or ():
        message = _get(choice, "message")
        yield "text", str(_get(message, "content") or _get(choice, "text") or "")
        named = {"tool_calls": "tool_call", "reasoning_content": "reasoning", "refusal": "refusal"}
        yield from ((kind, "") for name, kind in named.items() if _get(message, name))


def _reasons(response: Any) -> Iterator[Any]:
    yield _get(response, "finish_reason")
    yield _get(_get(response, "incomplete_details"), "reason")
    for choice in _get(response, "choices") or ():
        yield _get(choice, "finish_reason")


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
