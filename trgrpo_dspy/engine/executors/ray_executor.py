"""Attempts on a Ray cluster, for programs that are heavy: a browser, code, a model of their own.

Guarantees: nothing of Ray is imported before a `RayExecutor` is made; a Ray that was initialised is left running; a
worker or node that is lost is an `InfrastructureError`, so the attempt is made again elsewhere; and no value of an
environment variable is handed to Ray, whose job records and dashboard would show it.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from typing import Any

from trgrpo_dspy.errors import InfrastructureError

from .threads import ThreadExecutor

__all__ = ["RayExecutor"]

logger = logging.getLogger(__name__)

_LARGE = 50_000
"""Bytes from which an argument is put into Ray's object store once, rather than sent with every task."""
_KEPT = 4
"""Such arguments that are kept there."""
_ENDING = 10.0
"""Seconds that tasks have to end when the executor is closed."""
_LOST = (
    "WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "OutOfDiskError", "ActorDiedError", "ObjectLostError",
)  # fmt: skip
"""What Ray raises when a worker, a node or what they held is gone."""


class RayExecutor:
    """Runs attempts as tasks of a Ray cluster. Use it as a context manager, or `close` it.

    Keys are not sent: each node's workers look them up in their own environment, so set them on every node before
    `ray start`. This package, DSPy and what the program imports must be installed there too.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
    ) -> None:
        """Connect to a cluster, in the thread that makes this: what Ray starts for it ends with that thread.

        Args:
            address: As for `ray.init`: 'auto' or 'host:port' is a cluster this machine is part of, 'ray://host:10001' a
                distant one (that takes `pip install 'ray[client]'`), None the one in RAY_ADDRESS or on this machine,
                else a new one on this machine alone. Where Ray is initialised already, that is used.
            num_cpus: CPUs one attempt takes.
            num_gpus: GPUs one attempt takes.
            resources: Further resources of yours that it takes, by name.

        Raises:
            ImportError: Ray is not installed.
            ConnectionError: The cluster can't be reached.
        """
        try:
            import ray
        except ImportError as error:
            raise ImportError("RayExecutor needs Ray: pip install 'trgrpo-dspy[ray]'") from error
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(address)
        self._warn_if_none_fits(num_cpus, num_gpus, resources or {})
        # A distant driver does not hear that a task began: there, time in the cluster's queue counts as the attempt's.
        self._tells = not ray.util.client.ray.is_connected()
        self._start = ray.remote(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            resources=dict(resources or {}) or None,
            max_retries=0,  # tries are ours to count
            scheduling_strategy="SPREAD",  # else Ray fills one node first, and gives short attempts to the others late
            num_returns="streaming" if self._tells else 1,
        )(_work if self._tells else _work_unseen).remote
        self._lock = threading.Lock()
        self._put = functools.lru_cache(_KEPT)(ray.put)
        self._watchers = ThreadExecutor()
        self._open: set[Any] = set()
        self._closed = False

    def __enter__(self) -> RayExecutor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Run `fn(*args)` on some worker.

        Raises:
            RuntimeError: This executor is closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("this RayExecutor is closed; make a new one, or compile within its `with`")
            running = self._start(fn, *(self._by_reference(arg) for arg in args))
            task = _Task(self._ray, running, self._tells)
            self._open.add(task)
        task.add_done_callback(self._open.discard)
        self._watchers.submit(task.watch)
        return task

    def close(self) -> None:
        """Cancel what is at work, and shut down the Ray that was started here."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            left = list(self._open)
        for task in left:
            task.cancel()
        wait(left, _ENDING)
        self._put.cache_clear()
        self._watchers.close()
        if self._ours:
            self._ray.shutdown()

    def _connect(self, address: str | None) -> None:
        try:
            self._ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # Ray has many ways of saying that nobody is there
            reason = (str(error).splitlines() or [""])[0]
            raise ConnectionError(
                f"RayExecutor(address={address!r}) can't reach the cluster: {type(error).__name__}: {reason}. Start "
                "one with `ray start --head`, or leave the address out for one on this machine. One that runs may "
                "ask for its token: copy ~/.ray/auth_token of its first node here, or set RAY_AUTH_TOKEN"
            ) from None

    def _warn_if_none_fits(self, num_cpus: float, num_gpus: float, resources: Mapping[str, float]) -> None:
        """Say so where no node could run an attempt: it would wait, without a word, until one joins that can."""
        wanted = {"CPU": num_cpus, "GPU": num_gpus, **resources}
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            most = {name: max((node.get(name, 0) for node in nodes), default=0) for name in wanted}
            logger.warning("no node of the Ray cluster has %s (the most: %s): attempts wait for one", wanted, most)

    def _by_reference(self, arg: Any) -> Any:
        """A large argument as a reference into Ray's object store, where it is put once."""
        if not isinstance(arg, bytes) or len(arg) < _LARGE:
            return arg
        return self._put(arg)


class _Task(Future[Any]):
    """A task of Ray's as a future that also knows when its work began, and can be cancelled while it runs."""

    def __init__(self, ray: Any, running: Any, tells: bool) -> None:
        super().__init__()
        self._ray, self._running, self._tells = ray, running, tells
        self._unwanted = False

    def cancel(self) -> bool:
        """Cancel it; one at work loses its worker process."""
        if self.done():
            return False
        self._unwanted = True
        super().cancel()
        with suppress(Exception):  # it ended just now, or the cluster has
            self._ray.cancel(self._running, force=True)
        return True

    def watch(self) -> None:
        """Wait for its beginning and its end."""
        failure: BaseException | None = None
        try:
            if self._tells:
                self._ray.get(next(self._running))  # raises what kept it from beginning
        except BaseException as error:
            failure = error
        if not self.set_running_or_notify_cancel():
            return
        try:
            if failure is not None:
                raise failure
            result = self._ray.get(next(self._running) if self._tells else self._running)
            if self._unwanted:  # Ray gives nothing in place of an error where a cancelled task ends in time
                raise CancelledError
            self.set_result(result)
        except BaseException as error:
            self.set_exception(self._failure(error))

    def _failure(self, error: BaseException) -> BaseException:
        if self._unwanted:
            return CancelledError()
        kinds = {cls.__name__ for cls in type(error).__mro__}
        if isinstance(error, StopIteration) or not kinds.isdisjoint(_LOST):
            text = str(error).splitlines()
            return InfrastructureError(f"a Ray worker was lost: {type(error).__name__}: {text[0] if text else ''}")
        return getattr(error, "cause", None) or error


def _work_unseen(fn: Callable[..., Any], *args: Any) -> Any:
    """Do it."""
    return fn(*args)


def _work(fn: Callable[..., Any], *args: Any) -> Iterator[Any]:
    """Say that it has begun, then do it."""
    yield None
    yield fn(*args)
