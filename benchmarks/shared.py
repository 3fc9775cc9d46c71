"""What benchmarks share: their command lines, what they say of goals, and work spread over processes."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import get_context
from typing import TypeVar

__all__ = ["command_line", "in_processes", "judge", "quiet"]

_T = TypeVar("_T")
_R = TypeVar("_R")


def command_line(documentation: str | None, quick: str, **numbers: tuple[int | float, str]) -> argparse.ArgumentParser:
    """A parser with `--quick` and an option for each number, `name=(default, help)`."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=text)
    return parser


def quiet() -> None:
    """Of DSPy, LiteLLM and this package only errors are logged."""
    for name in ("dspy", "trgrpo_dspy", "LiteLLM"):
        logging.getLogger(name).setLevel(logging.ERROR)


def judge(goals: Iterable[tuple[bool, str]]) -> int:
    """Print which goals are met; the exit status is 0 if all are."""
    goals = list(goals)
    for met, text in goals:
        print(f"{'PASS' if met else 'FAIL'}  {text}")
    return 0 if all(met for met, _ in goals) else 1


def in_processes(work: Callable[[_T], _R], tasks: Sequence[_T], processes: int) -> list[_R]:
    """The work on each task, in order; with one process it is done in this one."""
    if processes == 1:
        return [work(task) for task in tasks]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read by the spawned processes
    with get_context("spawn").Pool(processes) as pool:
        return pool.map(work, tasks, chunksize=1)
