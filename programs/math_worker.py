"""The process that runs `math-verify` for `math_checker`: a request and a reply on a line each, in JSON.

It has limits of its own on CPU time, memory and files. Python code that takes too long is interrupted; code in C, which
can't be, ends the process a little later (`SIGXCPU`), and the other side knows what that means.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_MEMORY = 2 * 2**30
_TOO_HARD = "it could not be evaluated within the limits"


class _TooLong(BaseException):
    """The CPU time is up."""


def serve() -> None:
    """Answer requests until the input ends, or until one has gone so wrong that a fresh process is better."""
    replies, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no reply
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or ".") != here]
    _limit_process()
    for line in sys.stdin:
        reply = _reply(json.loads(line))
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        if "leaving" in reply:
            return


def _reply(request: dict[str, Any]) -> dict[str, Any]:
    try:
        import math_verify  # at the first request; takes a second, which is not the answer's fault

        with _cpu_limit(request["cpu_seconds"]):
            return _compare(math_verify, request["expected"], request["given"])
    except (_TooLong, MemoryError):
        return {"right": False, "problem": _TOO_HARD, "leaving": True}
    except (RecursionError, OverflowError):
        return {"right": False, "problem": _TOO_HARD}
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {str(error)[:200]}"}


def _compare(math_verify: Any, expected: str, given: str) -> dict[str, Any]:
    import sympy

    kinds = (sympy.Basic, sympy.MatrixBase)
    gold = math_verify.parse(expected, parsing_timeout=None)
    if not any(isinstance(item, kinds) for item in gold):
        return {"right": False, "problem": "the expected answer is no mathematical expression, and the texts differ"}
    answer = math_verify.parse(given, parsing_timeout=None)
    if not any(isinstance(item, kinds) for item in answer):
        return {"right": False, "problem": "no mathematical expression can be read from it"}
    right = math_verify.verify(gold, answer, timeout_seconds=None, allow_set_relation_comp=True)
    return {"right": bool(right)}


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
    serve()
