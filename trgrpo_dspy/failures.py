"""The one place that decides what a failure means.

Three kinds: the *program's own* failure is a verdict and gets the failure score; *infrastructure* is no verdict, so
the attempt stays unscored; *fatal* ends the run, because no further call can succeed.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator

from dspy.utils import exceptions as dspy_errors

from .errors import FatalError, InfrastructureError
from .rollout import Outcome

__all__ = ["Failure", "classify", "describe", "fatal_message", "outcome_of", "redact"]


class Failure(enum.Enum):
    """The kinds of failure."""

    PROGRAM = "program"
    INFRASTRUCTURE = "infrastructure"
    FATAL = "fatal"


_FATAL = (
    FatalError,
    dspy_errors.LMAuthError,
    dspy_errors.LMBillingError,
    dspy_errors.LMUnsupportedModelError,
    dspy_errors.LMConfigurationError,
    dspy_errors.LMUnsupportedFeatureError,
)
_OUTAGES = (
    InfrastructureError,
    dspy_errors.LMTransportError,
    dspy_errors.LMRateLimitError,
    dspy_errors.LMTimeoutError,
    dspy_errors.LMServerError,
    dspy_errors.LMLockTimeoutError,
    dspy_errors.LMUnexpectedError,
    ConnectionError,
    TimeoutError,
)
# Clients a tool may use, by name: none of them has to be installed.
_OUTAGE_NAMES = frozenset(
    {
        "httpx.TransportError",
        "httpcore.NetworkError",
        "httpcore.TimeoutException",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.Timeout",
        "requests.exceptions.ChunkedEncodingError",
        "urllib3.exceptions.HTTPError",
        "urllib.error.URLError",
        "http.client.HTTPException",
        "socket.gaierror",
        "aiohttp.client_exceptions.ClientConnectionError",
        "openai.APIConnectionError",
        "openai.RateLimitError",
        "openai.InternalServerError",
    }
)


def classify(error: BaseException) -> Failure:
    """Tell which kind of failure an exception is, by its type and by what it was raised from."""
    for link in _chain(error):
        if isinstance(link, dspy_errors.ContextWindowExceededError):
            return Failure.PROGRAM
        if isinstance(link, _FATAL):
            return Failure.FATAL
        if isinstance(link, _OUTAGES) or _is_client_outage(link):
            return Failure.INFRASTRUCTURE
    return Failure.PROGRAM


def outcome_of(error: BaseException) -> Outcome:
    """The outcome of an attempt that ended in this exception."""
    if classify(error) is not Failure.PROGRAM:
        return Outcome.INFRASTRUCTURE
    for link in _chain(error):
        if isinstance(link, dspy_errors.ContextWindowExceededError):
            return Outcome.CONTEXT_WINDOW
        if isinstance(link, dspy_errors.AdapterParseError):
            return Outcome.PARSE_ERROR
    return Outcome.PROGRAM_ERROR


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it was explicitly raised from, outermost first."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__


def _is_client_outage(error: BaseException) -> bool:
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__}
    if "urllib.error.HTTPError" in names:
        return _is_outage_status(getattr(error, "code", None))
    if names & {"httpx.HTTPStatusError", "requests.exceptions.HTTPError"}:
        return _is_outage_status(getattr(getattr(error, "response", None), "status_code", None))
    return bool(names & _OUTAGE_NAMES)


def _is_outage_status(status: object) -> bool:
    return isinstance(status, int) and (status in (408, 425, 429) or status >= 500)


def describe(error: BaseException, limit: int = 300) -> str:
    """Exception type and the last line of its message, without secrets: what may enter a prompt or a record."""
    if isinstance(error, dspy_errors.AdapterParseError):
        return "AdapterParseError: the reply could not be parsed into " + ", ".join(error.signature.output_fields)
    lines = [line.strip() for line in redact(_message(error)).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a broken __str__ of the user's own exception
        return ""


_SECRETS = re.compile(
    r"(?i)\b(?:sk|pk|rk|gsk|hf|xai|ghp|AIza|AKIA)[-_A-Za-z0-9*]{8,}|"
    r"(?:bearer|basic)\s+[A-Za-z0-9._~+/=*-]{6,}|"
    r"((?:api[-_ ]?key|token|secret|password|authorization|credential)[\w -]{0,20}?\s*[:=]\s*)['\"]?[^\s'\",;]{4,}|"
    r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)


def redact(text: str) -> str:
    """Blank what looks like a key, a bearer token, a password or credentials in an address."""
    return _SECRETS.sub(lambda m: (m.group(1) or "") + "***", text)


def fatal_message(error: BaseException, model: str, failed_requests: int = 0) -> str:
    """What is wrong, with which model, and what to do; no secrets.

    Args:
        error: What the backend said last.
        model: The LM's model string.
        failed_requests: How many requests failed in a row, where that is why the run ends.
    """
    if failed_requests:
        return (
            f"LM {model!r}: none of {failed_requests} requests was answered. Check that the service is up and the "
            f"address and network are right, then run again. The last error: {describe(error)}"
        )
    advice: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
        (
            dspy_errors.LMAuthError,
            "the key was refused: check the provider's API key in the environment or in dspy.LM(api_key=...)",
        ),
        (dspy_errors.LMBillingError, "the account has no credit or quota left: top it up, or use another model"),
        (
            dspy_errors.LMUnsupportedModelError,
            "the provider does not know this model: check the model string, e.g. 'openai/gpt-4o-mini'",
        ),
        (
            dspy_errors.LMUnsupportedFeatureError,
            "the model does not support what the program asks for: change the program's settings or the model",
        ),
        (
            dspy_errors.LMConfigurationError,
            "the LM is not configured: check dspy.LM(...) and the provider's environment variables",
        ),
    )
    hint = next((text for kind, text in advice if isinstance(error, kind)), "nothing further can succeed")
    return f"LM {model!r}: {hint}. The backend said: {describe(error)}"


def no_lm_message() -> str:
    """What to do when a program has no LM at all."""
    return (
        "no LM is configured: call dspy.configure(lm=dspy.LM('openai/gpt-4o-mini')) "
        "or give the program's predictors one"
    )
