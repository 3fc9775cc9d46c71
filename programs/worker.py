"""The process behind `workers`: a question and a reply on a line each, in JSON.

Started as `python worker.py MODULE`, where MODULE has a function `answer(question)`. The process has limits of its own
on CPU time, memory and files. Python code that takes too long is interrupted; code in C, which can't be, ends the
process a little later (`SIGXCPU`), and the other side knows what that means.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

_MEMORY = 2 * 2**30


class _TooLong(BaseException):
    """The CPU time is up."""


def serve(module: str) -> None:
    """Answer questions until the input ends, or until one has gone so wrong that a fresh process is better."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no reply
    here = os.path.dirname(os.path.abspath(__file__))
    # This folder's file names (`reasoning_gym`) must not hide packages; its parent makes `programs` importable.
    sys.path[:] = [*(path for path in sys.path if os.path.abspath(path or ".") != here), os.path.dirname(here)]
    _limit_process()
    answer = None
    for line in sys.stdin:
        try:
            # Imports take a second, which is not the answer's fault.
            answer = answer or importlib.import_module(module).answer
            reply = _reply(answer, json.loads(line))
        except Exception as error:
            reply = {"failure": f"{type(error).__name__}: {str(error)[:200]}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        if "too_hard" in reply:
            return


def _reply(answer: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    try:
        with _cpu_limit(request["cpu_seconds"]):
            return answer(request["question"])
    except (_TooLong, MemoryError, RecursionError, OverflowError):
        return {"too_hard": True}


def _limit_process() -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    if not hasattr(signal, "setitimer"):
        yield
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 2, most))
    signal.signal(signal.SIGPROF, _raise_too_long)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _raise_too_long(*_: object) -> None:
    raise _TooLong


if __name__ == "__main__":
    serve(sys.argv[1])
