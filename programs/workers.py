"""Worker processes that judge what a model wrote, from any number of threads.

Guarantees: no question hangs; a model's text is never evaluated in this process; identical questions asked at the same
time are asked once. A worker (`worker.py`) has an empty environment and hard limits on memory, files and CPU time, so
a busy machine makes no answer too hard.

A question that takes more than the limits is answered by `TOO_HARD`. What the workers themselves could not do (a
worker that died for another reason, twice; a machine that stood still) is a `WorkerError`.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["TOO_HARD", "WorkerError", "Workers", "shared"]

TOO_HARD = {"too_hard": True}
"""The reply where the limits ended the work."""
_QUESTIONS_PER_WORKER = 2000
"""After so many questions a worker is replaced: sympy's caches grow."""
_SCRIPT = Path(__file__).with_name("worker.py")
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL")


class WorkerError(Exception):
    """There is no reply: the workers failed, not what they were asked about."""


class Workers:
    """A few processes that answer questions (JSON objects) with the function `answer` of one module; thread-safe."""

    def __init__(
        self, module: str, *, count: int | None = None, cpu_seconds: float = 3.0, patience: float = 60.0
    ) -> None:
        """Prepare; processes start when they are needed.

        Args:
            module: Name of the module whose `answer(question)` runs in the workers.
            count: Most processes; by default as many as there are processors, and no more than 4.
            cpu_seconds: CPU time for one question.
            patience: Times the CPU time that a worker may take on the clock, the wait for a free worker excluded.
        """
        self._module = module
        self._free = threading.Semaphore(count or min(4, os.cpu_count() or 1))
        self._idle: list[_Worker] = []
        self._asked: dict[str, Future[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self.cpu_seconds, self.patience = cpu_seconds, patience

    def ask(self, question: dict[str, Any], *, cpu_seconds: float | None = None) -> dict[str, Any]:
        """Reply to a question; wait for the reply of another thread that asks the same just now.

        Args:
            question: What the module's `answer` is called with.
            cpu_seconds: CPU time for this question, if it is not the usual one.

        Raises:
            WorkerError: There is no reply.
        """
        seconds = cpu_seconds or self.cpu_seconds
        line = json.dumps({"cpu_seconds": seconds, "question": question})
        with self._lock:
            underway = self._asked.get(line)
            if underway is None:
                mine = self._asked[line] = Future()
        if underway is not None:
            return underway.result()
        try:
            with self._free:
                mine.set_result(self._reply(line, self.patience * seconds))
        except OSError as error:
            mine.set_exception(WorkerError(f"its process can't be started ({error})"))
        except Exception as error:
            mine.set_exception(error)
        except BaseException:  # Ctrl-C in this thread must not end the others
            mine.set_exception(WorkerError("it was interrupted"))
            raise
        finally:
            with self._lock:
                del self._asked[line]
        return mine.result()

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.close()

    def _reply(self, line: str, wall_seconds: float) -> dict[str, Any]:
        """Ask a worker, and a fresh one if it dies; one that used up its CPU time has answered by that."""
        failure = ""
        for _ in range(2):
            worker = self._take()
            reply = None
            try:
                reply = worker.ask(line, wall_seconds)
            finally:
                code = self._give_back(worker, reply)
            if reply is not None and "failure" in reply:
                raise WorkerError(reply["failure"])
            if reply is not None:
                return TOO_HARD if "too_hard" in reply else reply
            if code == -getattr(signal, "SIGXCPU", 0):
                return TOO_HARD
            failure = "there was no reply in time" if worker.late else f"its process ended with code {code}"
        raise WorkerError(failure)

    def _take(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Worker(self._module)

    def _give_back(self, worker: _Worker, reply: dict[str, Any] | None) -> int:
        """Keep a worker for the next question, or end one that died, or whose imports or state may be broken."""
        if reply is None or "too_hard" in reply or "failure" in reply or worker.asked >= _QUESTIONS_PER_WORKER:
            return worker.close()
        with self._lock:
            self._idle.append(worker)
        return 0


class _Worker:
    """One process, asked one thing at a time."""

    def __init__(self, module: str) -> None:
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-B", str(_SCRIPT), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # The order of sets decides what some generators make. Threads of a linear algebra library, one a
            # processor, would take the memory and the CPU time of the limits.
            env={**environment, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
            encoding="utf-8",
        )
        self.asked = 0
        self.late = False

    def ask(self, line: str, wall_seconds: float) -> dict[str, Any] | None:
        """Reply to a question; None if the process died, or was ended because no reply came in time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self.asked += 1
        timer = threading.Timer(wall_seconds, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            return dict(json.loads(self._process.stdout.readline()))
        except (OSError, ValueError):
            return None
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self.late = True
        self._process.kill()

    def close(self) -> int:
        """End the process and return its exit code."""
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError):
                stream.close()  # type: ignore[union-attr]
        try:
            return self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def shared(module: str) -> Workers:
    """The workers of this process for a module; a forked child gets its own."""
    return _shared(module, os.getpid())


@functools.cache
def _shared(module: str, pid: int) -> Workers:
    workers = Workers(module)
    atexit.register(lambda: workers.close() if os.getpid() == pid else None)
    return workers
