"""Whole attempts at work in other processes, on this machine or on many.

`RemoteRunner` takes a runner's place where a run has an `executor=`: it sends program, metric and example to the
executor and waits for the report. On its worker each attempt is a session of its own (`session.run_attempt`), behind a
gate like any other, with the same seeds and deadlines: it comes to the same rollout as in a thread.

Only the driver decides, journals and writes. So caps and journal count whole attempts here: the caps are overshot by at
most the attempts in flight, and a run that was killed makes those that were in flight again. An attempt whose worker or
node was lost is made again elsewhere; what it had spent by then is not known. Where most attempts are lost the run
ends, as it does where most LM calls are.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dspy

from trgrpo_dspy.engine.calls.backends import Known
from trgrpo_dspy.engine.runner import Runner, total_cost
from trgrpo_dspy.errors import FatalError, RunStopped
from trgrpo_dspy.failures.classify import Failure, classify
from trgrpo_dspy.failures.messages import describe
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.failures.secrets import blank
from trgrpo_dspy.meter.meter import LMCall
from trgrpo_dspy.program.rollout import Rollout

from .packing import pack, unpack

if TYPE_CHECKING:
    from trgrpo_dspy.engine.calls.gate import Gate
    from trgrpo_dspy.engine.calls.units import Unit
    from trgrpo_dspy.program.scoring import Metric

    from .threads import Executor

__all__ = ["RemoteRunner", "Report", "opened"]

_TRIES = 3
"""Workers that may be lost over one attempt before it is given up."""
_LOOK = 0.25
"""Seconds between two looks at an attempt that is away."""
_SLACK = 10.0
"""Seconds a worker has, beyond an attempt's own, to say that it gave the attempt up."""
_KEPT = 4
"""Programs that are kept, packed or unpacked: with validation beside rollouts two are in use."""
_UNIT = ("stage", "step", "key", "resample", "temperature", "library")
"""The fields of an attempt's unit that a worker gets."""
_TEXTS = ("transcript", "observed", "answer", "feedback", "error")
"""The fields of a rollout in which this process's secrets may stand."""
_OF_THIS_PROCESS = frozenset(
    {
        "callbacks", "trace", "usage_tracker", "send_stream", "stream_listeners", "caller_predict", "caller_modules",
        "branch_idx",
    }
)  # fmt: skip
"""DSPy's settings that are about what goes on in this process, not about what a program does."""


@dataclass(frozen=True)
class Report:
    """What came of an attempt, as plain data."""

    rollout: Rollout | None = None
    """The attempt; None if it did not end."""
    calls: tuple[LMCall, ...] = ()
    """Its LM calls."""
    known: Known = field(default_factory=Known)
    """What its worker knows of the backends by now."""
    fatal: str = ""
    """Why no further attempt can succeed; empty if one may."""
    stopped: str = ""
    """Why its worker stopped it."""


class RemoteRunner(Runner):
    """Has attempts run on an executor's workers; a thread here waits for each."""

    def __init__(
        self,
        executor: Executor,
        work: Callable[[bytes, bytes], Report],
        gate: Gate,
        metric: Metric | None,
        *,
        timeout: float | None = None,
        patience: float = 0.0,
        **settings: Any,
    ) -> None:
        """Prepare to send attempts to an executor; `settings` are the runner's own.

        There `work` makes one attempt (shared parts and job in, report out) within `timeout` seconds, and waits an
        outage out for `patience` seconds.
        """
        super().__init__(gate, metric, **settings)
        self._executor, self._work, self._timeout = executor, work, timeout
        self._options = {"seed": gate.state.seed, "outage_patience": patience}
        self._parts = {"metric": metric, "runner": settings}
        self._packed: deque[tuple[dspy.Module, bytes]] = deque(maxlen=_KEPT)
        self._packing = threading.Lock()

    def _make(self, program: dspy.Module, example: dspy.Example, unit: Unit, bare: Rollout) -> Rollout:
        """Send the attempt away, wait for it, and take over what it spent and saw."""
        shared = self._shared(program)
        self._reserve(unit)
        try:
            before = self.gate.state.backends.known
            job = pack(
                example=example,
                unit={name: getattr(unit, name) for name in _UNIT},
                attempt={"index": bare.example, "attempt": bare.attempt, "timeout": self._timeout},
                options=self._options,
                known=before,
            )
            report = self._send(unit, replace(bare, outcome=Outcome.INFRASTRUCTURE), shared, job)
            self._account(unit, report, before)
        finally:
            self.gate.state.meter.give_back()
        if unit.account.abandoned.is_set():
            raise RunStopped("this attempt was abandoned")
        if report.fatal:
            self.gate.stop("fatal", FatalError(report.fatal))
        elif report.rollout is None:
            self.gate.stop(report.stopped or "interrupted")
        if report.rollout is None:
            raise RunStopped(self.gate.state.ending.reason)
        rollout = report.rollout
        texts: dict[str, Any] = {name: blank(getattr(rollout, name)) for name in _TEXTS}
        return replace(rollout, cost=total_cost(unit), **texts)

    def _shared(self, program: dspy.Module) -> bytes:
        """What all attempts of a program have in common. Programs need not be hashable, and equal ones may differ."""
        with self._packing:  # one of many attempts that begin at once
            found = next((data for known, data in self._packed if known is program), None)
            if found is None:
                self._packed.append((program, found := self._pack(program)))
            return found

    def _pack(self, program: dspy.Module) -> bytes:
        settings = {
            name: value
            for name, value in dspy.settings.config.items()
            if name not in _OF_THIS_PROCESS and not name.startswith("trgrpo_dspy")
        }
        return pack(program=program, settings=settings, **self._parts)

    def _reserve(self, unit: Unit) -> None:
        """Reserve a call in the budget; attempts in flight may give theirs back."""
        while True:
            self._end_if_stopped(unit)
            reserved, reached = self.gate.state.meter.reserve()
            if reserved:
                return
            if reached:
                self.gate.stop(reached)
            self.gate.state.waiting.sleep(_LOOK)
            unit.account.clock.held += _LOOK

    def _send(self, unit: Unit, lost: Rollout, *job: Any) -> Report:
        """Have the attempt run, again where a worker was lost; `lost` is what it comes to if all are."""
        unit.account.clock.held += _SLACK
        why = ""
        for tries in range(1, _TRIES + 1):
            self._end_if_stopped(unit)
            try:
                return self._result(self._executor.submit(self._work, *job), unit)
            except CancelledError:
                why = "the executor cancelled it"
            except Exception as error:
                self._end_if_stopped(unit)
                if isinstance(error, BrokenExecutor) or classify(error) is not Failure.INFRASTRUCTURE:
                    raise FatalError(_unusable(self._executor, error)) from None
                why = describe(error)
            if tries < _TRIES:
                self.gate.state.waiting.rest(unit, tries)
        # As a call that was lost: where most are, the cluster is gone, and the run ends with what it has.
        return Report(replace(lost, error=f"lost with {_TRIES} workers: {why}"), known=Known(recent=(False,)))

    def _result(self, future: Future[Report], unit: Unit) -> Report:
        """Wait; what has not begun is held back by others, and is taken back when nobody waits for it any more."""
        while not future.done() and not wait([future], _LOOK).done:
            if not future.running():
                unit.account.clock.held += _LOOK
            if unit.account.abandoned.is_set() or (self.gate.stopped and not future.running()):
                future.cancel()
        report = future.result()
        if not isinstance(report, Report):
            raise TypeError(f"submit(fn, *args) must give what fn(*args) returns, gave a {type(report).__name__}")
        return report

    def _account(self, unit: Unit, report: Report, before: Known) -> None:
        """Count and keep what was paid, and take over what the worker knows of the backends."""
        meter, journal = self.gate.state.meter, self.gate.state.journal
        for call in map(meter.priced, report.calls):
            unit.account.calls.append(call)
            if journal is not None:
                journal.record(unit.id, "", 0, None, call)
            meter.record(call, unit.stage, unit.step)
            self.gate.state.check_price(call)
        self.gate.state.learn(report.known, before)


def _unusable(executor: Any, error: Exception) -> str:
    if not isinstance(error, BrokenExecutor):
        return f"executor={type(executor).__name__} could not run an attempt: {describe(error)}"
    return (
        f"executor={type(executor).__name__} is broken ({describe(error)}): it takes no more work once one of its "
        "workers has died. Make a new one; with the same log_dir= the run goes on where it ended. RayExecutor goes on "
        "without a worker that died"
    )


_opened = functools.lru_cache(_KEPT)(unpack)
_opening = threading.Lock()


def opened(shared: bytes) -> dict[str, Any]:
    """On the worker: the shared parts, unpacked once for each program, also where the workers are threads."""
    with _opening:
        return _opened(shared)
