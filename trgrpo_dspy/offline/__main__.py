"""`python -m trgrpo_dspy.offline serve`: the offline model as an OpenAI-compatible endpoint on loopback.

Guarantees: the address is printed once the server answers; SIGINT and SIGTERM end it with status 0.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from .server import ERROR_KINDS, OfflineServer

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes. Returns the exit status."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    options.pop("command")
    try:
        server = OfflineServer(**options)
    except ValueError as error:
        parser.error(str(error))
    try:
        server.start()
    except (OSError, ImportError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    sys.stdout.write(f"The built-in n-gram model, no large language model, listens at {server.url} (Ctrl-C ends it)\n")
    sys.stdout.flush()
    ended.wait()
    server.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trgrpo_dspy.offline", description="The offline model.")
    serve = parser.add_subparsers(dest="command", required=True).add_parser(
        "serve",
        help="serve it over HTTP",
        description="Serve the offline model on loopback, OpenAI-compatible, with the failures real providers have.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    def option(name: str, default: Any, text: str, kind: Any = str) -> None:
        serve.add_argument(f"--{name}", default=default, type=kind, help=text)

    option("port", 8123, "port; 0 for any free one", int)
    option("host", "127.0.0.1", "loopback address")
    option("latency", "none", "none, fixed:SECONDS or lognormal:MEDIAN,SIGMA[,CAP]")
    option("error-rate", 0.0, "share of requests that fail", float)
    option("garbage-rate", 0.0, "share of well-formed replies that can't be parsed", float)
    option("truncate-rate", 0.0, "share of replies cut off", float)
    option("errors", "429,500,503,reset", f"ways to fail, of {','.join(ERROR_KINDS)}", _names)
    option("hang-seconds", 30.0, "how long a hanging request hangs", float)
    option("retry-after", 1.0, "seconds a rate limit asks to wait", float)
    option("seed", 0, "seed of failures and latencies", int)
    option("model-seed", 0, "seed of the model", int)
    option("require-key", None, "the key requests must bring; 401 without it")
    option("log", None, "file that gets a JSON line a request")
    serve.add_argument("--strict-model", action="store_true", help="404 for models not named offline or offline/...")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    sys.exit(main())
