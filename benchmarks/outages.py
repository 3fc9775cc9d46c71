"""Outages, and servers that serve few requests at a time: every attempt is scored, and at what wall time.

    python -m benchmarks.outages
    python -m benchmarks.outages --quick

A small server on loopback answers each request after 0.2 s. It is down for 5, 15 or 60 s in the midst of an evaluation
with 8 or 32 threads (HTTP 500, or 429 with `Retry-After`); or it serves 1, 2 or 8 requests at a time under 32 threads,
the others waiting in line beyond the client's timeout of 1.6 s, or refused with 429. Checked: every attempt is scored,
the scores are those of a healthy server, and a server that queues is kept busy (at most 1.3 x what it can do).
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import dspy

from benchmarks.shared import command_line
from programs import tickets
from trgrpo_dspy import evaluate

SECONDS = 0.2
TIMEOUT = 1.6
QUEUE = "billing"


class Server(ThreadingHTTPServer):
    """Answers every ticket alike, when it can."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, width: int = 1000, *, refuses: bool = False, outage: float = 0.0, status: int = 500) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.places, self.refuses, self.outage, self.status = threading.Semaphore(width), refuses, outage, status
        self.requests, self.down_until = 0, 0.0

    def __enter__(self) -> Server:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.shutdown()
        self.server_close()

    def refusal(self) -> int:
        """The status of a request that is not served; 0 for one that is."""
        self.requests += 1
        if self.outage and self.requests >= 40:
            self.down_until = self.down_until or time.monotonic() + self.outage
            if time.monotonic() < self.down_until:
                return self.status
        return 0 if self.places.acquire(blocking=not self.refuses) else 429


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if status := self.server.refusal():
            self._send(status, {"error": {"message": "not now", "type": "server_error"}})
            return
        time.sleep(SECONDS)
        self.server.places.release()
        text = f"[[ ## queue ## ]]\n{QUEUE}\n\n[[ ## completed ## ]]"
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self._send(200, {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            if status == 429:
                self.send_header("retry-after", "1")
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the client has given up
            pass


def measured(server: Server, count: int, threads: int) -> tuple[int, float, tuple[float | None, ...]]:
    """Attempts scored, wall time in seconds, and the scores."""
    examples = [tickets.trainset()[i % 40] for i in range(count)]
    with server:
        url = f"http://127.0.0.1:{server.server_port}/v1"
        lm = dspy.LM("openai/m", api_base=url, api_key="EMPTY", timeout=TIMEOUT, cache=False)
        began = time.perf_counter()
        with dspy.context(lm=lm):
            found = evaluate(dspy.Predict("ticket -> queue"), examples, tickets.metric, num_threads=threads)
        lm.close()
    return sum(score is not None for score in found.scores), time.perf_counter() - began, found.scores


def main() -> None:
    """Run all and print what was found."""
    options = command_line(__doc__, "an outage of 3 s, and one server").parse_args()
    count, bad = 120, 0
    _, _, healthy = measured(Server(), count, 32)
    for outage in (3.0,) if options.quick else (5.0, 15.0, 60.0):
        for threads in (8, 32):
            for status in (500,) if options.quick else (500, 429):
                scored, wall, scores = measured(Server(outage=outage, status=status), count, threads)
                bad += scores != healthy
                print(f"{outage:.0f} s of {status}, {threads} threads: {scored} of {count} scored, {wall:.1f} s")
    for width in (2,) if options.quick else (1, 2, 8):
        for refuses in (False,) if options.quick else (False, True):
            number = 40 if options.quick else 60 * width
            server = Server(width, refuses=refuses)
            scored, wall, _ = measured(server, number, 32)
            ratio = wall / (number * SECONDS / width)
            bad += scored < number or (not refuses and ratio > 1.3)
            how = "refuses the others" if refuses else "the others queue"
            print(
                f"{width} at a time, {how}: {scored} of {number} scored, {server.requests} requests, {wall:.1f} s, "
                f"{ratio:.2f} x what it can do",
                flush=True,
            )
    print(f"{bad} not as promised")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
