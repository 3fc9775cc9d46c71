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


@pytest.mark.parametrize("engine", ["auto", "litellm"])
@pytest.mark.parametrize(("body", "fault"), REPLIES.values(), ids=REPLIES)
def test_what_a_reply_lacks(body: dict[str, Any], fault: ReplyFault | None, engine: str) -> None:
    with serve(response(json.dumps(body), kind="application/json")) as server:
        address = f"http://127.0.0.1:{server.port}/v1"
        lm = dspy.LM("openai/m", engine=engine, api_base=address, api_key="no key", cache=False, num_retries=0)
        lm("hello")
    assert reply_fault(lm.history[-1]["response"]) is fault


def test_an_error_under_the_status_of_a_success_is_no_reply() -> None:
    with serve(response(json.dumps({"object": "error", "message": "no"}), kind="application/json")) as server:
        lm = dspy.LM(
            "openai/m", api_base=f"http://127.0.0.1:{server.port}/v1", api_key="no", cache=False, num_retries=0
        )
        lm("hello")
    assert reply_fault(found := lm.history[-1]["response"]) is ReplyFault.NO_CHOICE
    assert words_in(found) == "no"
    assert words_in(None) == words_in({"provider_data": {"choices": [], "message": "no"}}) == ""


def test_nothing_is_raised_for_what_is_no_response() -> None:
    assert reply_fault(None) is reply_fault({}) is reply_fault("text") is ReplyFault.EMPTY
