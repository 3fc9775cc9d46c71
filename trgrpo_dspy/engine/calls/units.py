"""A unit of work: what LM calls are made for, counted on and journaled under."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from dataclasses import dataclass, field

from trgrpo_dspy.meter import LMCall, Stage

from .places import Place

__all__ = ["Unit"]


@dataclass
class Unit:
    """One piece of work with LM calls: an attempt, a summary, a comparison, ..."""

    stage: Stage
    """What the work is for."""
    step: int = 0
    """Step it belongs to; 0 is before the first."""
    key: tuple[int | str, ...] = ()
    """What tells it from others of its stage: seeds and rollout ids are derived from it."""
    resample: bool = False
    """Whether replies must differ from those to the same request elsewhere (own rollout id and seed)."""
    temperature: float | None = None
    """Sampling temperature in place of the LM's own; None keeps that."""
    calls: list[LMCall] = field(default_factory=list)
    """What it spent so far."""
    outage: BaseException | None = None
    """The first infrastructure failure met, even if the program swallowed it."""
    replayed: bool = False
    """Whether its result was read from the journal."""
    try_again: bool = False
    """Whether the attempt itself is worth another try: a tool met the outage, or Python itself failed."""
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Set when the work has taken too long: its further calls are refused and its result is dropped."""
    role: str = ""
    """'judge' for the metric's own calls."""
    basis: str = ""
    """Hash of the library it rests on: an attempt with another library is other work."""
    held: float = 0.0
    """Seconds its calls were held back by the run (rate limit, first answer, no place): no time of its own."""
    held_until: float = 0.0
    """When that was counted up to, by the monotonic clock."""
    place: Place | None = None
    """Where it is at work; None outside an execution."""
    out: list[float] = field(default_factory=list)
    """When its requests that are out now went out, by the monotonic clock."""
    awaited: int = 0
    """Asynchronous calls under way."""
    whole: Unit | None = None
    """The attempt that a judge's calls belong to; None is itself."""
    asked: Counter[str] = field(default_factory=Counter)
    """How often each request was made in this unit."""
    replies: set[tuple[str, str, int]] = field(default_factory=set)
    """The journal's replies it has had: one that it takes again is no further call."""

    @functools.cached_property
    def id(self) -> str:
        """The unit's name in the journal, unique in a run."""
        return "/".join([self.stage.value, str(self.step), *map(str, self.key), *filter(None, (self.basis, self.role))])

    @property
    def truncated(self) -> bool:
        """Whether any reply was cut by length."""
        return any(call.truncated for call in self.calls)

    def as_judge(self) -> Unit:
        """The unit of the metric's own calls: same account, no sampling changes."""
        return Unit(
            self.stage, self.step, self.key,
            calls=self.calls, abandoned=self.abandoned, role="judge", basis=self.basis, whole=self, place=self.place,
        )  # fmt: skip

    @property
    def account(self) -> Unit:
        """The unit that time is counted on: the attempt, also for its judge."""
        return self.whole or self
