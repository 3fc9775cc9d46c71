"""What goes wrong at the offline server, and how long replies take.

A plan depends on the server's seed, the request and how often that request was seen before, never on the order of
different requests: runs repeat, and a retry may succeed.
"""

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist

__all__ = ["ERROR_KINDS", "FaultPlan", "Faults"]

ERROR_KINDS = ("429", "500", "503", "quota", "reset", "hang", "malformed")
"""Failures the server can inject: a rate limit, two server errors, an account without credit, a connection reset, no
reply at all, a reply whose JSON is broken."""
_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_LATENCY = re.compile(rf"none|fixed:{_NUMBER}|lognormal:{_NUMBER},{_NUMBER}(?:,{_NUMBER})?")


@dataclass(frozen=True)
class FaultPlan:
    """What will happen to one request."""

    fault: str | None
    """One of `ERROR_KINDS`, `garbage`, `truncated`, or None."""
    latency: float
    """Seconds until the reply."""
    share: float
    """How much of the reply is left if it is truncated."""


@dataclass(frozen=True)
class Faults:
    """Decides what goes wrong. A value: the same question has the same answer.

    Args:
        latency: `none`, `fixed:SECONDS` or `lognormal:MEDIAN,SIGMA[,CAP]`. The model's own time counts towards it.
        error_rate: Share of requests that fail in one of the ways of `errors`.
        garbage_rate: Share of replies that are well formed and can't be parsed.
        truncate_rate: Share of replies that are cut off.
        errors: Ways to fail, of `ERROR_KINDS`, each as likely as the others.
        hang_seconds: How long a request hangs before its connection is closed.
        retry_after: Seconds a rate limit asks the client to wait.
        seed: Seed of failures and latencies.
    """

    latency: str = "none"
    error_rate: float = 0.0
    garbage_rate: float = 0.0
    truncate_rate: float = 0.0
    errors: Sequence[str] = ("429", "500", "503", "reset")
    hang_seconds: float = 30.0
    retry_after: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        rates = (self.error_rate, self.garbage_rate, self.truncate_rate)
        if not all(0 <= rate <= 1 for rate in rates) or sum(rates) > 1 + 1e-9:
            raise ValueError("error_rate, garbage_rate, truncate_rate: each and their sum must be between 0 and 1")
        if not self.errors or not set(self.errors) <= set(ERROR_KINDS):
            raise ValueError(f"errors={self.errors!r}: choose from {', '.join(ERROR_KINDS)}")
        _delay(self.latency, 0.5)

    def plan(self, request: str, attempt: int) -> FaultPlan:
        """What happens to a request, named by its hash, the `attempt`-th time it is seen."""
        chance = random.Random(f"{self.seed}|{request}|{attempt}")
        wait, what, kind, share = (chance.random() for _ in range(4))
        names = (self.errors[int(kind * len(self.errors))], "garbage", "truncated", None)
        bounds = accumulate((self.error_rate, self.garbage_rate, self.truncate_rate))
        return FaultPlan(names[sum(what >= bound for bound in bounds)], _delay(self.latency, wait), 0.1 + 0.7 * share)


def _delay(latency: str, unit: float) -> float:
    """The seconds at a quantile between 0 and 1 of a distribution of latencies."""
    if not (found := _LATENCY.fullmatch(latency)):
        raise ValueError(f"latency={latency!r}: use none, fixed:SECONDS or lognormal:MEDIAN,SIGMA[,CAP], none negative")
    fixed, median, sigma = (float(number or 0) for number in found.groups()[:3])
    return min(
        fixed + median * math.exp(sigma * NormalDist().inv_cdf(min(max(unit, 1e-12), 1 - 1e-12))),
        float(found[4] or "inf"),
    )
