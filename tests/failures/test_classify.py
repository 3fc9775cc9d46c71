"""One place decides what a failure means."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import http.client
import json
import socket
import ssl
import urllib.error
from email.message import Message
from typing import Any

import aiohttp
import dspy
import httpcore
import httpx
import openai
import pytest
import requests
import urllib3
from dspy.utils import exceptions as dspy_errors
from support.loopback import response, serve

from trgrpo_dspy.errors import FatalError, InfrastructureError, SchemaVersionError
from trgrpo_dspy.failures.classify import (
    Failure,
    classify,
    is_backend_failure,
    is_interpreter_fault,
    is_tool_outage,
    note_answered,
    outcome_of,
    refused_parameter,
    worth_retrying,
)  # fmt: skip
from trgrpo_dspy.failures.messages import describe
from trgrpo_dspy.failures.outcome import Outcome

PROGRAM, INFRASTRUCTURE, FATAL = Failure.PROGRAM, Failure.INFRASTRUCTURE, Failure.FATAL
LM_ERRORS = {
    "LMError": INFRASTRUCTURE, "LMTransportError": INFRASTRUCTURE, "LMLockTimeoutError": INFRASTRUCTURE,
    "LMCollectionLimitError": PROGRAM, "LMConfigurationError": FATAL, "LMNotConfiguredError": FATAL,
    "LMUnsupportedFeatureError": FATAL, "LMProviderError": INFRASTRUCTURE, "LMUnexpectedError": INFRASTRUCTURE,
    "LMStreamAssemblyError": INFRASTRUCTURE, "LMAuthError": FATAL, "LMBillingError": FATAL,
    "LMRateLimitError": INFRASTRUCTURE, "LMInvalidRequestError": PROGRAM, "ContextWindowExceededError": PROGRAM,
    "LMUnsupportedModelError": FATAL, "LMTimeoutError": INFRASTRUCTURE, "LMServerError": INFRASTRUCTURE,
}  # fmt: skip


def lm_error(name: str, message: str = "no", **details: Any) -> Exception:
    error: Exception = getattr(dspy_errors, name)(message=message, **details)
    return error


def raised_from(error: Exception, cause: BaseException | None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def parse_error() -> dspy_errors.AdapterParseError:
    return dspy_errors.AdapterParseError("ChatAdapter", dspy.Signature("q -> a, b"), "a secret\nreply")


def test_every_lm_error_of_dspy_has_been_thought_about() -> None:
    """A new class in DSPy wants a line above; what DSPy would retry is infrastructure."""
    found = {n: k for n, k in vars(dspy_errors).items() if isinstance(k, type) and issubclass(k, dspy_errors.LMError)}
    assert set(found) == set(LM_ERRORS)
    for name, kind in LM_ERRORS.items():
        assert classify(lm_error(name)) is kind, name
        assert kind is INFRASTRUCTURE or not dspy_errors.is_retryable_lm_error(lm_error(name))


# --- Outages of tools

REQUEST = httpx.Request("GET", "https://x")


def http_error(status: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("https://x", status, "no", Message(), None)


def httpx_status(status: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("no", request=REQUEST, response=httpx.Response(status, request=REQUEST))


def requests_status(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("no", response=response)


def aiohttp_status(status: int) -> aiohttp.ClientResponseError:
    info = aiohttp.RequestInfo(url=None, method="GET", headers=None, real_url="https://x")  # type: ignore[arg-type]
    return aiohttp.ClientResponseError(info, (), status=status)


def openai_status(status: int) -> openai.APIStatusError:
    kind = {429: openai.RateLimitError, 404: openai.NotFoundError}.get(status, openai.InternalServerError)
    return kind("no", response=httpx.Response(status, request=REQUEST), body=None)


@pytest.mark.parametrize("make", [http_error, httpx_status, requests_status, aiohttp_status, openai_status])
def test_the_status_of_a_tools_http_error_decides(make: Any) -> None:
    for status in (408, 425, 429, 500, 503):
        assert classify(make(status)) is INFRASTRUCTURE
    for status in (400, 401, 403, 404, 410, 422):
        assert classify(make(status)) is PROGRAM
    assert classify(requests.HTTPError("no", response=None)) is PROGRAM  # no answer came, and it does not say why


OUTAGES = [
    InfrastructureError("the search service is down"), ConnectionResetError("no"), TimeoutError("no"),
    asyncio.TimeoutError("no"), concurrent.futures.TimeoutError("no"),  # other classes on Python 3.10
    socket.gaierror("no"), ssl.SSLError("no"), OSError(errno.ENETUNREACH, "no"), OSError(errno.EHOSTUNREACH, "no"),
    http.client.RemoteDisconnected("no"), http.client.IncompleteRead(b""), urllib.error.URLError("no"),
    urllib3.exceptions.MaxRetryError(None, "https://x"),  # type: ignore[arg-type]
    requests.ConnectionError("no"), requests.Timeout("no"), requests.exceptions.ChunkedEncodingError("no"),
    httpx.ConnectError("no"), httpx.ReadTimeout("no"), httpx.RemoteProtocolError("no"),
    httpcore.ConnectError("no"), httpcore.ReadTimeout("no"),
    aiohttp.ServerDisconnectedError("no"), aiohttp.ServerTimeoutError("no"), aiohttp.ClientPayloadError("no"),
    openai.APITimeoutError(request=httpx.Request("GET", "https://x")),
    type("LibraryTimeoutError", (TimeoutError,), {})("a subclass, as libraries have them"),
]  # fmt: skip
OWN = [
    ValueError("no"), RecursionError("no"), PermissionError(errno.EACCES, "no"), OSError("no"), parse_error(),
    SchemaVersionError("no"), httpx.UnsupportedProtocol("the model asked for foo://x"), httpx.InvalidURL("no"),
    requests.exceptions.MissingSchema("no"), urllib3.exceptions.LocationParseError("no"), http.client.InvalidURL("no"),
    type("ConnectionError", (Exception,), {})("a class that only has the name"),
]  # fmt: skip


@pytest.mark.parametrize(
    "error", [*OUTAGES, *OWN], ids=lambda error: f"{type(error).__module__}.{type(error).__name__}"
)
def test_dead_connections_are_infrastructure_and_everything_else_is_the_programs_own(error: Exception) -> None:
    assert classify(error) is (INFRASTRUCTURE if error in OUTAGES else PROGRAM)
    assert (outcome_of(error) is Outcome.INFRASTRUCTURE) == (error in OUTAGES)


def test_a_fault_of_python_itself_is_no_verdict_on_the_program() -> None:
    """As CPython's 'AST constructor recursion depth mismatch', which a ReAct agent in many threads may meet."""
    fault = raised_from(RuntimeError("no signature"), SystemError("AST constructor recursion depth mismatch"))
    assert classify(fault) is INFRASTRUCTURE
    assert is_interpreter_fault(fault)
    assert not is_interpreter_fault(raised_from(RuntimeError("no"), RecursionError()))


# --- Chains


def test_what_an_error_was_raised_from_decides_and_the_outermost_known_kind() -> None:
    circle, other = ValueError("first"), ValueError("second")
    circle.__cause__, other.__cause__ = other, circle
    for error, kind in (
        (raised_from(ValueError("no"), ConnectionError()), INFRASTRUCTURE),
        (raised_from(ValueError(), raised_from(KeyError(), http_error(503))), INFRASTRUCTURE),
        (raised_from(ValueError("no"), http_error(404)), PROGRAM),
        (raised_from(RuntimeError("no"), lm_error("LMAuthError")), FATAL),
        (raised_from(RuntimeError("no"), None), PROGRAM),
        (raised_from(lm_error("LMAuthError"), ConnectionError()), FATAL),
        (raised_from(lm_error("ContextWindowExceededError"), lm_error("LMServerError")), PROGRAM),
        (type("MyFatal", (FatalError,), {})(), FATAL),
        (circle, PROGRAM),
    ):
        assert classify(error) is kind, repr(error)


def test_an_error_while_another_was_handled_is_its_own_unless_a_tool_raised_it() -> None:
    try:
        try:
            raise ConnectionError
        except ConnectionError:
            raise ValueError("a bug in the handler")  # noqa: B904
    except ValueError as error:
        assert classify(error) is PROGRAM
        assert is_tool_outage(error)
        assert not is_tool_outage(raised_from(ValueError("no"), None)), "from None"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("no"), Outcome.PROGRAM_ERROR),
        (raised_from(RuntimeError("no"), parse_error()), Outcome.PARSE_ERROR),
        (raised_from(RuntimeError(), lm_error("ContextWindowExceededError")), Outcome.CONTEXT_WINDOW),
        (lm_error("LMInvalidRequestError", "maximum context length is 5"), Outcome.CONTEXT_WINDOW),
        (lm_error("LMInvalidRequestError"), Outcome.PROGRAM_ERROR),
        (lm_error("LMRateLimitError"), Outcome.INFRASTRUCTURE),
        (lm_error("LMAuthError"), Outcome.INFRASTRUCTURE),
    ],
)
def test_outcomes(error: Exception, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


def test_only_what_may_pass_is_tried_again() -> None:
    assert worth_retrying(lm_error("LMRateLimitError"))
    assert worth_retrying(raised_from(lm_error("LMUnexpectedError"), ConnectionError()))
    assert not worth_retrying(raised_from(lm_error("LMUnexpectedError"), AttributeError()))  # a bug of the engine
    assert not worth_retrying(lm_error("LMInvalidRequestError"))


# --- What providers answer

TOO_LONG = "This model's maximum context length is 4096 tokens. However, you requested 5000."
BODIES: dict[str, Any] = {
    "OpenAI": {"error": {"message": TOO_LONG, "code": "context_length_exceeded"}},
    "vLLM": {"object": "error", "message": TOO_LONG, "type": "BadRequestError", "code": 400},
    "FastAPI": {"detail": TOO_LONG},
    "nested": {"detail": {"error": {"message": TOO_LONG}}},
    "list": [{"error": {"code": 400, "message": TOO_LONG, "status": "INVALID_ARGUMENT"}}],
    "plain": TOO_LONG,
}


@pytest.fixture(params=["auto", "litellm"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def answered_with(engine: str, status: str, body: Any, *, asynchronously: bool = False) -> Exception:
    """What an LM raises whose backend answers so."""
    text = body if isinstance(body, str) else json.dumps(body)
    with serve(response(text, status, "application/json")) as server:
        settings = {"api_base": f"http://127.0.0.1:{server.port}/v1", "api_key": "no key", "num_retries": 0}
        lm = dspy.LM("openai/some-model", engine=engine, cache=False, **settings)
        with pytest.raises(dspy_errors.LMError) as caught:
            asyncio.run(lm.acall("hello")) if asynchronously else lm("hello")
    return caught.value


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_prompt_that_does_not_fit_is_known_by_the_providers_words(engine: str, body: Any) -> None:
    error = answered_with(engine, "400 Bad Request", body)
    assert outcome_of(error) is Outcome.CONTEXT_WINDOW
    assert TOO_LONG in describe(error)


def test_the_providers_words_reach_the_user_from_an_asynchronous_call_too(engine: str) -> None:
    error = answered_with(
        engine, "422 Unprocessable", {"detail": [{"loc": ["body", "n"], "msg": "too big"}]}, asynchronously=True
    )
    assert "body.n: too big" in describe(error)
    assert outcome_of(error) is Outcome.PROGRAM_ERROR


@pytest.mark.parametrize(
    "words",
    [
        "prompt is too long: 200001 tokens > 200000 maximum",
        "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).",
        "the request exceeds the available context size. try increasing the context size",
        "Your input exceeds the context window of this model.",
        "The number of tokens to keep from the initial prompt is greater than the context length",
        "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096.",
        "Please reduce the length of the messages or completion.",
    ],
)
def test_other_words_for_the_same(words: str) -> None:
    for kind in ("LMInvalidRequestError", "LMServerError"):
        assert outcome_of(lm_error(kind, words)) is Outcome.CONTEXT_WINDOW
    assert classify(lm_error("LMRateLimitError", f"Rate limit reached: {words}")) is INFRASTRUCTURE


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        ("Unsupported value: 'temperature' does not support 0.7. Only the default (1) is supported.", "temperature"),
        ("`temperature` is deprecated for this model.", "temperature"),
        ("Unrecognized request argument supplied: seed", "seed"),
        ("Extra inputs are not permitted: seed", "seed"),
        ("`temperature` may only be set to 1 when thinking is enabled.", "temperature"),
        ("temperature must be 1.0 for this model", "temperature"),
        ("temperature: 0.7 is out of range, the value is fixed", "temperature"),
        ("the messages are invalid", ""),
        ("the room temperature is 20 degrees", ""),
        ("temperature: maximum context length exceeded, unsupported", ""),
    ],
)
def test_a_parameter_that_a_model_refuses_is_named(message: str, refused: str) -> None:
    assert refused_parameter(lm_error("LMInvalidRequestError", message, status=400)) == refused
    assert refused_parameter(lm_error("LMServerError", message, status=500)) == ""


def test_a_parameter_that_only_the_body_names(engine: str) -> None:
    error = answered_with(engine, "400 Bad Request", {"detail": "temperature is not supported"})
    assert refused_parameter(error) == "temperature"
    assert refused_parameter(lm_error("LMUnsupportedFeatureError", "no", feature="temperature")) == "temperature"


def test_a_key_that_has_answered_is_not_wrong() -> None:
    """One request may be refused, or the model unloaded; a key that has run out is something else."""
    forbidden, missing = ("LMAuthError", {"status": 403}), ("LMUnsupportedModelError", {"status": 404})
    for (name, details), kind in ((forbidden, PROGRAM), (missing, INFRASTRUCTURE)):
        assert classify(lm_error(name, **details)) is FATAL
        error = lm_error(name, **details)
        note_answered(error)
        assert classify(raised_from(RuntimeError("no"), error)) is kind
    for name, status in (("LMAuthError", 401), ("LMBillingError", 402)):
        error = lm_error(name, status=status)
        note_answered(error)
        assert classify(error) is FATAL


def test_a_flagged_request_and_a_model_that_is_loading_are_known_before_any_answer(engine: str) -> None:
    flagged = answered_with(engine, "403 Forbidden", {"error": {"message": "Your input was flagged by moderation"}})
    assert outcome_of(flagged) is Outcome.PROGRAM_ERROR
    assert is_backend_failure(flagged)  # where every request is, the run ends
    loading = answered_with(engine, "404 Not Found", {"error": "model 'llama' is loading"})
    assert classify(loading) is INFRASTRUCTURE
    assert worth_retrying(loading)
