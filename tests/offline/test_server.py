"""The offline model over HTTP, through both of DSPy's clients and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from urllib.parse import urlsplit

import dspy
import pytest
from dspy.lm15 import Config, Message, Request
from dspy.utils.exceptions import (
    AdapterParseError,
    LMAuthError,
    LMBillingError,
    LMError,
    LMProviderError,
    LMRateLimitError,
    LMServerError,
    LMTimeoutError,
    LMTransportError,
    LMUnsupportedModelError,
)  # fmt: skip
from support.waiting import LONG, until

pytest.importorskip("aiohttp")

from trgrpo_dspy.offline import offline_lm
from trgrpo_dspy.offline.server import ERROR_KINDS, Faults, OfflineServer, ServedRequest, main

QUEUES = ("access", "billing", "hardware", "legal")
TICKETS = ("refund of the last bill", "I can't access my account", "legal question", "broken hardware", "hm")
both_clients = pytest.mark.parametrize("engine", ["auto", "litellm"])
every_adapter = pytest.mark.parametrize(
    "adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()], ids=lambda a: type(a).__name__
)


@pytest.fixture(autouse=True, scope="module")
def event_loop_of_litellm() -> Iterator[None]:
    """LiteLLM makes an event loop in the calling thread if there is none, and never closes it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


class Triage(dspy.Signature):
    """Say which queue a ticket belongs to.

    When a ticket mentions "refund", choose "billing".
    """

    ticket: str = dspy.InputField()
    queue: Literal["access", "billing", "hardware", "legal"] = dspy.OutputField()
    reason: str = dspy.OutputField()


def triage(lm: dspy.LM, ticket: str = TICKETS[0], adapter: Any = None) -> dspy.Prediction:
    with dspy.context(lm=lm, adapter=adapter or dspy.ChatAdapter()):
        return dspy.Predict(Triage)(ticket=ticket)


def body(text: str = "Hello", **settings: Any) -> dict[str, Any]:
    return {"model": "offline", "messages": [{"role": "user", "content": text}], **settings}


def send(server: OfflineServer, payload: Any, key: str = "offline") -> tuple[int, dict[str, str], Any]:
    """Status, headers and the parsed body; status 0 if the connection broke, the raw text if it is no JSON."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=LONG)
    try:
        text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/chat/completions", text, headers)
        reply = connection.getresponse()
        found = reply.read().decode()
    except (ConnectionError, http.client.HTTPException):
        return 0, {}, None
    finally:
        connection.close()
    with contextlib.suppress(ValueError):
        return reply.status, dict(reply.headers), json.loads(found)
    return reply.status, dict(reply.headers), found


class Arrivals(OfflineServer):
    """Says when a request has arrived."""

    def __init__(self, **faults: Any) -> None:
        super().__init__(**faults)
        self.arrived = threading.Event()

    async def _answer(self, *asked: Any) -> Any:
        self.arrived.set()
        return await super()._answer(*asked)


# -- replies ----------------------------------------------------------------------------------------------------------


@every_adapter
@both_clients
def test_replies_are_those_of_the_in_process_model(engine: str, adapter: Any) -> None:
    with OfflineServer(model_seed=3) as server:
        for temperature, seed in ((None, 3), (0.8, 3), (0.8, 11)):
            near = offline_lm(3, temperature=temperature).copy(seed=seed)
            far = server.lm(engine, temperature=temperature, seed=seed, num_retries=0)
            for ticket in TICKETS:
                here, there = triage(near, ticket, adapter), triage(far, ticket, adapter)
                assert here.toDict() == there.toDict()
                assert near.history[-1]["outputs"] == far.history[-1]["outputs"]
        assert {record.status for record in server.requests} == {200}


@both_clients
def test_turns_and_usage_arrive(engine: str) -> None:
    predict = dspy.Predict(Triage)
    predict.demos = [dspy.Example(ticket="printer", queue="hardware", reason="because").with_inputs("ticket")]
    with OfflineServer() as server:
        near, far = offline_lm(temperature=1.0), server.lm(engine, temperature=1.0)
        for lm in (near, far):
            with dspy.context(lm=lm):
                predict(ticket="a printer")
        usage, record = far.history[-1]["usage"], server.requests[0]
    assert near.history[-1]["outputs"] == far.history[-1]["outputs"]
    assert usage["prompt_tokens"] == record.prompt_tokens == near.history[-1]["usage"]["prompt_tokens"] > 50
    assert usage["completion_tokens"] == record.completion_tokens > 5


@both_clients
def test_a_token_limit_cuts_as_in_process(engine: str) -> None:
    with OfflineServer() as server:
        near, far = offline_lm(max_tokens=6), server.lm(engine, max_tokens=6, num_retries=0)
        for lm in (near, far):
            with pytest.raises(AdapterParseError):
                triage(lm)
        assert near.history[0]["outputs"] == far.history[0]["outputs"]
        system, user = (message["content"] for message in far.history[0]["messages"])
        for tokens, reason in ((6, "length"), (5000, "stop")):
            config = Config(max_tokens=tokens)
            reply = far(Request(model=far.model, system=system, messages=(Message.user(user),), config=config))
            assert reply.finish_reason == reason
    assert [server.requests[i].completion_tokens for i in (0, -2)] == [6, 6]
    assert {record.fault for record in server.requests} == {None}


def test_both_clients_send_the_same_request() -> None:
    with OfflineServer() as server:
        for engine in ("auto", "litellm"):
            triage(server.lm(engine, max_tokens=500, temperature=0.5))
    first, second = server.requests
    assert first.request == second.request
    assert (first.attempt, second.attempt) == (1, 2)


def test_the_reply_says_what_it_is() -> None:
    with OfflineServer() as server:
        status, _, reply = send(server, body(model="any/name", seed=1, n=1, user=None))
    assert "n-gram model, not a large language model" in reply["system_fingerprint"]
    assert (status, reply["object"], reply["model"]) == (200, "chat.completion", "any/name")
    assert (reply["choices"][0]["finish_reason"], server.requests[0].seed) == ("stop", 1)


def test_slow_replies_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, all_wait = [], asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.append(seconds)
        if len(waiting) == 120:
            all_wait.set()
        await all_wait.wait()
        await asyncio.sleep(seconds)

    monkeypatch.setattr("trgrpo_dspy.offline.server.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    with OfflineServer(latency="fixed:0.5") as server, ThreadPoolExecutor(120) as pool:
        statuses = list(pool.map(lambda i: send(server, body(f"number {i}"))[0], range(120)))
    assert set(statuses) == {200}
    assert min(record.latency for record in server.requests) >= 0.5


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "status", "native", "litellm"),
    [
        ("429", 429, LMRateLimitError, LMRateLimitError),
        ("500", 500, LMServerError, LMServerError),
        ("503", 503, LMServerError, LMServerError),
        ("quota", 429, LMBillingError, LMBillingError),
        # LiteLLM reports a broken connection and broken JSON as a server's error of status 500.
        ("reset", None, LMTransportError, LMServerError),
        ("malformed", 200, LMProviderError, LMServerError),
    ],
)
def test_errors_reach_the_program(kind: str, status: int | None, native: type[LMError], litellm: type[LMError]) -> None:
    for engine, expected in (("auto", native), ("litellm", litellm)):
        with OfflineServer(error_rate=1, errors=[kind], retry_after=7) as server, pytest.raises(LMError) as caught:
            triage(server.lm(engine, num_retries=0))
        assert type(caught.value) is expected
        assert getattr(caught.value, "retry_after", None) == (7 if kind == "429" else None)
        # One record: neither client asks again by itself.
        assert [(record.fault, record.status) for record in server.requests] == [(kind, status)]


@both_clients
def test_a_retry_can_succeed(engine: str) -> None:
    with OfflineServer(error_rate=0.5, errors=["429", "500"], retry_after=0.01) as server:
        for ticket in TICKETS:
            for _ in range(40):
                with contextlib.suppress(LMRateLimitError, LMServerError):
                    triage(server.lm(engine, num_retries=0), ticket)
                    break
    records = server.requests
    assert len(records) > len({record.request for record in records}) == len(TICKETS)
    for name in {record.request for record in records}:
        same = [record for record in records if record.request == name]
        assert [record.attempt for record in same] == list(range(1, len(same) + 1))
        assert [record.fault is None for record in same] == [False] * (len(same) - 1) + [True]


@both_clients
def test_a_hang_times_out_or_ends_without_a_reply(engine: str) -> None:
    # DSPy's own client calls it a transport error.
    late = pytest.raises((LMTimeoutError, LMTransportError), match=r"time")
    with Arrivals(error_rate=1, errors=["hang"], hang_seconds=600) as server:
        for seconds in (0.4, 4, 40):  # until the request has arrived in time
            with late:
                triage(server.lm(engine, num_retries=0, timeout=seconds))
            if server.arrived.is_set():
                break
    with OfflineServer(error_rate=1, errors=["hang"], hang_seconds=0.3, latency="fixed:0.1") as short:
        assert send(short, body())[0] == 0
    records = [*server.requests, *short.requests]
    assert [(record.fault, record.status) for record in records] == [("hang", 499), ("hang", None)]
    assert records[1].latency >= 0.4


@every_adapter
@both_clients
def test_garbage_is_well_formed_and_never_parses(engine: str, adapter: Any) -> None:
    with OfflineServer(garbage_rate=1) as server:
        for signature in (Triage, dspy.Signature("question -> answer: list[str]")):
            lm = server.lm(engine, num_retries=0)
            with dspy.context(lm=lm, adapter=adapter), pytest.raises(AdapterParseError):
                dspy.Predict(signature)(**dict.fromkeys(signature.input_fields, "x"))
    assert {(record.fault, record.status) for record in server.requests} == {("garbage", 200)}
    assert lm.history[-1]["outputs"][0]


@both_clients
def test_truncated_replies_end_with_length(engine: str) -> None:
    with OfflineServer(truncate_rate=1) as cut, OfflineServer() as server:
        whole, short = server.lm(engine), cut.lm(engine)
        triage(whole)
        with contextlib.suppress(AdapterParseError):
            triage(short)
        text, part = whole.history[0]["outputs"][0], short.history[0]["outputs"][0]
        asked = [lm(Request(model=lm.model, messages=(Message.user("Say something."),))) for lm in (whole, short)]
    assert [reply.finish_reason for reply in asked] == ["stop", "length"]
    assert text.startswith(part) and 0 < len(part) < len(text)
    assert (cut.requests[0].fault, cut.requests[0].completion_tokens) == ("truncated", -(-len(part) // 4))


def test_rates_are_as_asked_and_never_depend_on_order() -> None:
    def run(seed: int, order: list[int], threads: int) -> tuple[dict[tuple[str, int], str | None], Counter[int]]:
        with (
            OfflineServer(seed=seed, error_rate=0.2, garbage_rate=0.15, truncate_rate=0.1) as server,
            ThreadPoolExecutor(threads) as pool,
        ):
            statuses = Counter(pool.map(lambda i: send(server, body(f"number {i}", seed=i % 3))[0], order))
        return {(record.request, record.attempt): record.fault for record in server.requests}, statuses

    order = [i for i in range(134) for _ in range(3)]
    first, statuses = run(4, order, 1)
    faults = Counter(first.values())
    assert len(first) == 402
    assert 50 <= sum(faults[kind] for kind in ERROR_KINDS) <= 110  # 80 expected, 8 is a standard deviation
    assert 30 <= faults["garbage"] <= 90  # 60
    assert 18 <= faults["truncated"] <= 64  # 40
    assert all(6 <= faults[kind] <= 38 for kind in ("429", "500", "503", "reset"))  # 20 each
    assert statuses == {
        0: faults["reset"], 429: faults["429"], 500: faults["500"], 503: faults["503"],
        200: faults[None] + faults["garbage"] + faults["truncated"],
    }  # fmt: skip
    shuffled = random.Random(1).sample(order, len(order))
    assert run(4, shuffled, 8)[0] == first
    others = run(5, order[:60], 8)[0]
    assert others != {name: first[name] for name in others}


def test_latencies_are_as_asked_and_the_same_with_and_without_faults() -> None:
    calm = Faults(latency="lognormal:0.2,1.0,2")
    drawn = [calm.plan(f"{i}", 1).latency for i in range(2000)]
    assert drawn == [Faults(latency=calm.latency, error_rate=0.5).plan(f"{i}", 1).latency for i in range(2000)]
    drawn.sort()
    assert 0.17 < drawn[1000] < 0.23
    assert 0.45 < drawn[1683] < 0.65  # one standard deviation up: 0.2 * e
    assert drawn[-1] == 2
    assert Faults(latency="fixed:0.25").plan("x", 1).latency == 0.25
    assert Faults().plan("x", 1).latency == 0


# -- refusals ---------------------------------------------------------------------------------------------------------


@both_clients
def test_a_wrong_key_is_refused_and_no_key_is_kept(engine: str, tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    with OfflineServer(require_key="the-right-key", log=log) as server:
        assert triage(server.lm(engine)).queue in QUEUES
        with pytest.raises(LMAuthError):
            triage(server.lm(engine, num_retries=0, api_key="a-wrong-key"))
        status, _, reply = send(server, body(), key="a-wrong-key")
        assert (status, reply["error"]["code"]) == (401, "invalid_api_key")
        assert send(server, body(), key="")[0] == 401
    assert [record.status for record in server.requests] == [200, 401, 401, 401]
    assert not re.search("a-wrong-key|the-right-key", log.read_text() + repr(server.requests) + json.dumps(reply))


@both_clients
def test_unknown_models_are_refused_if_asked(engine: str) -> None:
    with OfflineServer(strict_model=True) as server:
        triage(server.lm(engine))
        triage(server.lm(engine).copy(model="openai/offline/anything"))
        with pytest.raises(LMUnsupportedModelError):
            triage(server.lm(engine, num_retries=0).copy(model="openai/nonesuch"))
    found = [(record.model, record.status) for record in server.requests]
    assert found == [("offline", 200), ("offline/anything", 200), ("nonesuch", 404)]


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b"[" * 100_000, b"\xff", {"model": "offline"}, {"model": "offline", "messages": [{"role": "x"}]},
     body(n=2), body(stream=True), body(temperature="hot"), body(seed="x")],
)  # fmt: skip
def test_bad_requests_get_a_clear_error(payload: Any) -> None:
    with OfflineServer() as server:
        status, _, reply = send(server, payload)
        assert send(server, body())[0] == 200
    assert (status, server.requests[0].status) == (400, 400)
    assert reply["error"]["type"] == "invalid_request_error"
    assert len(reply["error"]["message"]) > 20


def test_a_fault_of_our_own_is_seen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: Request) -> None:
        raise ZeroDivisionError

    with OfflineServer() as server:
        monkeypatch.setattr(server._engine, "complete", broken)
        assert send(server, body())[0] == 500
    assert [(record.fault, record.status) for record in server.requests] == [(None, 500)]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("settings", "problem"),
    [*(({"latency": text}, "latency") for text in ("", "fixed", "fixed:x", "fixed:-1", "fixed:inf", "lognormal:1",
                                                   "lognormal:1,1,1,1", "gamma:1", "soon")),
     ({"error_rate": -0.1}, "error_rate"), ({"error_rate": 0.6, "garbage_rate": 0.6}, "sum"),
     ({"truncate_rate": 2}, "truncate_rate"), ({"errors": ["418"]}, "418"), ({"errors": []}, "choose from")],
)  # fmt: skip
def test_wrong_settings_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        OfflineServer(**settings)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.delitem(sys.modules, "trgrpo_dspy.offline.server")
    with pytest.raises(ImportError, match=r"trgrpo-dspy\[server\]"):
        importlib.import_module("trgrpo_dspy.offline.server")


# -- the log, start and stop ------------------------------------------------------------------------------------------


def test_the_log_holds_a_line_a_request(tmp_path: Path) -> None:
    log, began = tmp_path / "requests.jsonl", time.time()
    for _ in range(2):  # an existing log is continued
        with OfflineServer(log=log, error_rate=0.5, errors=["500"]) as server:
            for i in range(6):
                send(server, body(f"a private text {i}"))
                assert len(log.read_text().splitlines()) % 6 == (i + 1) % 6  # flushed at once
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert list(lines[0]) == [field.name for field in fields(ServedRequest)]
    assert {line["status"] for line in lines} == {200, 500}
    assert [line["request"] for line in lines[:6]] == [line["request"] for line in lines[6:]]
    assert began <= lines[-1]["time"] <= time.time()
    assert "private" not in log.read_text()


def test_clients_that_leave_and_a_server_that_stops_are_recorded() -> None:
    server = Arrivals(latency="fixed:600").start()
    text = json.dumps(body()).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0)) as client:
        client.sendall(head + text)
        assert server.arrived.wait(LONG)
    assert until(lambda: server.requests)
    assert [(record.fault, record.status) for record in server.requests] == [(None, 499)]
    server.arrived.clear()
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(send, server, body())
        assert server.arrived.wait(LONG)
        server.stop()
        assert reply.result()[0] == 0
    server.stop()
    assert [record.status for record in server.requests] == [499, 499]


def test_a_server_can_start_again_at_its_port() -> None:
    server = OfflineServer()
    with server:
        url = server.url
        send(server, body())
        with pytest.raises(RuntimeError):
            server.start()
        with pytest.raises(OSError):
            OfflineServer(urlsplit(url).port or 0).start()
    with server:
        assert server.url == url
        assert send(server, body())[0] == 200
    assert [record.attempt for record in server.requests] == [1, 2]


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_and_ends_on_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    options = "--port 0 --latency lognormal:0.01,1.0,0.1 --error-rate 1 --errors 429,500 --strict-model --log"
    command = [sys.executable, "-m", "trgrpo_dspy.offline", "serve", *options.split(), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", process.stdout.readline())
            assert found
            idle = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=LONG)
            idle.request("POST", "/v1/chat/completions", json.dumps(body()))
            assert idle.getresponse().status in (429, 500)
            process.send_signal(number)
            rest, complaints = process.communicate(timeout=LONG)
            idle.close()
        finally:
            process.kill()
    assert (process.returncode, rest, complaints) == (0, "", "")
    assert len((tmp_path / "log").read_text().splitlines()) == 1


def test_the_command_refuses_what_the_server_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--latency", "soon"])
    assert ended.value.code == 2
    assert "lognormal" in capsys.readouterr().err
    with OfflineServer() as server, pytest.raises(SystemExit, match="address already in use"):
        main(["serve", "--port", str(urlsplit(server.url).port)])
