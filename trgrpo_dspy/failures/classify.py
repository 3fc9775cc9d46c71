"""The one place that decides what a failure means.

Three kinds: the *program's own* failure is a verdict and gets the failure score; *infrastructure* is no verdict, so
the attempt stays unscored; *fatal* ends the run, because no further call can succeed.
"""

from __future__ import annotations

import enum
import errno
import operator
import re

from trgrpo_dspy.errors import FatalError, InfrastructureError
from trgrpo_dspy.failures.outcome import Outcome

from .errors import LM, came_from, error_text, is_a, links, names

__all__ = [
    "Failure", "classify", "is_backend_failure", "is_context_window", "is_interpreter_fault", "is_tool_outage",
    "note_answered", "outcome_of", "refused_parameter", "says_context_window", "worth_retrying",
]  # fmt: skip


class Failure(enum.Enum):
    """The kinds of failure."""

    PROGRAM = "program"
    INFRASTRUCTURE = "infrastructure"
    FATAL = "fatal"


_LM_ERRORS = {
    Failure.FATAL: "LMAuthError LMBillingError LMUnsupportedModelError LMConfigurationError LMUnsupportedFeatureError",
    Failure.PROGRAM: "LMInvalidRequestError LMCollectionLimitError",
    # A provider's error of no known kind is no verdict on the program.
    Failure.INFRASTRUCTURE: "LMTransportError LMRateLimitError LMTimeoutError LMServerError LMLockTimeoutError "
    "LMUnexpectedError LMProviderError LMError",
}
# Clients a tool may use. Python 3.10 has three kinds of TimeoutError; SystemError: see `is_interpreter_fault`.
_OUTAGES = """
builtins.ConnectionError builtins.TimeoutError builtins.SystemError
asyncio.exceptions.TimeoutError concurrent.futures._base.TimeoutError
socket.gaierror ssl.SSLError urllib.error.URLError http.client.HTTPException
httpx.TransportError httpcore.NetworkError httpcore.TimeoutException
requests.exceptions.ConnectionError requests.exceptions.Timeout requests.exceptions.ChunkedEncodingError
urllib3.exceptions.HTTPError openai.APIConnectionError
aiohttp.client_exceptions.ClientConnectionError aiohttp.client_exceptions.ClientPayloadError
"""
# Derived from the above, but what was asked for was no address: the program's own fault.
_BAD_ADDRESSES = "httpx.UnsupportedProtocol urllib3.exceptions.LocationValueError http.client.InvalidURL"
_KIND_OF = {
    **{LM + name: kind for kind, listed in _LM_ERRORS.items() for name in listed.split()},
    **dict.fromkeys(_OUTAGES.split(), Failure.INFRASTRUCTURE),
    **dict.fromkeys(_BAD_ADDRESSES.split(), Failure.PROGRAM),
}
"""Kinds by class name; the most specific class of an exception that is listed here or below decides."""
_STATUS_OF = {
    "urllib.error.HTTPError": "code",
    "httpx.HTTPStatusError": "response.status_code",
    "requests.exceptions.HTTPError": "response.status_code",
    "aiohttp.client_exceptions.ClientResponseError": "status",
    "openai.APIStatusError": "status_code",
}
"""Answers of a server to a tool: the status decides, and this is where they keep it."""
_OUTAGE_ERRNO = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH})

_CONTEXT_WINDOW = re.compile(
    r"(?i)maximum (?:context|prompt|model) length|context[ _]length[ _]exceeded|too many tokens"
    r"|(?:exceed\w*|(?:longer|larger|greater) than)\b.{0,40}\bcontext (?:window|length|size)"
    r"|context (?:window|length|size)\b.{0,40}\b(?:exceeded|too small|overflow)"
    r"|(?:prompt|input|request) is too long|input (?:token count|length)\b.{0,40}\bexceeds"
    r"|reduce the length of the (?:messages|prompt|input)|`inputs` (?:tokens|must have less)"
)
"""What providers write when a prompt does not fit, whatever status and shape their answer has."""
_LOADING = re.compile(
    r"(?i)\b(?:is|still|currently|being) (?:\w+ )?(?:loading|loaded|starting|warming|initiali[sz])"
    r"|\bnot (?:yet )?ready\b|\bcold start\b"
)
_FLAGGED = re.compile(r"(?i)\bflagged\b|\bmoderation\b|\bcontent[ _-](?:policy|filter|management)|\bsafety\b")
_REFUSES = re.compile(
    r"(?i)support|not allowed|not permitted|deprecat|unknown|unrecogni|unexpected|extra|only the default|invalid"
    r"|may only be|must be|must not|cannot be|can't be|should be|out of range|not available|not accept|fixed"
)
_ANSWERED = "trgrpo_answered_before"


def note_answered(error: BaseException) -> None:
    """Note on an LM's error that this model has answered before, with the same key.

    Then a 403 refuses this one request, and a 404 is a model that is being loaded again: neither ends the run.
    """
    setattr(error, _ANSWERED, True)


def classify(error: BaseException) -> Failure:
    """Tell which kind of failure an exception is, by its class and by what it was raised from."""
    for link in links(error):
        if (kind := _kind_of_one(link)) is not None:
            return kind
    return Failure.PROGRAM


def _kind_of_one(error: BaseException) -> Failure | None:
    """The kind of an exception by itself; None where only what it was raised from can tell."""
    if isinstance(error, FatalError):
        return Failure.FATAL
    if isinstance(error, InfrastructureError):
        return Failure.INFRASTRUCTURE
    if isinstance(error, OSError) and error.errno in _OUTAGE_ERRNO:
        return Failure.INFRASTRUCTURE
    if is_a(error, LM + "LMError"):
        return _kind_of_lm_error(error)
    for name in names(error):
        if name in _KIND_OF:
            return _KIND_OF[name] if _KIND_OF[name] is not Failure.PROGRAM else None
        if name in _STATUS_OF:
            return Failure.INFRASTRUCTURE if _is_outage_status(error, _STATUS_OF[name]) else None
    return None


def _kind_of_lm_error(error: BaseException) -> Failure | None:
    if is_context_window(error):
        return Failure.PROGRAM
    status, answered = getattr(error, "status", None), getattr(error, _ANSWERED, False)
    if status == 403 and is_a(error, LM + "LMAuthError") and (answered or _FLAGGED.search(error_text(error))):
        return Failure.PROGRAM  # the key is good, this request is refused
    missing = status == 404 and is_a(error, LM + "LMInvalidRequestError")  # an unsupported model is one of these
    if missing and (answered or _LOADING.search(error_text(error))):
        return Failure.INFRASTRUCTURE
    kind = next(_KIND_OF[name] for name in names(error) if name in _KIND_OF)
    return None if kind is Failure.PROGRAM else kind


def _is_outage_status(error: BaseException, path: str) -> bool:
    try:
        status = operator.attrgetter(path)(error)
    except AttributeError:  # no response came
        return False
    return isinstance(status, int) and (status in (408, 425, 429) or status >= 500)


def is_context_window(error: BaseException) -> bool:
    """Whether an LM's error, by itself, says that the prompt does not fit: by its class or in the provider's words."""
    if is_a(error, LM + "ContextWindowExceededError"):
        return True
    refused = is_a(error, LM + "LMInvalidRequestError", LM + "LMServerError")
    return refused and says_context_window(error_text(error))


def says_context_window(words: str) -> bool:
    """Whether these words of a provider say that the prompt does not fit."""
    return _CONTEXT_WINDOW.search(words) is not None


def refused_parameter(error: BaseException) -> str:
    """Which of 'temperature' and 'seed' a model refuses, so that the request may succeed without; empty if neither."""
    for link in links(error):
        if is_a(link, LM + "LMInvalidRequestError", LM + "LMUnsupportedFeatureError") and not is_context_window(link):
            text = f"{error_text(link)} {getattr(link, 'feature', None) or ''}"
            if _REFUSES.search(text) or is_a(link, LM + "LMUnsupportedFeatureError"):
                return next((name for name in ("temperature", "seed") if re.search(rf"\b{name}\b", text)), "")
    return ""


def outcome_of(error: BaseException) -> Outcome:
    """The outcome of an attempt that ended in this exception."""
    if classify(error) is not Failure.PROGRAM:
        return Outcome.INFRASTRUCTURE
    for link in links(error):
        if is_context_window(link):
            return Outcome.CONTEXT_WINDOW
        if is_a(link, LM + "AdapterParseError"):
            return Outcome.PARSE_ERROR
    return Outcome.PROGRAM_ERROR


def is_tool_outage(error: BaseException) -> bool:
    """Whether a tool's error is an outage, also where the tool caught that and raised something else in its place."""
    for link in came_from(error):
        if classify(link) is Failure.INFRASTRUCTURE:
            return True
        if link.__cause__ is None and link.__suppress_context__:  # `raise ... from None`
            break
    return False


def is_interpreter_fault(error: BaseException) -> bool:
    """Whether Python itself failed, as some versions do where threads parse code side by side (CPython gh-106905).

    DSPy parses code whenever a ReAct agent goes a step on, so a run with many threads may meet it.
    """
    return any(isinstance(link, SystemError) for link in links(error))


def is_backend_failure(error: BaseException) -> bool:
    """Whether a request got no reply: an outage, or a refusal that every request may meet (an unknown parameter)."""
    kind = classify(error)
    refused = is_a(error, LM + "LMInvalidRequestError") and not is_context_window(error)
    flagged = is_a(error, LM + "LMAuthError") and kind is Failure.PROGRAM
    return isinstance(error, Exception) and (kind is Failure.INFRASTRUCTURE or refused or flagged)


def worth_retrying(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later.

    What DSPy retries, a reply that is no reply (broken JSON from a proxy), and a dead connection that a custom engine
    reports as it is; an engine's bug is none of these.
    """
    if not isinstance(error, Exception) or classify(error) is not Failure.INFRASTRUCTURE:
        return False
    bug = names(error)[0] == LM + "LMUnexpectedError"
    causes = [link for link in links(error) if link is not error]
    return not bug or any(_kind_of_one(link) is Failure.INFRASTRUCTURE for link in causes)
