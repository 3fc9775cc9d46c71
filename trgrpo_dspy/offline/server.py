"""The offline model over HTTP: an OpenAI-compatible endpoint on loopback, with the failures real providers have.

Guarantees: a reply is the text the in-process model gives for the same messages, temperature, token limit and seed.
What goes wrong, and how long a reply takes, never depends on the order of different requests (see `faults`). Every chat
request leaves one record, also a refused one and one whose client went away; no record or log line holds a header, a
key or a prompt. It listens on loopback only.
"""

import argparse
import asyncio
import contextlib
import inspect
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, TextIO

import dspy
from dspy.lm15 import LM15Error, Request, request_from_openai_chat

from . import OfflineEngine
from .faults import ERROR_KINDS, FaultPlan, Faults

try:
    from aiohttp import web
except ImportError as error:
    raise ImportError("the offline server needs aiohttp: pip install 'trgrpo-dspy[server]'") from error

__all__ = ["ERROR_KINDS", "FaultPlan", "Faults", "OfflineServer", "ServedRequest", "main"]

_REFUSALS = {"429": (429, "rate_limit_exceeded"), "500": (500, "server_error"), "503": (503, "overloaded"),
             "quota": (429, "insufficient_quota")}  # fmt: skip
"""Status and code of the failures that are replies."""
_NONSENSE = "quu rast tiv vex wum yal zor ba dro fli gu kes lom mir nop"
_HOST = "127.0.0.1"


@dataclass
class ServedRequest:
    """The record of one chat request: what it named, what was made to go wrong, and the tokens that were reported."""

    time: float
    """When it arrived, in seconds since the epoch."""
    request: str
    """Hash of its content: model, messages, seed and settings. Equal requests have equal hashes."""
    attempt: int
    """1 if the request was new, 2 if it was seen once before, and so on."""
    model: str
    seed: int | None
    fault: str | None = None
    status: int | None = None
    """HTTP status; None if none was sent (`reset`, `hang`), 499 if the client left or the server stopped first."""
    latency: float = 0.0
    """Seconds from its arrival to its reply."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Refusal(Exception):
    """An error reply, as providers write them."""

    def __init__(self, status: int, message: str, code: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.body = status, {"error": {"message": message, "type": code, "param": None, "code": code}}


class OfflineServer:
    """The offline model at a loopback address, served by a thread of this process.

    Used as a context manager, or by `start` and `stop`. `url` is what a client takes as its `api_base`.

    Args:
        port: Port to listen at; 0 for any free one.
        model_seed: Seed of the model.
        require_key: Requests without this key get status 401.
        strict_model: Only models named `offline` or `offline/...` are known; others get status 404.
        log: File that gets a JSON line for each record, flushed at once; an existing file is continued.
        faults: What goes wrong and how slow replies are: the arguments of `Faults`.
    """

    def __init__(
        self, port: int = 0, *, model_seed: int = 0, require_key: str | None = None, strict_model: bool = False,
        log: str | os.PathLike[str] | None = None, **faults: Any,
    ) -> None:  # fmt: skip
        """Check the arguments; nothing is opened yet."""
        self._port, self._faults, self._engine = port, Faults(**faults), OfflineEngine(model_seed)
        self._require_key, self._strict_model, self._log_path = require_key, strict_model, log
        self._log: TextIO | None = None
        self._records: list[ServedRequest] = []
        self._seen: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """The base address, with the port that was taken."""
        return f"http://{_HOST}:{self._port}/v1"

    @property
    def requests(self) -> list[ServedRequest]:
        """The records so far, in the order in which the requests were done with: a copy. None is ever dropped."""
        return list(self._records)

    def lm(self, engine: str = "auto", **kwargs: Any) -> dspy.LM:
        """A `dspy.LM` that talks to this server, without DSPy's cache; `engine="litellm"` for LiteLLM's client."""
        settings = {"api_base": self.url, "api_key": self._require_key or "offline", "seed": self._engine.seed}
        return dspy.LM("openai/offline", engine=engine, **{**settings, "cache": False, **kwargs})

    def start(self) -> "OfflineServer":
        """Listen. On return the server answers; a port in use or an unwritable log raises OSError."""
        if self._loop is not None:
            raise RuntimeError("the server runs already")
        self._log = None if self._log_path is None else open(self._log_path, "a", 1, "utf-8")  # noqa: SIM115
        self._loop = loop = asyncio.new_event_loop()
        # Threads that compute replies: they share one interpreter lock, so more would only hand it around.
        loop.set_default_executor(ThreadPoolExecutor(2, thread_name_prefix="offline-model"))
        self._thread = threading.Thread(target=loop.run_forever, name="offline-server", daemon=True)
        self._thread.start()
        app = web.Application(client_max_size=64 * 2**20)
        app.add_routes([web.post("/v1/chat/completions", self._chat)])
        # A connection that idles is never closed from this side: the client would take it for a reset nobody asked for.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, keepalive_timeout=86_400, shutdown_timeout=0.1
        )
        try:
            asyncio.run_coroutine_threadsafe(self._listen(self._runner), loop).result()
        except BaseException:
            self.stop()
            raise
        return self

    async def _listen(self, runner: web.AppRunner) -> None:
        await runner.setup()
        await web.TCPSite(runner, _HOST, self._port, backlog=1024).start()
        self._port = runner.addresses[0][1]

    def stop(self) -> None:
        """Close all connections, also of requests under way, and end the thread. Twice does no harm."""
        if (loop := self._loop) is None:
            return
        for ending in (self._runner.cleanup(), loop.shutdown_default_executor()):
            asyncio.run_coroutine_threadsafe(ending, loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()
        if self._log is not None:
            self._log.close()
        self._loop = self._log = None

    def __enter__(self) -> "OfflineServer":
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        body, name = _parse(await http.read())
        self._seen[name] += 1
        seed = body["seed"] if type(body.get("seed")) is int else None
        record = ServedRequest(time.time(), name, self._seen[name], str(body.get("model", ""))[:200], seed)
        try:
            return await self._answer(http, body, record)
        except _Refusal as refusal:
            record.status = refusal.status
            headers = {"Retry-After": f"{self._faults.retry_after:g}"} if record.fault == "429" else None
            return web.json_response(refusal.body, status=refusal.status, headers=headers)
        except BaseException as error:
            record.status = 499 if isinstance(error, asyncio.CancelledError) else 500
            raise
        finally:
            record.latency = round(time.time() - record.time, 6)
            self._records.append(record)
            if self._log is not None:
                self._log.write(json.dumps(asdict(record)) + "\n")  # line-buffered

    async def _answer(self, http: web.Request, body: dict[str, Any], record: ServedRequest) -> web.StreamResponse:
        """The reply to one request; what overrides this sees every request, and may hold it up."""
        request, plan = self._checked(http, body), self._faults.plan(record.request, record.attempt)
        record.fault = plan.fault
        if plan.fault in (*_REFUSALS, "reset", "hang"):
            await asyncio.sleep(plan.latency + (self._faults.hang_seconds if plan.fault == "hang" else 0.0))
            if plan.fault in _REFUSALS:
                status, code = _REFUSALS[plan.fault]
                raise _Refusal(status, f"This request fails on purpose: {code}.", code)
            if (transport := http.transport) is not None:
                if plan.fault == "reset":
                    linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # closing sends a TCP reset
                    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                transport.abort()
            return web.Response()
        # The model works in a thread of its own, so that waiting requests go on waiting in parallel.
        reply = await asyncio.to_thread(self._engine.complete, request)
        text, finish = reply.message.text or "", reply.finish_reason
        if plan.fault == "garbage":
            text, finish = _NONSENSE, "stop"
        elif plan.fault == "truncated":
            text, finish = text[: int(len(text) * plan.share)], "length"
        record.prompt_tokens, record.completion_tokens = reply.usage.input_tokens or 0, -(-len(text) // 4)
        await asyncio.sleep(max(0.0, plan.latency - (time.time() - record.time)))
        record.status = 200
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        usage = {"prompt_tokens": record.prompt_tokens, "completion_tokens": record.completion_tokens}
        sent = json.dumps({
            "id": f"chatcmpl-{record.request[:24]}-{record.attempt}", "object": "chat.completion",
            "created": int(record.time), "model": record.model, "choices": [choice],
            "system_fingerprint": "a built-in character n-gram model, not a large language model",
            "usage": {**usage, "total_tokens": sum(usage.values())},
        })  # fmt: skip
        sent = sent[: len(sent) // 2] if plan.fault == "malformed" else sent
        return web.Response(body=sent.encode(), content_type="application/json")

    def _checked(self, http: web.Request, body: dict[str, Any]) -> Request:
        """The request that a body asks for, if its sender may ask."""
        scheme, _, key = http.headers.get("Authorization", "").partition(" ")
        if self._require_key is not None and (scheme.lower(), key.strip()) != ("bearer", self._require_key):
            raise _Refusal(401, "Incorrect API key provided, or none.", "invalid_api_key")
        if not body:
            raise _Refusal(400, "We could not parse the JSON body of your request: it must be a JSON object.")
        model = str(body.get("model", ""))[:200]
        if self._strict_model and model.partition("/")[0] != "offline":
            raise _Refusal(404, f"The model `{model}` does not exist.", "model_not_found")
        if body.get("n", 1) != 1 or body.get("stream"):
            raise _Refusal(400, "This server gives one choice a request, in one piece: no `n` above 1, no `stream`.")
        try:
            return request_from_openai_chat({key: value for key, value in body.items() if key not in ("n", "stream")})
        except (LM15Error, ValueError, TypeError, KeyError) as error:
            raise _Refusal(400, f"Invalid request: {str(error)[:500]}") from error


def _parse(raw: bytes) -> tuple[dict[str, Any], str]:
    """A body, empty if it is no JSON object, and the hash of its content; both names of the token limit hash alike."""
    body = None
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(raw)
    if not isinstance(body, dict):
        return {}, blake2b(raw, digest_size=16).hexdigest()
    body = {key: value for key, value in body.items() if value is not None}
    content = {"max_tokens": body.get("max_completion_tokens"), "n": 1, **body, "max_completion_tokens": None}
    return body, blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; the options are the arguments of `OfflineServer` and `Faults`."""
    parser = argparse.ArgumentParser(prog="python -m trgrpo_dspy.offline", description="The offline model over HTTP.")
    parser.add_argument("command", choices=["serve"])
    for owner in (OfflineServer, Faults):
        said = dict(re.findall(r"^ +(\w+): (.+)$", owner.__doc__ or "", re.MULTILINE))
        for name, argument in inspect.signature(owner).parameters.items():
            option, default = f"--{name.replace('_', '-')}", argument.default
            if isinstance(default, bool):
                parser.add_argument(option, action="store_true", help=said[name])
            elif argument.kind is not argument.VAR_KEYWORD:
                read: Any = {tuple: lambda text: tuple(text.split(",")), type(None): str}.get(
                    type(default), type(default)
                )
                parser.add_argument(option, default=default, type=read, help=f"{said[name]} Default: {default}")
    options = vars(parser.parse_args(arguments))
    options.pop("command")
    try:
        server = OfflineServer(**options).start()
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        sys.exit(str(error))
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    sys.stdout.write(f"The built-in n-gram model, no large language model, listens at {server.url} (Ctrl-C ends it)\n")
    sys.stdout.flush()
    ended.wait()
    server.stop()
