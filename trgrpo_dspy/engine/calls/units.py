"""A unit of work: what LM calls are made for, counted on and journaled under."""

from __future__ import annotations

import functools
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import dspy

from trgrpo_dspy.failures.replies import ReplyFault
from trgrpo_dspy.meter.meter import LMCall, Stage

if TYPE_CHECKING:
    from .slots import Slot

__all__ = ["UNIT", "Account", "Clock", "Unit", "current_unit"]

UNIT = "trgrpo_dspy_unit"
"""The DSPy setting that says which unit of work a call is made for."""


@dataclass
class Clock:
    """What of a unit's time is not its own. Moments are of the monotonic clock."""

    held: float = 0.0
    """Seconds for which the run held its calls back: rate limit, first answer, busy backend, no slot."""
    out: list[float] = field(default_factory=list)
    """When each request that is out now has to be back."""
    awaited: int = 0
    """Asynchronous calls under way."""
    _held_until: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def may_wait(self, asynchronous: bool) -> bool:
        """Whether a call may wait: not a synchronous one beside others, since it may block the loop that frees them."""
        return asynchronous or not self.awaited

    def hold(self, begin: float, end: float) -> None:
        """Count a time in which the run held a call back; a time that several calls share counts once."""
        with self._lock:
            self.held += max(0.0, end - max(begin, self._held_until))
            self._held_until = max(self._held_until, end)


@dataclass
class Account:
    """What a unit's work came to so far. The calls of an attempt's judge are booked on the attempt."""

    calls: list[LMCall] = field(default_factory=list)
    """What was spent."""
    replies: set[tuple[str, str, int]] = field(default_factory=set)
    """The journal's replies that were counted: one that is read again is no further call."""
    clock: Clock = field(default_factory=Clock)
    abandoned: threading.Event = field(default_factory=threading.Event)
    """Set when the work has taken too long: further calls are refused and the result is dropped."""
    slot: Slot | None = None
    """The slot the work runs in; None outside the driver."""
    outage: BaseException | None = None
    """The first infrastructure failure that was met, also if the program swallowed it."""
    try_again: bool = False
    """Whether the whole attempt is worth another try: a tool met the outage, or Python itself failed."""
    replayed: bool = False
    """Whether the result was read from the journal."""
    fault: ReplyFault | None = None
    """What the last reply lacked; None for a reply with an answer."""
    asked: Counter[str] = field(default_factory=Counter)
    """How often each request was made, by its hash."""


@dataclass(frozen=True)
class Unit:
    """One piece of work with LM calls: an attempt, a summary, a comparison, ..."""

    stage: Stage
    step: int = 0
    """Step it belongs to; 0 is before the first."""
    key: tuple[int | str, ...] = ()
    """Tells the unit from others of its stage; seeds and rollout ids are derived from it."""
    resample: bool = False
    """Whether replies must differ from those to the same request elsewhere (own rollout id and seed)."""
    temperature: float | None = None
    """Sampling temperature in place of the LM's own; None keeps that."""
    library: str = ""
    """Digest of the library the work is done with: with another library it is another unit."""
    role: str = ""
    """'judge' for the metric's own calls."""
    account: Account = field(default_factory=Account, compare=False, repr=False)

    LABELS: ClassVar[tuple[str, ...]] = ("stage", "step", "example", "attempt", "role", "part")
    """The names in `labels`."""

    @property
    def labels(self) -> dict[str, str | int]:
        """What spans and traces are tagged with: stage, step, and of an attempt its example and number."""
        labels: dict[str, str | int] = {"stage": self.stage.value, "step": self.step}
        if self.stage.attempts:
            labels |= dict(zip(("example", "attempt"), self.key[-2:], strict=False))
        elif self.key:
            labels["part"] = "/".join(map(str, self.key))
        return labels | ({"role": self.role} if self.role else {})

    @functools.cached_property
    def id(self) -> str:
        """The unit's name in the journal, unique in a run."""
        names = filter(None, (self.library, self.role))
        return "/".join([self.stage.value, str(self.step), *map(str, self.key), *names])

    @property
    def truncated(self) -> bool:
        """Whether any reply was cut by length."""
        return any(call.truncated for call in self.account.calls)

    def as_judge(self) -> Unit:
        """The unit of the metric's own calls: booked on the attempt, without its sampling."""
        own = replace(self.account, outage=None, try_again=False, fault=None, asked=Counter())
        return replace(self, resample=False, temperature=None, role="judge", account=own)


def current_unit() -> Unit:
    """The unit of work that is under way here."""
    unit = dspy.settings.get(UNIT)
    # A thread that a program starts by itself carries no settings: its calls still count.
    return unit if isinstance(unit, Unit) else Unit(Stage.ROLLOUT)
