"""Sequences of reflection calls, written once and driven in two ways.

A sequence is a generator: it yields the calls it needs next (`Ask`), all of which may run at the same time, and is
sent their `Reply`s in the same order. `in_place` makes the calls one after the other in the caller's thread; the
optimizer's loop makes them as tasks of its pool (`learning/driver.py`). What a reply can't be used for is lost and
counted, never guessed at.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from trgrpo_dspy.meter.meter import Stage

__all__ = ["Ask", "Reply", "Steps", "in_place", "losses"]

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """One reflection call to make."""

    stage: Stage
    """What the call is for."""
    key: tuple[int, ...]
    """What tells the call from others of its stage and step: seeds and the journal's key derive from it."""
    call: Callable[[], Any]
    """Makes the call and returns what was read from the reply."""


@dataclass(frozen=True)
class Reply:
    """What came of one call."""

    value: Any = None
    """What was read; None if the reply was lost."""
    lost: str = ""
    """Why the reply could not be used, as 'stage: reason'; empty if it could."""


Steps = Generator[list[Ask], list[Reply], T]
"""A sequence of reflection calls that comes to a T."""


def in_place(steps: Steps[T]) -> T:
    """Make the calls of a sequence one after the other, here; errors of a call are raised."""
    replies: list[Reply] | None = None
    while True:
        try:
            asked = next(steps) if replies is None else steps.send(replies)
        except StopIteration as end:
            return end.value
        replies = [Reply(ask.call()) for ask in asked]


def losses(replies: Iterable[Reply]) -> tuple[str, ...]:
    """Why replies were lost, those that were not left out."""
    return tuple(reply.lost for reply in replies if reply.lost)
