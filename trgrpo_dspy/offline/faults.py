"""What goes wrong at the offline server, and how long replies take: pure functions of seed and request.

A plan depends on the server's seed, the request's content and how often that request was seen before, never on the
order in which different requests arrive: runs repeat, and a retry may succeed.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["ERROR_KINDS", "FaultPlan", "Faults", "Latency"]

ERROR_KINDS = ("429", "500", "503", "quota", "reset", "hang", "malformed")
"""Failures the server can inject: a rate limit, two server errors, an account without credit, a connection reset, no
reply at all, a reply whose JSON is broken."""


@dataclass(frozen=True)
class Latency:
    """How long a reply takes, in seconds from its request."""

    median: float = 0.0
    """The fixed time, or the middle of the distribution."""
    sigma: float = 0.0
    """Spread of the logarithm; 0 for a fixed time."""
    cap: float | None = None
    """The longest time, if there is one."""

    @classmethod
    def parse(cls, text: str) -> Latency:
        """Read `none`, `fixed:SECONDS` or `lognormal:MEDIAN,SIGMA[,CAP]`."""
        kind, _, rest = text.partition(":")
        try:
            numbers = [float(part) for part in rest.split(",")] if rest else []
        except ValueError:
            numbers = [-1.0]
        counts = {"none": (0,), "fixed": (1,), "lognormal": (2, 3)}.get(kind, ())
        if len(numbers) not in counts or not all(0 <= n < float("inf") for n in numbers):
            raise ValueError(
                f"latency {text!r}: use none, fixed:SECONDS or lognormal:MEDIAN,SIGMA[,CAP], none negative"
            )
        return cls(*numbers)

    def at(self, unit: float) -> float:
        """The time at a quantile between 0 and 1."""
        quantile = min(max(unit, 1e-12), 1 - 1e-12)
        drawn = self.median * math.exp(self.sigma * NormalDist().inv_cdf(quantile)) if self.sigma else self.median
        return drawn if self.cap is None else min(drawn, self.cap)


@dataclass(frozen=True)
class FaultPlan:
    """What will happen to one request."""

    fault: str | None
    """One of `ERROR_KINDS`, `garbage`, `truncated`, or None."""
    latency: float
    """Seconds until the reply."""
    fraction: float
    """How much of the reply is left if it is truncated."""
    nonsense: str
    """What is said instead if it is garbage; no adapter finds a field in it."""


@dataclass(frozen=True)
class Faults:
    """Decides what goes wrong. A value: the same question has the same answer."""

    seed: int = 0
    """Different seeds make different requests fail."""
    latency: Latency = Latency()
    """How long replies take, failures included."""
    error_rate: float = 0.0
    """Share of requests that fail in one of the ways of `errors`."""
    garbage_rate: float = 0.0
    """Share of replies that are well formed and say nothing that can be parsed."""
    truncate_rate: float = 0.0
    """Share of replies cut off, with finish reason `length`."""
    errors: tuple[str, ...] = ("429", "500", "503", "reset")
    """The ways to fail, each as likely as the others."""

    def __post_init__(self) -> None:
        rates = (self.error_rate, self.garbage_rate, self.truncate_rate)
        if not all(0 <= rate <= 1 for rate in rates) or sum(rates) > 1 + 1e-9:
            raise ValueError(
                "error_rate, garbage_rate and truncate_rate must be between 0 and 1, and so must their sum"
            )
        unknown = [kind for kind in self.errors if kind not in ERROR_KINDS]
        if unknown or not self.errors:
            raise ValueError(f"unknown errors {unknown}: choose from {', '.join(ERROR_KINDS)}")

    def plan(self, request: str, attempt: int) -> FaultPlan:
        """What happens to a request, named by its hash, the `attempt`-th time it is seen."""
        chance = random.Random(f"{self.seed}|{request}|{attempt}")
        wait, what, kind, fraction = (chance.random() for _ in range(4))
        fault = None
        if what < self.error_rate:
            fault = self.errors[int(kind * len(self.errors))]
        elif what < self.error_rate + self.garbage_rate:
            fault = "garbage"
        elif what < self.error_rate + self.garbage_rate + self.truncate_rate:
            fault = "truncated"
        nonsense = _nonsense(chance) if fault == "garbage" else ""
        return FaultPlan(fault, self.latency.at(wait), 0.1 + 0.7 * fraction, nonsense)


def _nonsense(chance: random.Random) -> str:
    """Words of no language, without any mark an adapter looks for."""
    syllables = ("ba", "dro", "fli", "gu", "kes", "lom", "mir", "nop", "quu", "rast", "tiv", "vex", "wum", "yal", "zor")

    def pick(low: int, high: int) -> int:
        return low + int(chance.random() * (high - low))

    words = ("".join(syllables[pick(0, len(syllables))] for _ in range(pick(1, 4))) for _ in range(pick(8, 40)))
    return " ".join(words)
