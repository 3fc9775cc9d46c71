"""One place decides what a failure means, and no secret gets out of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import http.client
import socket
import ssl
import time
import urllib.error
from email.message import Message
from typing import Any

import aiohttp
import dspy
import httpcore
import httpx
import openai
import pydantic
import pytest
import requests
import urllib3
from dspy.utils import exceptions as dspy_errors
from hypothesis import given
from hypothesis import strategies as st

from trgrpo_dspy.errors import FatalError, InfrastructureError, SchemaVersionError
from trgrpo_dspy.failures.classify import (
    _SECRET_PATTERNS,
    Failure,
    classify,
    describe,
    fatal_message,
    is_interpreter_fault,
    no_lm_message,
    outcome_of,
    redact,
)  # fmt: skip
from trgrpo_dspy.failures.outcome import Outcome

PROGRAM, INFRASTRUCTURE, FATAL = Failure.PROGRAM, Failure.INFRASTRUCTURE, Failure.FATAL


def parse_error() -> dspy_errors.AdapterParseError:
    return dspy_errors.AdapterParseError("ChatAdapter", dspy.Signature("q -> a, b"), "a secret\nreply")


# --- The LM's errors

LM_ERRORS = {
    "LMError": INFRASTRUCTURE,
    "LMTransportError": INFRASTRUCTURE,
    "LMLockTimeoutError": INFRASTRUCTURE,
    "LMCollectionLimitError": PROGRAM,
    "LMConfigurationError": FATAL,
    "LMNotConfiguredError": FATAL,
    "LMUnsupportedFeatureError": FATAL,
    "LMProviderError": INFRASTRUCTURE,
    "LMUnexpectedError": INFRASTRUCTURE,
    "LMStreamAssemblyError": INFRASTRUCTURE,
    "LMAuthError": FATAL,
    "LMBillingError": FATAL,
    "LMRateLimitError": INFRASTRUCTURE,
    "LMInvalidRequestError": PROGRAM,
    "ContextWindowExceededError": PROGRAM,
    "LMUnsupportedModelError": FATAL,
    "LMTimeoutError": INFRASTRUCTURE,
    "LMServerError": INFRASTRUCTURE,
}


def lm_error(name: str) -> Exception:
    error = getattr(dspy_errors, name)
    return error() if name == "ContextWindowExceededError" else error("no")


def test_every_lm_error_of_dspy_has_been_thought_about() -> None:
    """A new class in DSPy wants a line above."""
    found = {
        name
        for name, value in vars(dspy_errors).items()
        if isinstance(value, type) and issubclass(value, dspy_errors.LMError)
    }
    assert found == set(LM_ERRORS)


@pytest.mark.parametrize(("name", "kind"), LM_ERRORS.items())
def test_lm_errors(name: str, kind: Failure) -> None:
    assert classify(lm_error(name)) is kind


def test_what_dspy_would_retry_is_infrastructure() -> None:
    for name, kind in LM_ERRORS.items():
        if dspy_errors.is_retryable_lm_error(lm_error(name)):
            assert kind is INFRASTRUCTURE


# --- Outages of tools


def http_error(status: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("https://x", status, "no", Message(), None)


def httpx_status(status: int) -> httpx.HTTPStatusError:
    request = httpx.Request("GET", "https://x")
    return httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def requests_status(status: int | None) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("no", response=response if status else None)


def aiohttp_status(status: int) -> aiohttp.ClientResponseError:
    info = aiohttp.RequestInfo(url=None, method="GET", headers=None, real_url="https://x")  # type: ignore[arg-type]
    return aiohttp.ClientResponseError(info, (), status=status)


def openai_status(status: int) -> openai.APIStatusError:
    response = httpx.Response(status, request=httpx.Request("GET", "https://x"))
    kind = {429: openai.RateLimitError, 404: openai.NotFoundError}.get(status, openai.InternalServerError)
    return kind("no", response=response, body=None)


@pytest.mark.parametrize("make", [http_error, httpx_status, requests_status, aiohttp_status, openai_status])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, INFRASTRUCTURE), (500, INFRASTRUCTURE), (503, INFRASTRUCTURE), (408, INFRASTRUCTURE), (404, PROGRAM)],
)
def test_the_status_of_an_http_error_decides(make: Any, status: int, kind: Failure) -> None:
    assert classify(make(status)) is kind


@pytest.mark.parametrize("status", [400, 401, 403, 410, 422])
def test_other_client_errors_are_the_programs_own(status: int) -> None:
    assert classify(http_error(status)) is classify(httpx_status(status)) is PROGRAM


def test_an_http_error_without_a_response_is_the_programs_own() -> None:
    assert classify(requests_status(None)) is PROGRAM


@pytest.mark.parametrize(
    "error",
    [
        InfrastructureError("the search service is down"),
        ConnectionError("no"),
        ConnectionResetError("no"),
        BrokenPipeError("no"),
        TimeoutError("no"),
        asyncio.TimeoutError("no"),  # another class on Python 3.10
        concurrent.futures.TimeoutError("no"),
        socket.gaierror("no"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        OSError(errno.EHOSTUNREACH, "No route to host"),
        ssl.SSLError("no"),
        http.client.RemoteDisconnected("no"),
        http.client.IncompleteRead(b""),
        urllib.error.URLError("no"),
        urllib3.exceptions.MaxRetryError(None, "https://x"),  # type: ignore[arg-type]
        urllib3.exceptions.ProtocolError("no"),
        requests.ConnectionError("no"),
        requests.Timeout("no"),
        requests.exceptions.ChunkedEncodingError("no"),
        httpx.ConnectError("no"),
        httpx.ReadTimeout("no"),
        httpx.RemoteProtocolError("no"),
        httpcore.ConnectError("no"),
        httpcore.ReadTimeout("no"),
        aiohttp.ServerDisconnectedError("no"),
        aiohttp.ServerTimeoutError("no"),
        aiohttp.ClientPayloadError("no"),
        openai.APIConnectionError(request=httpx.Request("GET", "https://x")),
        openai.APITimeoutError(request=httpx.Request("GET", "https://x")),
    ],
    ids=lambda error: f"{type(error).__module__}.{type(error).__name__}",
)
def test_dead_connections_are_infrastructure(error: Exception) -> None:
    assert classify(error) is INFRASTRUCTURE
    assert outcome_of(error) is Outcome.INFRASTRUCTURE


def test_a_fault_of_python_itself_is_no_verdict_on_the_program() -> None:
    """As CPython's 'AST constructor recursion depth mismatch', which a ReAct agent in many threads may meet."""
    fault = raised_from(RuntimeError("no signature"), SystemError("AST constructor recursion depth mismatch"))
    assert classify(fault) is INFRASTRUCTURE
    assert is_interpreter_fault(fault)
    assert not is_interpreter_fault(raised_from(RuntimeError("no"), RecursionError()))


class LibraryTimeoutError(TimeoutError):
    """A subclass, as libraries have them."""


class MyFatal(FatalError):
    """A subclass of ours."""


def test_subclasses_count_as_what_they_are_derived_from() -> None:
    assert classify(LibraryTimeoutError()) is INFRASTRUCTURE
    assert classify(MyFatal()) is FATAL


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        KeyError("no"),
        ZeroDivisionError("no"),
        RecursionError("no"),
        FileNotFoundError(errno.ENOENT, "no"),
        PermissionError(errno.EACCES, "no"),
        OSError("no"),
        parse_error(),
        SchemaVersionError("no"),
        httpx.UnsupportedProtocol("the model asked for foo://x"),
        httpx.InvalidURL("no"),
        requests.exceptions.MissingSchema("no"),
        urllib3.exceptions.LocationParseError("no"),
        http.client.InvalidURL("no"),
        type("ConnectionError", (Exception,), {})("a class that only has the name"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_everything_else_is_the_programs_own(error: Exception) -> None:
    assert classify(error) is PROGRAM


# --- Chains


def raised_from(error: Exception, cause: BaseException | None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_what_an_error_was_raised_from_decides() -> None:
    assert classify(raised_from(ValueError("no"), ConnectionError())) is INFRASTRUCTURE
    assert classify(raised_from(ValueError(), raised_from(KeyError(), http_error(503)))) is INFRASTRUCTURE
    assert classify(raised_from(ValueError("no"), http_error(404))) is PROGRAM
    assert classify(raised_from(RuntimeError("no"), lm_error("LMAuthError"))) is FATAL
    assert classify(raised_from(RuntimeError("no"), None)) is PROGRAM


def test_an_error_while_another_was_handled_is_its_own() -> None:
    try:
        try:
            raise ConnectionError
        except ConnectionError:
            raise ValueError("a bug in the handler")  # noqa: B904
    except ValueError as error:
        assert error.__context__ is not None
        assert classify(error) is PROGRAM


def test_the_outermost_known_kind_decides() -> None:
    assert classify(raised_from(lm_error("LMAuthError"), ConnectionError())) is FATAL
    assert classify(raised_from(lm_error("ContextWindowExceededError"), lm_error("LMServerError"))) is PROGRAM


def test_a_circle_of_causes_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert classify(first) is PROGRAM


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("no"), Outcome.PROGRAM_ERROR),
        (parse_error(), Outcome.PARSE_ERROR),
        (raised_from(RuntimeError("no"), parse_error()), Outcome.PARSE_ERROR),
        (lm_error("ContextWindowExceededError"), Outcome.CONTEXT_WINDOW),
        (raised_from(RuntimeError(), lm_error("ContextWindowExceededError")), Outcome.CONTEXT_WINDOW),
        (lm_error("LMInvalidRequestError"), Outcome.PROGRAM_ERROR),
        (lm_error("LMRateLimitError"), Outcome.INFRASTRUCTURE),
        (lm_error("LMAuthError"), Outcome.INFRASTRUCTURE),
    ],
)
def test_outcomes(error: Exception, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


# --- What may be told


class Unprintable(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


class Count(pydantic.BaseModel):
    """Something that validates."""

    n: int


def validation_error() -> pydantic.ValidationError:
    with pytest.raises(pydantic.ValidationError) as caught:
        Count(n="many")  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "ValueError: no"),
        (ValueError(), "ValueError"),
        (ValueError("  \n "), "ValueError"),
        (ValueError("Traceback:\n  File \"/home/me/x.py\", line 1\nKeyError: 'x'\n\n"), "ValueError: KeyError: 'x'"),
        (ValueError("one\u2028two"), "ValueError: two"),
        (KeyError("x"), "KeyError: 'x'"),
        (Unprintable(), "Unprintable"),
        (parse_error(), "AdapterParseError: the reply could not be parsed into a, b"),
        (lm_error("LMServerError"), "LMServerError: no"),
        (ValueError("key sk-proj-abc123def456 refused"), "ValueError: key *** refused"),
    ],
    ids=repr,
)
def test_a_failure_is_told_in_its_type_and_last_line(error: Exception, text: str) -> None:
    assert describe(error) == text


def test_a_secret_on_a_line_of_its_own_is_blanked_too() -> None:
    assert "hunter2" not in describe(ValueError("api_key:\n  hunter2hunter2"))


def test_a_validation_error_tells_what_was_wrong_and_not_where_to_read_on() -> None:
    assert describe(validation_error()).startswith("ValidationError: Input should be a valid integer")


def test_a_failure_is_told_in_at_most_so_many_characters() -> None:
    text = describe(ValueError("x" * 10_000))
    assert len(text) == 300
    assert text.endswith("…")
    assert len(describe(ValueError("x" * 10_000), 50)) == 50


@given(st.text())
def test_a_failure_is_told_in_one_line(text: str) -> None:
    assert len(describe(ValueError(text)).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LMAuthError", "the key was refused: check the provider's API key"),
        ("LMBillingError", "no credit or quota left"),
        ("LMUnsupportedModelError", "does not know this model"),
        ("LMUnsupportedFeatureError", "does not support what the program asks for"),
        ("LMNotConfiguredError", "is not configured"),
        ("LMServerError", "nothing further can succeed"),
    ],
)
def test_a_fatal_error_names_the_model_and_what_to_do(name: str, words: str) -> None:
    message = fatal_message(lm_error(name), "openai/gpt-4o-mini")
    assert message.startswith("LM 'openai/gpt-4o-mini': ")
    assert words in message
    assert message.endswith(f"The backend said: {name}: no")


def test_a_fatal_message_has_no_key() -> None:
    error = dspy_errors.LMAuthError("Incorrect API key provided: sk-proj-abcdef123456.")
    assert "abcdef" not in fatal_message(error, "openai/gpt-4o-mini")


def test_a_program_without_an_lm_is_told_how_to_configure_one() -> None:
    assert "dspy.configure(lm=dspy.LM(" in no_lm_message()


SECRET = "Zx81Qp47Lm22Vb90"
LEAKS = [
    f"sk-{SECRET}",
    f"sk-proj-{SECRET}-{SECRET}",
    "Incorrect API key provided: sk-Zx81***Vb90. Find yours at https://x",
    f"gsk_{SECRET}",
    f"hf_{SECRET}",
    f"xai-{SECRET}",
    f"ghp_{SECRET}",
    f"github_pat_{SECRET}",
    f"AIza{SECRET}",
    f"AKIA{SECRET}",
    f"eyJ{SECRET}.eyJ{SECRET}.{SECRET}",
    f"Bearer {SECRET}",
    f"Authorization: Bearer {SECRET}",
    f"authorization: Basic {SECRET}==",
    f"'Authorization': 'Token {SECRET}'",
    f"Authorization={SECRET} and more",
    f"Basic {SECRET}==",
    f"api_key={SECRET}",
    f'{{"api_key": "{SECRET}"}}',
    f"'api-key': '{SECRET}'",
    f"OPENAI_API_KEY={SECRET}",
    f"x-api-key: {SECRET}",
    f"aws_secret_access_key = {SECRET}",
    f"client_secret: {SECRET}",
    f"password={SECRET}",
    f"Password: {SECRET}",
    f"token={SECRET}",
    f"access_token: {SECRET}",
    f'"refresh_token": "{SECRET}"',
    f"https://x/?key={SECRET}&n=1",
    f"https://x/?a=1&sig={SECRET}",
    f"https://user:{SECRET}@host/x",
    f"postgres://user:{SECRET}@host:5432/db",
    f"https://user:{SECRET}@{SECRET}@host/x",
    f"https://{SECRET}@host/x",
]


@pytest.mark.parametrize("text", LEAKS)
def test_secrets_are_blanked(text: str) -> None:
    told = redact(f"call failed ({text})")
    assert SECRET not in told
    assert "Zx81" not in told
    assert "Vb90" not in told
    assert "***" in told
    assert told.startswith("call failed (")
    assert redact(told) == told


ORDINARY = [
    "the token count: 12",
    "max_tokens: 4096 exceeds the limit",
    "tokens=12000, limit=8192",
    "token limit: 128000",
    "Unexpected token: identifier at 3",
    "the basic strategy is right; basic understanding of JavaScript",
    "skepticism about skateboards, hfs and pkgs",
    "no bearer capabilities",
    "KeyError: 'authorization'",
    "key 'name' not found in {'secretary': 3}",
    "see https://example.com/a?b=c or mail me@example.com",
    "risk-based sk-learn pk_id",
    "2024-01-01T10:00:00 user@host: ready",
    "expected ':' at line 4, column 7",
    "",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "piece", ["a", "token ", "secret ", "://", "bearer ", "sk-", "?key=", "-", "api key ", "authorization ", "eyJ", "1"]
)
def test_long_messages_take_no_time(piece: str) -> None:
    start = time.perf_counter()
    redact(piece * 20_000)
    assert time.perf_counter() - start < 2


PIECES = [
    "sk-", "ghp_", "AKIA", "eyJ", "Authorization", "Bearer", "BASIC", "api_key", "Secret", "passwd", "token", "://",
    "=", "credential", "?sig=", "user:pw@", ":", " ", "\n", "a1b2c3d4e5f6", "x" * 20, "\u017fecret", "\u212aey", "'",
    "-",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_no_pattern_is_left_out_that_would_have_matched(parts: list[str]) -> None:
    text = expected = "".join(parts)
    for _, pattern in _SECRET_PATTERNS:
        expected = pattern.sub(r"\1***", expected)
    assert redact(text) == expected
