"""One run of programs, put together: meter, gate, journal, runner, driver, Ctrl-C and events.

Learning, evaluation and a worker that makes one attempt for another process all open a `Session`. Guarantees:

- What a session claims (the journal's directory, Ctrl-C, threads, connections) is given back when it is left, whatever
  happened.
- A journal of another run is refused before anything is paid for. What this run's journal holds is replayed, and counts
  against the budget.
- The first Ctrl-C stops the session: no new call goes out, and the caller can keep what was found. The second raises.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import dspy

from trgrpo_dspy.errors import FatalError, RunStopped
from trgrpo_dspy.events import Event, Listener
from trgrpo_dspy.failures.messages import describe
from trgrpo_dspy.meter.meter import Meter
from trgrpo_dspy.program.copies import own_copy

from .attempts import attempt_task
from .calls.gate import Gate
from .calls.units import Unit
from .executors.packing import unpack
from .executors.remote import RemoteRunner, Report, opened
from .flows import Batch, Execution, Flow, single
from .interrupts import graceful_interrupt
from .journal.eventlog import EventLog
from .journal.journal import Journal
from .journal.logdir import LogDir
from .listeners import Emitter, Progress, log_notice
from .options import RunOptions
from .runner import Runner

if TYPE_CHECKING:
    from trgrpo_dspy.program.scoring import Metric

    from .calls.backends import Known

__all__ = ["Session", "run_attempt"]

T = TypeVar("T")


class Session:
    """Everything one run works with; use it as a context manager. Nothing is claimed before it is entered."""

    def __init__(
        self,
        options: RunOptions,
        *,
        metric: Metric | None,
        kind: str,
        compare_fields: Sequence[str] | None = None,
        fingerprint: Callable[[], Mapping[str, Any]] | None = None,
        listeners: Sequence[Listener] = (),
        known: Known | None = None,
        transcript_tokens: int = 2000,
    ) -> None:
        """Put a session together.

        Args:
            options: The run's options.
            metric: The user's metric; None is the label-free mode.
            kind: 'compile', 'evaluate', 'compare', 'estimate' or 'attempt'.
            compare_fields: Output fields that the label-free mode compares.
            fingerprint: Returns the fingerprint of this run, which must equal the one in the journal; called if there
                is a `log_dir`. None is for inner sessions (an estimate, a worker's attempt): no journal, no progress
                bar, and Ctrl-C interrupts at once.
            listeners: The caller's own listeners; they hear of each event before the user's.
            known: Which backends have answered, as another process found.
            transcript_tokens: Bound of an attempt's transcript.
        """
        self.kind, self.options = kind, options
        self._fingerprint, self._listeners = fingerprint, (*listeners, *options.listeners)
        self.gate = Gate(
            Meter(options.budget),
            requests_per_minute=options.requests_per_minute,
            seed=options.seed,
            width=options.threads,
            outage_patience=options.outage_patience,
            known=known,
        )
        """Every LM call goes through it."""
        settings: dict[str, Any] = {
            "failure_score": options.failure_score,
            "compare_fields": compare_fields,
            "transcript_tokens": transcript_tokens,
        }
        self.runner = (
            Runner(self.gate, metric, **settings)
            if options.executor is None
            else RemoteRunner(
                options.executor, run_attempt, self.gate, metric,
                timeout=options.rollout_timeout, patience=options.outage_patience, **settings,
            )
        )  # fmt: skip
        """Makes attempts, in this process or on the executor's workers."""
        self.journal: Journal | None = None
        """Where replies and attempts are kept; None without a `log_dir`."""
        self.files: LogDir | None = None
        """The plain files beside the journal; None without a `log_dir`."""
        self.calls_before = 0
        """LM calls that earlier processes made for this run."""
        self.emit: Callable[[Event], None] = Emitter()
        """Tells all listeners of an event; to be called in the thread that drives the session."""
        self._driver = Execution(self.gate, options.threads, emit=lambda event: self.emit(event))
        self._exit = ExitStack()

    def __enter__(self) -> Session:
        """Claim the journal, start listening, take over Ctrl-C."""
        with ExitStack() as stack:
            own: list[Listener] = [log_notice]
            if self._fingerprint is not None:
                own.insert(0, Progress(self.gate.state.meter))
                if self.options.log_dir is not None:
                    journal = stack.enter_context(Journal(self.options.log_dir))
                    journal.check_fingerprint(self._fingerprint())
                    self.calls_before = self.gate.state.resume(journal)
                    self.journal, self.files = journal, LogDir(journal.directory)
                    self.files.config(self.options.as_record())
                    own.append(EventLog(journal.directory / "events.jsonl"))
            stack.callback(self.gate.close)
            self.emit = emitter = Emitter([*own, *self._listeners])
            stack.callback(emitter.close)
            stack.enter_context(self._driver)
            if self._fingerprint is not None:
                stack.enter_context(graceful_interrupt(lambda: self.gate.stop("interrupted")))
            self._exit = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        """Give back what was claimed."""
        self._exit.close()

    # -- work ------------------------------------------------------------------------------------------------------

    def run(self, flows: Sequence[Flow[T]]) -> list[T]:
        """Drive flows to their ends; their results in input order. Raises as `finish`."""
        return self.finish(self.begin(flows))

    def begin(self, flows: Sequence[Flow[T]]) -> Batch[T]:
        """Take flows in; they advance only while some `run` or `finish` is being called."""
        return self._driver.begin(flows)

    def finish(self, batch: Batch[T]) -> list[T]:
        """Drive all flows until those of this batch have ended; their results in input order.

        Raises:
            FatalError: No further call can succeed; the message names the model and what to do.
            RunStopped: The session was stopped; `stop_reason` says why.
        """
        return self._driver.finish(batch)

    def copy(self, program: dspy.Module) -> dspy.Module:
        """A copy of a program whose LM calls go through the gate."""
        return own_copy(program, self.gate.observe)

    # -- state -----------------------------------------------------------------------------------------------------

    @property
    def meter(self) -> Meter:
        """What was spent, and what may be."""
        return self.gate.state.meter

    @property
    def stopped(self) -> bool:
        """Whether no further call may go out."""
        return self.gate.stopped

    @property
    def stop_reason(self) -> str:
        """Why the session was stopped; empty while it goes on."""
        return self.gate.state.ending.reason

    @property
    def problem(self) -> str:
        """What the user has to mend, where the session was stopped for that; else empty."""
        return self.gate.state.ending.problem


def run_attempt(shared: bytes, job: bytes) -> Report:
    """Make one attempt in this process, for a `RemoteRunner` in another: a session of a single attempt.

    Args:
        shared: Program, metric and settings, packed; a program that was opened here before is used again.
        job: Example and unit, packed.
    """
    try:
        parts, own = opened(shared), unpack(job)
    except FatalError as error:
        return Report(fatal=str(error))
    except Exception as error:  # what the program's and the example's modules raise when they are imported
        return Report(
            fatal=f"worker {socket.gethostname()} can't load the program: {describe(error)}. Install what it needs on "
            "every node, this package and DSPy in the driver's versions too"
        )
    settings = dict(parts["runner"])
    options = RunOptions(num_threads=1, failure_score=settings.pop("failure_score"), **own["options"])
    session = Session(options, metric=parts["metric"], kind="attempt", known=own["known"], **settings)
    unit, rollout, fatal = Unit(**own["unit"]), None, ""
    with dspy.context(**parts["settings"]), session:
        task = attempt_task(session.runner, session.copy(parts["program"]), own["example"], unit, **own["attempt"])
        try:
            (rollout,) = session.run([single(task)])
        except FatalError as error:
            fatal = str(error)
        except (RunStopped, KeyboardInterrupt):
            session.gate.stop("interrupted")
    return Report(rollout, tuple(unit.account.calls), session.gate.state.backends.known, fatal, session.stop_reason)
