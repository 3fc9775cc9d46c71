"""The one place that decides what a failure means.

Three kinds: the *program's own* failure is a verdict and gets the failure score; *infrastructure* is no verdict, so
the attempt stays unscored; *fatal* ends the run, because no further call can succeed.
"""

from __future__ import annotations

import enum
import errno
import operator
import re
from collections.abc import Iterator

from dspy.utils import exceptions as dspy_errors

from trgrpo_dspy.errors import FatalError, InfrastructureError
from trgrpo_dspy.failures.outcome import Outcome

from .secrets import blank

__all__ = [
    "Failure", "classify", "describe", "fatal_message", "is_backend_failure", "is_interpreter_fault", "is_tool_outage",
    "outcome_of", "redact", "worth_retrying",
]  # fmt: skip


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
    SystemError,  # Python's own fault, see `is_interpreter_fault`
)
_UNCLASSIFIED = (dspy_errors.LMError, dspy_errors.LMProviderError)
_OUTAGE_ERRNO = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH})
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
        "ssl.SSLError",
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "openai.APIConnectionError",
        # Python 3.10 has three kinds of TimeoutError.
        "asyncio.exceptions.TimeoutError",
        "concurrent.futures._base.TimeoutError",
    }
)
# Derived from the above, but what was asked for was no address: the program's own fault.
_BAD_ADDRESS_NAMES = frozenset(
    {"httpx.UnsupportedProtocol", "urllib3.exceptions.LocationValueError", "http.client.InvalidURL"}
)
# Answers of a server: the status decides, and this is where they keep it.
_STATUS_OF = {
    "urllib.error.HTTPError": "code",
    "httpx.HTTPStatusError": "response.status_code",
    "requests.exceptions.HTTPError": "response.status_code",
    "aiohttp.client_exceptions.ClientResponseError": "status",
    "openai.APIStatusError": "status_code",
}


def classify(error: BaseException) -> Failure:
    """Tell which kind of failure an exception is, by its type and by what it was raised from."""
    for link in _chain(error):
        if isinstance(link, dspy_errors.ContextWindowExceededError):
            return Failure.PROGRAM
        if isinstance(link, _FATAL):
            return Failure.FATAL
        if _is_outage(link):
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


def is_tool_outage(error: BaseException) -> bool:
    """Whether a tool's error is an outage, also where the tool caught that and raised something else in its place."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if classify(link) is Failure.INFRASTRUCTURE:
            return True
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return False


def is_interpreter_fault(error: BaseException) -> bool:
    """Whether Python itself failed, as some versions do where threads parse code side by side (CPython gh-106905).

    DSPy parses code whenever a ReAct agent goes a step on, so a run with many threads may meet it.
    """
    return any(isinstance(link, SystemError) for link in _chain(error))


def _is_outage(error: BaseException) -> bool:
    # A provider's error of no known kind is no verdict on the program; a kind of its own is looked at above.
    return isinstance(error, _OUTAGES) or type(error) in _UNCLASSIFIED or _is_client_outage(error)


def _is_client_outage(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _OUTAGE_ERRNO:
        return True
    names = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(error).__mro__]
    if path := next((_STATUS_OF[name] for name in names if name in _STATUS_OF), None):
        return _is_outage_status(error, path)
    return not _OUTAGE_NAMES.isdisjoint(names) and _BAD_ADDRESS_NAMES.isdisjoint(names)


def _is_outage_status(error: BaseException, path: str) -> bool:
    try:
        status = operator.attrgetter(path)(error)
    except AttributeError:  # no response came
        return False
    return isinstance(status, int) and (status in (408, 425, 429) or status >= 500)


_PYDANTIC_LINK = "For further information visit https://errors.pydantic.dev/"


def describe(error: BaseException, limit: int = 300) -> str:
    """Exception type and the line of its message that tells, without secrets: what may enter a prompt or a record.

    That is the last line, as in a traceback; for an LM's error the first, which general advice follows.
    """
    if isinstance(error, dspy_errors.AdapterParseError):
        return "AdapterParseError: the reply could not be parsed into " + ", ".join(error.signature.output_fields)
    lines = [line.strip() for line in redact(_message(error)).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(_PYDANTIC_LINK)] or lines
    line = 0 if isinstance(error, dspy_errors.LMError) else -1
    text = f"{type(error).__name__}: {lines[line]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a broken __str__ of the user's own exception
        return ""


_VALUE = r"""[^\s'",;&]"""
_RANDOM = rf"(?:(?={_VALUE}*[0-9]){_VALUE}{{8,}}|{_VALUE}{{20,}})"  # a long word, or one with digits in it
_IS = r"""["']?\s*[:=]\s*["']?"""
_NAMED = r"(?:api[-_ ]?key|access[-_ ]?key|private[-_ ]?key|secret|password|passwd)"
# Keys of known make begin so.
_MAKES = r"(?:sk|pk|rk|gsk|hf|xai|nvapi|glpat|r8|xox[a-z]|gh[a-z]|github_pat)[-_]"
# Group 1 is what stays. Before each: texts in lower case, one of which is in all that the pattern matches.
_SECRETS = (
    # Keys of known make, masked ones too: sk-..., ghp_..., AKIA..., and JSON web tokens.
    (
        ("-", "_"),
        rf"()\b{_MAKES}"
        r"(?:(?=[A-Za-z_-]*[0-9*])[-\w*]{8,}|[-\w*]{20,})",
    ),
    (("aiza", "akia", "asia", "eyj", "ya29"), r"()\b(?:AIza|AKIA|ASIA|eyJ|ya29)[-._A-Za-z0-9*]{8,}"),
    # Headers, which may name a scheme before the secret.
    (
        ("authorization",),
        rf"(?i:(authorization{_IS}(?:(?:bearer|basic|digest|token|apikey|negotiate)\s+)?){_VALUE}+)",
    ),
    (("bearer",), rf"(?i:(\bbearer\s+){_RANDOM})"),
    (("basic",), r"(?i:(\bbasic\s+)(?=[a-z0-9+/]*[0-9+/=])[a-z0-9+/]{8,}=*)"),
    # Names with a value after ':' or '='. 'max_tokens: 4096' and 'unexpected token: foo' tell nothing.
    (("key", "secret", "passw"), rf"(?i:({_NAMED}[\w -]{{0,20}}?{_IS}){_VALUE}{{4,}})"),
    (
        ("token", "credential"),
        rf"(?i:((?:token(?!s)|credential)[\w -]{{0,20}}?{_IS})(?!\d+(?:\.\d+)?\b){_RANDOM})",
    ),
    (("=",), rf"(?i:([?&](?:key|sig|signature|auth)=|(?:\b|_)token=)(?!\d+\b){_VALUE}+)"),
    # User and password in an address.
    (("://",), r"((?<=://))[^/\s?#'\"]+(?=@)"),
)
_SECRET_PATTERNS = tuple((needed, re.compile(pattern)) for needed, pattern in _SECRETS)
_ANY_SECRET = re.compile("|".join([_MAKES, *(re.escape(part) for needed, _ in _SECRETS[1:] for part in needed)]))
"""A look, in lower case, for all that one of these would need: most texts hold none of it."""


def redact(text: str) -> str:
    """Blank the secrets of the LMs in use, and what looks like a key, a token, a password or an address with one."""
    text = blank(text)
    # Letters outside ASCII may match one inside it without regard to case: then every pattern is tried.
    lower = text.lower() if text.isascii() else None
    if lower is not None and not _ANY_SECRET.search(lower):
        return text
    for needed, pattern in _SECRET_PATTERNS:
        if lower is None or any(part in lower for part in needed):
            text = pattern.sub(r"\1***", text)
    return text


def is_backend_failure(error: BaseException) -> bool:
    """Whether a request got no reply: an outage, or a refusal that every request may meet (an unknown parameter)."""
    refused = isinstance(error, dspy_errors.LMInvalidRequestError)
    too_long = isinstance(error, dspy_errors.ContextWindowExceededError)
    return isinstance(error, Exception) and (classify(error) is Failure.INFRASTRUCTURE or (refused and not too_long))


def worth_retrying(error: BaseException) -> bool:
    """Whether the same request may succeed a moment later.

    What DSPy retries, a reply that is no reply (broken JSON from a proxy), and a dead connection that a custom engine
    reports as it is; an engine's bug is none of these.
    """
    if not isinstance(error, Exception) or classify(error) is not Failure.INFRASTRUCTURE:
        return False
    bug = type(error) is dspy_errors.LMUnexpectedError
    return not bug or any(_is_outage(link) for link in _chain(error) if link is not error)


def fatal_message(error: BaseException, model: str, failed_requests: int = 0) -> str:
    """What is wrong, with which model, and what to do; no secrets.

    Args:
        error: What the backend said last.
        model: The LM's model string.
        failed_requests: How many requests failed in a row, where that is why the run ends.
    """
    if failed_requests:
        return (
            f"LM {model!r}: none of {failed_requests} requests got a reply. Check that the service is up and that "
            "address, network, timeout and parameters of the LM are right, then run again. "
            f"The last error: {describe(error)}"
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
