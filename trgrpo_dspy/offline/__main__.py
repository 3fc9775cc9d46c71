"""`python -m trgrpo_dspy.offline serve`: the offline model as an OpenAI-compatible endpoint on loopback.

The options are the arguments of `OfflineServer` and `Faults`. Guarantees: the address is printed once the server
answers; SIGINT and SIGTERM end it with status 0.
"""

from __future__ import annotations

import argparse
import inspect
import re
import signal
import sys
import threading
from collections.abc import Sequence

from .server import Faults, OfflineServer

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes. Returns the exit status."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    options.pop("command")
    try:
        server = OfflineServer(**options).start()
    except ValueError as error:
        parser.error(str(error))
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
    serve = parser.add_subparsers(dest="command", required=True).add_parser("serve", help="serve it over HTTP")
    for kind in (OfflineServer, Faults):
        said = dict(re.findall(r"^ +(\w+): (.+)$", kind.__doc__ or "", re.MULTILINE))
        for name, argument in inspect.signature(kind).parameters.items():
            option, default, text = f"--{name.replace('_', '-')}", argument.default, said[name]
            if isinstance(default, bool):
                serve.add_argument(option, action="store_true", help=text)
            elif argument.kind is not argument.VAR_KEYWORD:
                read = _names if isinstance(default, tuple) else str if default is None else type(default)
                serve.add_argument(option, default=default, type=read, help=f"{text} Default: {default}")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    sys.exit(main())
