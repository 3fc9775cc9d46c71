"""The offline model over HTTP: an OpenAI-compatible endpoint on loopback, with the failures real providers have.

Guarantees:

- A reply is the text the in-process model gives for the same messages, temperature, token limit and seed.
- What goes wrong, and how long a reply takes, depends on the server's seed, the request's content and how often that
  request was seen before; never on the order in which different requests arrive. So runs repeat, and a retry may
  succeed.
- Every chat request leaves one record, also a refused one and one whose client went away. No record or log line holds
  a header, a key or a prompt.
- It listens on loopback only.

Needs `aiohttp`: `pip install 'trgrpo-dspy[server]'`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

import dspy
from dspy.lm15 import LM15Error, Request, request_from_openai_chat

from trgrpo_dspy.offline import OfflineEngine, offline_lm

from .exchange import Exchange, Refusal, ServedRequest, spoil
from .faults import ERROR_KINDS, FaultPlan, Faults, Latency

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["ERROR_KINDS", "FaultPlan", "Faults", "Latency", "OfflineServer", "ServedRequest"]

_STATUS_ERRORS = {
    "429": (429, "Rate limit reached for requests. Please try again later.", "requests", "rate_limit_exceeded"),
    "500": (500, "The server had an error while processing your request.", "server_error", None),
    "503": (503, "The engine is currently overloaded, please try again later.", "server_error", None),
    "quota": (429, "You exceeded your current quota.", "insufficient_quota", "insufficient_quota"),
}
_CLIENT_GONE = 499
_MAX_BODY = 64 * 2**20
_WORKERS = 2
"""Threads that compute replies; they share one interpreter lock, so more would only hand it around."""


class OfflineServer:
    """The offline model at a loopback address, served by a thread of this process.

    Used as a context manager, or by `start` and `stop`. `url` is what a client takes as its `api_base`.

    Args:
        port: Port to listen at; 0 for any free one.
        host: A loopback address or `localhost`; anything else is refused.
        latency: `none`, `fixed:SECONDS` or `lognormal:MEDIAN,SIGMA[,CAP]`. The model's own time counts towards it.
        error_rate: Share of requests that fail in one of the ways of `errors`.
        garbage_rate: Share of replies that are well formed and can't be parsed.
        truncate_rate: Share of replies that are cut off.
        errors: Ways to fail, of `ERROR_KINDS`, each as likely as the others.
        hang_seconds: How long a request hangs before its connection is closed.
        retry_after: Seconds a rate limit asks the client to wait.
        seed: Seed of failures and latencies.
        model_seed: Seed of the model.
        require_key: Requests without this key get status 401.
        strict_model: Only models named `offline` or `offline/...` are known; others get status 404.
        log: File that gets a JSON line for each record, flushed at once; an existing file is continued.
    """

    def __init__(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        *,
        latency: str = "none",
        error_rate: float = 0.0,
        garbage_rate: float = 0.0,
        truncate_rate: float = 0.0,
        errors: Sequence[str] = ("429", "500", "503", "reset"),
        hang_seconds: float = 30.0,
        retry_after: float = 1.0,
        seed: int = 0,
        model_seed: int = 0,
        require_key: str | None = None,
        strict_model: bool = False,
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        """Check the arguments; nothing is opened yet."""
        if not _is_loopback(host):
            raise ValueError(
                f"the offline server listens on loopback only, not on {host!r}: use 127.0.0.1, ::1 or localhost"
            )
        faults = Faults(seed, Latency.parse(latency), error_rate, garbage_rate, truncate_rate, tuple(errors))
        self._host, self._port = host, port
        self._faults, self._hang_seconds, self._retry_after = faults, hang_seconds, retry_after
        self._model_seed, self._engine = model_seed, OfflineEngine(model_seed)
        self._name = str(offline_lm(model_seed).model)
        self._require_key, self._strict_model = require_key, strict_model
        self._log_path = None if log is None else Path(log)
        self._log: TextIO | None = None
        self._records: list[ServedRequest] = []
        self._seen: Counter[str] = Counter()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """The base address, with the port that was taken."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"

    @property
    def requests(self) -> list[ServedRequest]:
        """The records so far, in the order in which the requests were done with: a copy. None is ever dropped."""
        return list(self._records)

    def lm(self, engine: str = "auto", **kwargs: Any) -> dspy.LM:
        """A `dspy.LM` that talks to this server, without DSPy's cache, with the model's seed as its request seed.

        Args:
            engine: `litellm`, or `auto` for DSPy's own client.
            kwargs: Passed on to `dspy.LM`.
        """
        settings = {
            "api_base": self.url,
            "api_key": self._require_key or "offline",
            "cache": False,
            "seed": self._model_seed,
            **kwargs,
        }
        return dspy.LM("openai/offline", engine=engine, **settings)

    def start(self) -> OfflineServer:
        """Listen. On return the server answers; a port in use or an unwritable log raises OSError."""
        if self._thread is not None:
            raise RuntimeError("the server runs already")
        web = _aiohttp_web()
        if self._log_path is not None:
            self._log = self._log_path.open("a", encoding="utf-8")
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(web, ready), name="offline-server", daemon=True)
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Close all connections, also of requests under way, and end the thread. Twice does no harm."""
        if self._loop is not None and self._ended is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._ended.set)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def __enter__(self) -> OfflineServer:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # -- the server's thread

    def _run(self, web: ModuleType, ready: Future[None]) -> None:
        try:
            asyncio.run(self._serve(web, ready))
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _serve(self, web: ModuleType, ready: Future[None]) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=_MAX_BODY)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.route("*", "/{path:.*}", _unknown_path),
            ]
        )
        # A connection that idles is never closed from this side: the client would take it for a reset nobody asked for.
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, keepalive_timeout=86_400, shutdown_timeout=0.1
        )
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="offline-model") as self._pool:
            await runner.setup()
            try:
                await web.TCPSite(runner, self._host, self._port, backlog=1024).start()
                self._port = runner.addresses[0][1]
                ready.set_result(None)
                await self._ended.wait()
            finally:
                await runner.cleanup()

    async def _health(self, http: web.Request) -> web.Response:
        return _json_response({"status": "ok", "model": self._name, "requests": len(self._records)})

    async def _models(self, http: web.Request) -> web.Response:
        try:
            self._check_key(http)
        except Refusal as refusal:
            return _json_response(refusal.body, refusal.status)
        names = ("offline", self._name)
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "trgrpo-dspy"} for name in names]
        return _json_response({"object": "list", "data": data})

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        exchange = Exchange(await http.read())
        try:
            response = await self._answer(http, exchange)
        except Refusal as refusal:
            response = _json_response(refusal.body, refusal.status)
            if exchange.plan.fault == "429":
                response.headers["Retry-After"] = f"{self._retry_after:g}"
            exchange.status = refusal.status
        except asyncio.CancelledError:
            exchange.status = _CLIENT_GONE
            raise
        except Exception:
            exchange.status = 500
            raise
        finally:
            self._keep(exchange.record())
        return response

    def _keep(self, record: ServedRequest) -> None:
        self._records.append(record)
        if self._log is not None:
            self._log.write(json.dumps(asdict(record)) + "\n")
            self._log.flush()

    async def _answer(self, http: web.Request, exchange: Exchange) -> web.StreamResponse:
        self._seen[exchange.request] += 1
        exchange.attempt = self._seen[exchange.request]
        self._check_key(http)
        asked = self._check_body(exchange)
        plan = exchange.plan = self._faults.plan(exchange.request, exchange.attempt)
        if plan.fault in ERROR_KINDS and plan.fault != "malformed":
            return await self._fail(http, plan)
        # The model works in a thread of its own, so that waiting requests go on waiting in parallel.
        reply = await asyncio.get_running_loop().run_in_executor(self._pool, self._engine.complete, asked)
        text, finish = spoil(reply, plan)
        exchange.usage = (reply.usage.input_tokens, -(-len(text) // 4))
        await asyncio.sleep(max(0.0, plan.latency - exchange.elapsed))
        exchange.status = 200
        if exchange.body.get("stream"):
            return await self._stream(http, exchange, text, finish)
        body = exchange.completion(self._name, text, finish)
        return _json_response(body, broken=plan.fault == "malformed")

    async def _fail(self, http: web.Request, plan: FaultPlan) -> web.Response:
        await asyncio.sleep(plan.latency)
        if plan.fault in _STATUS_ERRORS:
            raise Refusal(*_STATUS_ERRORS[plan.fault])
        if plan.fault == "hang":
            await asyncio.sleep(self._hang_seconds)
        if http.transport is not None:
            if plan.fault == "reset":
                _reset_on_close(http.transport)
            http.transport.abort()
        return _json_response({})  # into a closed connection

    async def _stream(self, http: web.Request, exchange: Exchange, text: str, finish: str) -> web.StreamResponse:
        """The reply as server-sent events."""
        response: web.StreamResponse = _aiohttp_web().StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        for event in exchange.events(self._name, text, finish):
            line = json.dumps(event)
            line = line[: len(line) // 2] if exchange.plan.fault == "malformed" else line
            await response.write(f"data: {line}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _check_key(self, http: web.Request) -> None:
        if self._require_key is None:
            return
        scheme, _, key = http.headers.get("Authorization", "").partition(" ")
        known = hmac.compare_digest(key.strip().encode("utf-8", "surrogateescape"), self._require_key.encode())
        if scheme.lower() != "bearer" or not known:
            message = "Incorrect API key provided." if key else "You didn't provide an API key."
            raise Refusal(401, message, code="invalid_api_key")

    def _check_body(self, exchange: Exchange) -> Request:
        body = exchange.body
        if not body:
            raise Refusal(400, "We could not parse the JSON body of your request: it must be a JSON object.")
        if self._strict_model and exchange.model != "offline" and not exchange.model.startswith("offline/"):
            message = f"The model `{exchange.model}` does not exist or you do not have access to it."
            raise Refusal(404, message, code="model_not_found")
        if body.get("n", 1) != 1:
            raise Refusal(400, "This server gives one choice a request: send n requests with different seeds.")
        try:
            return request_from_openai_chat({key: value for key, value in body.items() if key != "n"})
        except (LM15Error, ValueError, TypeError, KeyError) as error:
            raise Refusal(400, f"Invalid request: {str(error)[:500]}") from error


async def _unknown_path(http: web.Request) -> web.Response:
    message = (
        f"Invalid URL ({http.method} {http.path[:200]}): the server has /v1/chat/completions, /v1/models and /health."
    )
    refusal = Refusal(404, message)
    return _json_response(refusal.body, refusal.status)


def _json_response(body: Any, status: int = 200, *, broken: bool = False) -> web.Response:
    text = json.dumps(body)
    response: web.Response = _aiohttp_web().Response(
        body=(text[: len(text) // 2] if broken else text).encode(), status=status, content_type="application/json"
    )
    return response


def _reset_on_close(transport: asyncio.Transport) -> None:
    """Make closing send a TCP reset instead of an orderly end."""
    linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _aiohttp_web() -> ModuleType:
    try:
        from aiohttp import web
    except ImportError as error:
        raise ImportError("the offline server needs aiohttp: pip install 'trgrpo-dspy[server]'") from error
    return web
