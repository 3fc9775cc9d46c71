"""That work grows with the length of its text and nothing else, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
TIMES, TRIES = 16, 5


def assert_linear(work: Callable[[T], object], of_size: Callable[[int], T], size: int, *, seconds: float) -> None:
    """Check that a text 16 times as long takes less than 64 times as long, and less than so many seconds.

    Work that grows with the square takes 256 times as long. Only the CPU time of this thread counts, and one good try
    is enough: other processes share the processor's caches.
    """
    short, long = of_size(size // TIMES), of_size(size)
    tries = []
    for _ in range(TRIES):
        tries.append((_cpu_seconds(work, short), _cpu_seconds(work, long)))
        few, many = tries[-1]
        if many < min(seconds, TIMES**1.5 * few + 0.01):  # 10 ms: what a first call or a garbage collection takes
            return
    raise AssertionError(f"CPU seconds for {size // TIMES} and {size}: {tries}")


def _cpu_seconds(work: Callable[[T], object], given: T) -> float:
    started = time.thread_time()
    work(given)
    return time.thread_time() - started
