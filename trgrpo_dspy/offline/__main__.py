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
from typing import Any

from .server import Faults, OfflineServer

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal comes."""
    parser = _parser()
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trgrpo_dspy.offline", description="The offline model.")
    serve = parser.add_subparsers(dest="command", required=True).add_parser("serve", help="serve it over HTTP")
    for owner in (OfflineServer, Faults):
        said = dict(re.findall(r"^ +(\w+): (.+)$", owner.__doc__ or "", re.MULTILINE))
        for name, argument in inspect.signature(owner).parameters.items():
            option, default, text = f"--{name.replace('_', '-')}", argument.default, said[name]
            if isinstance(default, bool):
                serve.add_argument(option, action="store_true", help=text)
            elif argument.kind is not argument.VAR_KEYWORD:
                read: Any = {tuple: lambda names: tuple(names.split(",")), type(None): str}.get(
                    type(default), type(default)
                )
                serve.add_argument(option, default=default, type=read, help=f"{text} Default: {default}")
    return parser


if __name__ == "__main__":
    main()
