"""LM replies as plain data and back: what the journal keeps."""

from __future__ import annotations

from typing import Any

# dspy re-exports the record types but not their (de)serialisers.
from dspy._vendor.lm15.serde import response_from_dict, response_to_dict
from dspy.clients.call_result import attributes
from dspy.clients.legacy_outputs import plain
from dspy.lm15 import Response

__all__ = ["decode_reply", "encode_reply"]


def encode_reply(reply: Any) -> dict[str, Any] | None:
    """A reply as plain data; None for none."""
    if reply is None:
        return None
    if isinstance(reply, Response):
        return {"response": response_to_dict(reply, include_provider_data=True)}
    return {"outputs": plain(reply)}


def decode_reply(data: dict[str, Any]) -> Any:
    """What `encode_reply` took apart: a typed response, or a list of texts and records."""
    if "response" in data:
        return response_from_dict(data["response"])
    return attributes(data["outputs"])
