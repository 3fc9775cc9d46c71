"""What a reply lacks that holds no answer, as DSPy's two kinds of engines hand it over."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest
from support.loopback import response, serve

from trgrpo_dspy.failures.replies import ReplyFault, reply_fault, words_in

CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def choice(finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    chosen = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", **message}}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [chosen]}


REPLIES = {
    "an answer": (choice(content="yes"), None),
    "cut in an answer": (choice("length", content="ye"), None),
    "no choices": ({**choice(), "choices": []}, ReplyFault.NO_CHOICE),
    "null": (choice(content=None), ReplyFault.EMPTY),
    "empty": (choice(content=" \n"), ReplyFault.EMPTY),
    "filtered": (choice("content_filter", content=""), ReplyFault.FILTERED),
    "reasoning": (choice(content="", reasoning_content="so"), ReplyFault.REASONING),
    "cut in reasoning": (choice("length", content="", reasoning_content="so"), ReplyFault.CUT),
    "tool call": (choice("tool_calls", content=None, tool_calls=[CALL]), ReplyFault.TOOL_CALL),
    "refusal": (choice(content=None, refusal="I will not"), ReplyFault.REFUSED),
}  # fmt: skip


def replied(engine: str, body: dict[str, Any]) -> Any:
    """The response that an LM hands over whose backend answers so."""
    with serve(response(json.dumps(body), kind="application/json")) as server:
        address = f"http://127.0.0.1:{server.port}/v1"
        lm = dspy.LM("openai/m", engine=engine, api_base=address, api_key="no key", cache=False, num_retries=0)
        lm("hello")
    return lm.history[-1]["response"]


@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize(("body", "fault"), REPLIES.values(), ids=REPLIES)
def test_what_a_reply_lacks(body: dict[str, Any], fault: ReplyFault | None, engine: str) -> None:
    assert reply_fault(replied(engine, body)) is fault


def test_an_error_under_the_status_of_a_success_is_no_reply() -> None:
    found = replied("auto", {"object": "error", "message": "no"})
    assert reply_fault(found) is ReplyFault.NO_CHOICE
    assert words_in(found) == "no"
    assert words_in(None) == words_in({"provider_data": {"choices": [], "message": "no"}}) == ""
    assert reply_fault(None) is reply_fault({}) is reply_fault("text") is ReplyFault.EMPTY
