"""Exceptions as data: the classes they are of, the exceptions they came from, and what an LM's provider answered.

Classes are known by their full names, so neither DSPy nor any client has to be installed or loaded.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

__all__ = ["LM", "came_from", "error_text", "is_a", "links", "message_in", "names", "provider_words"]

LM = "dspy.utils.exceptions."
"""Where DSPy keeps the errors of LMs and adapters."""
_LONGEST_BODY = 20_000
_WORDS = 500
"""Characters of a provider's message that are read."""
_MESSAGE_KEYS = ("message", "msg", "detail", "error", "errors", "error_message", "description", "reason", "title")


def names(error: BaseException) -> tuple[str, ...]:
    """Full names of an exception's classes, the most specific first."""
    return tuple(f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__)


def is_a(error: BaseException, *wanted: str) -> bool:
    """Whether an exception is of one of these classes, by full name."""
    return not set(wanted).isdisjoint(names(error))


def links(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was explicitly raised from, and what a group holds, outermost first."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        link = waiting.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [inner for inner in getattr(link, "exceptions", ()) if isinstance(inner, BaseException)]
        waiting += [link.__cause__] if link.__cause__ is not None else []


def came_from(error: BaseException) -> Iterator[BaseException]:
    """The exception and, one after the other, what each was raised from or while that was handled."""
    seen: dict[int, BaseException] = {}
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen[id(link)] = link
        yield link
        link = link.__cause__ or link.__context__


def error_text(error: BaseException) -> str:
    """The message of an exception, and for an LM's error what else its provider said; empty if it can't be printed."""
    try:
        text = str(error)
    except Exception:  # a broken __str__ of the user's own exception
        return ""
    words = provider_words(error)
    return text if words in text else f"{text} {words}".strip()


def provider_words(error: BaseException) -> str:
    """The message in the body of a provider's answer; empty if no answer came or it has none.

    DSPy's clients know the bodies of the big providers. Of `{"object": "error", "message": ...}` (vLLM), of
    `{"detail": ...}` (FastAPI) and of lists their errors tell nothing, so this looks at the answer itself.
    """
    if not is_a(error, LM + "LMError") or not isinstance(getattr(error, "status", None), int):
        return ""
    for link in came_from(error):
        if link is not error and is_a(link, LM + "LMError"):
            break  # an earlier call's
        if words := message_in(_body(link)):
            return " ".join(words.split())[:_WORDS]
    return ""


def _body(error: BaseException) -> Any:
    """The body of the HTTP answer that an exception is about."""
    with suppress(Exception):  # httpx raises for a body that was streamed
        if isinstance(text := error.response.text, str) and text:  # type: ignore[attr-defined]
            return text
    if body := getattr(error, "body", None):
        return body
    # DSPy's native client keeps the answer nowhere but in the frame that raised.
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if str(frame.f_globals.get("__name__", "")).startswith("dspy."):
            for value in list(frame.f_locals.values()):
                if type(value).__name__ == "HttpResponse" and isinstance(body := getattr(value, "body", None), bytes):
                    return body.decode("utf-8", "replace")
    return None


def message_in(body: Any) -> str:
    """What an error's body says for people, whatever its shape; empty if it says nothing."""
    if isinstance(body, str):
        text = body.strip()[:_LONGEST_BODY]
        try:
            return message_in(json.loads(text)) if text[:1] in "{[" else "" if text[:1] == "<" else text
        except (ValueError, RecursionError):
            return text
    if isinstance(body, list):
        return "; ".join(filter(None, map(message_in, body[:3])))
    if isinstance(body, dict):
        where = ".".join(map(str, body["loc"])) + ": " if isinstance(body.get("loc"), list) else ""
        return next((where + words for key in _MESSAGE_KEYS if (words := message_in(body.get(key)))), "")
    return ""
