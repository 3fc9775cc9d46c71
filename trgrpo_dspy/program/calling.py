"""Calls of the user's own code, synchronous or not."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import dspy

__all__ = ["call_program", "check_program", "finished"]


def check_program(name: str, program: Any) -> None:
    """Refuse what is no program; of a class, say that an instance is wanted."""
    if isinstance(program, type) and issubclass(program, dspy.Module):
        raise TypeError(f"{name} is the class {program.__name__}; pass an instance: {program.__name__}(...)")
    if not isinstance(program, dspy.Module):
        raise TypeError(f"{name} must be a dspy.Module, got {type(program).__name__}")


def call_program(program: Any, inputs: Mapping[str, Any]) -> Any:
    """Call a program or module and wait for its result, also where it has only `aforward`."""
    names = {*dir(type(program)), *vars(program)}  # DSPy warns of a look at `program.forward` itself
    only_async = "forward" not in names and "aforward" in names
    return finished(program.acall(**inputs) if only_async else program(**inputs))


def finished(result: Any) -> Any:
    """What an `async def` comes to; any other result as it is."""
    if not inspect.isawaitable(result):
        return result
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_wait(result))
    # In a notebook this thread runs a loop already, which can't run another.
    with ThreadPoolExecutor(1) as other:
        return other.submit(copy_context().run, asyncio.run, _wait(result)).result()


async def _wait(result: Awaitable[Any]) -> Any:
    return await result
