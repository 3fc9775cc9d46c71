"""One attempt: run the program on an example, capture what it did, score it, and say how it ended.

`Runner.attempt` always returns a `Rollout`; it raises nothing but the end of the run (`RunStopped`, `FatalError`,
`KeyboardInterrupt`). This is the one place with a broad `except`: around the user's program and metric. Everything else
that those raise, even `SystemExit`, is a failure of the attempt: an `exit()` in a tool must not end the user's process.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dspy
from dspy.utils.callback import BaseCallback

from trgrpo_dspy.errors import FatalError, RunStopped
from trgrpo_dspy.failures.classify import Failure, classify, is_interpreter_fault, outcome_of
from trgrpo_dspy.failures.messages import describe, fatal_message, no_lm_message
from trgrpo_dspy.failures.outcome import Outcome
from trgrpo_dspy.failures.redaction import redact
from trgrpo_dspy.failures.secrets import blank
from trgrpo_dspy.program.calling import call_program
from trgrpo_dspy.program.copies import Copier, own_value
from trgrpo_dspy.program.rollout import Rollout
from trgrpo_dspy.program.scoring import Metric, Score, adapt_metric, normalised
from trgrpo_dspy.program.transcript.recorder import Recorder
from trgrpo_dspy.program.transcript.rendering import clean, cut_middle, render_fields, text_of

from .outcomes import Outcomes
from .tools import ToolFailures, ToolWatch

if TYPE_CHECKING:
    from .calls.gate import Gate
    from .calls.units import Unit

__all__ = ["Runner", "total_cost"]

_TRIES = 3
"""Tries of an attempt whose tool met an outage, and of a metric that met one (LM calls have retries of their own)."""
_FEEDBACK_TOKENS = 500
"""Of a metric's feedback that is kept."""
_PROGRAMS = 4
"""Programs whose copiers are kept."""
_NOT_COMPARED = frozenset({"reasoning", "trajectory", "history", "termination_reason", "rationale", "next_thought"})
"""Output fields that say how an answer was found, not what it is."""


@dataclass
class _Try:
    """What came of the user's code once."""

    value: Any = None
    error: BaseException | None = None


class Runner:
    """Runs attempts for one run; thread-safe."""

    def __init__(
        self,
        gate: Gate,
        metric: Metric | None,
        *,
        failure_score: float = 0.0,
        compare_fields: Sequence[str] | None = None,
        transcript_tokens: int = 2000,
    ) -> None:
        """Prepare to run attempts whose LM calls go through the gate.

        Args:
            gate: The run's gate.
            metric: The user's metric; None is the label-free mode.
            failure_score: Score of an attempt in which the program itself failed.
            compare_fields: Output fields the label-free mode compares; None means all but reasoning and traces.
            transcript_tokens: Bound of a transcript, in tokens of 4 characters.
        """
        self.gate = gate
        self._outcomes, self._tools = Outcomes(gate.state), ToolFailures(gate.state)
        self._score = adapt_metric(metric) if metric is not None else None
        self._failure_score = failure_score
        self._compare_fields = tuple(compare_fields) if compare_fields is not None else None
        self._transcript_tokens = transcript_tokens
        self._copiers: deque[Copier] = deque(maxlen=_PROGRAMS)

    def attempt(self, program: dspy.Module, example: dspy.Example, unit: Unit, *, index: int, attempt: int) -> Rollout:
        """Run the program once (again where a tool's outage or Python's own fault was in the way) and score the answer.

        Args:
            program: A copy that is the run's own (its LMs are observed); it is copied for each try.
            example: The example; the program sees `example.inputs()`, the metric all of it.
            unit: The unit of work its LM calls belong to.
            index: Index of the example in its set.
            attempt: Index of the attempt within its group.
        """
        known = self._outcomes.known(unit)
        if known is not None:
            return known
        bare = Rollout(index, attempt, Outcome.COMPLETED, None)
        return self._outcomes.keep(unit, self._make(program, example, unit, bare))

    def abandon(self, unit: Unit, *, index: int, attempt: int, seconds: float | None) -> Rollout:
        """The result of an attempt that took too long: unscored. Its further calls are refused, its result is dropped.

        `seconds` is the time the attempt had; None where a single request never ended.
        """
        self.gate.abandon(unit)
        why = "a request never ended" if seconds is None else f"no answer within rollout_timeout={seconds:g} s"
        lost = Rollout(index, attempt, Outcome.INFRASTRUCTURE, None, error=why)
        return self._outcomes.keep(unit, replace(lost, lm_calls=len(unit.account.calls), seconds=seconds or 0.0))

    def end_if_fatal(self, error: BaseException | None) -> None:
        """Raise `FatalError` if this error is one after which no call can succeed."""
        if isinstance(error, FatalError):  # the user's own word that nothing can go on
            raise error from None
        if error is not None and classify(error) is Failure.FATAL:
            raise FatalError(fatal_message(error, str(getattr(error, "model", None) or "of the program"))) from None

    def _make(self, program: dspy.Module, example: dspy.Example, unit: Unit, bare: Rollout) -> Rollout:
        """Make the attempt, as often as an outage of a tool makes it worth another try."""
        started, account = time.monotonic(), unit.account
        copier = self._copier(program)
        for tries in range(1, _TRIES + 1):
            account.outage, account.try_again = None, False
            inputs = own_value(dict(example.inputs().items()))  # `dspy.ReActV2` appends to the history it is given
            recorder = Recorder(copier.names, inputs)
            # A copy for each try: what a module keeps in itself (BestOfN a count) is not shared between threads.
            result = self._run(copier.copy(), inputs, unit, recorder)
            if not account.try_again or tries == _TRIES:
                break
            self.gate.state.waiting.rest(unit, tries)
        rollout = replace(
            self._judge(example, unit, result, bare),
            transcript=blank(
                recorder.text(prediction=result.value, error=result.error, max_tokens=self._transcript_tokens)
            ),
            observed=blank(recorder.observed()),
            tool_calls=recorder.tool_calls,
            lm_calls=len(account.calls),
            prompt_tokens=sum(c.prompt_tokens for c in account.calls),
            completion_tokens=sum(c.completion_tokens for c in account.calls),
            cost=total_cost(unit),
            seconds=time.monotonic() - started,
        )
        self._end_if_stopped(unit)
        return rollout

    def _copier(self, program: dspy.Module) -> Copier:
        """The copier of a program, made at its first attempt; those of the last few programs are kept."""
        known = next((copier for copier in list(self._copiers) if copier.program is program), None)
        if known is None:
            self._copiers.append(known := Copier(program))
        return known

    def _run(self, program: dspy.Module, inputs: dict[str, Any], unit: Unit, recorder: Recorder) -> _Try:
        # Callbacks slow every call of a module, so a bare predictor, which calls no tool, gets none.
        watches = [] if type(program) is dspy.Predict else [ToolWatch(self.gate.state, unit, recorder, self._tools)]
        result = self._call(unit, lambda: call_program(program, inputs), *watches, trace=recorder)
        if result.error is not None and dspy.settings.lm is None and "No LM is loaded" in str(result.error):
            raise FatalError(no_lm_message()) from None
        if result.error is not None and classify(result.error) is Failure.INFRASTRUCTURE:
            unit.account.outage = unit.account.outage or result.error
            unit.account.try_again = unit.account.try_again or is_interpreter_fault(result.error)
        return result

    def _call(self, unit: Unit, work: Callable[[], Any], *watches: BaseCallback, trace: Recorder | None = None) -> _Try:
        """Call the user's program or metric: anything may come out of it."""
        with self.gate.context(unit, *watches, trace=trace):
            try:
                result = _Try(work())
            except (RunStopped, KeyboardInterrupt):
                raise
            except BaseException as error:
                result = _Try(error=error)
            finally:
                self.gate.state.waiting.for_requests(unit)
        self._end_if_stopped(unit)
        self.end_if_fatal(result.error)
        return result

    def _end_if_stopped(self, unit: Unit) -> None:
        """End the attempt with the run; what a program with a bare `except` returned in spite of that is dropped."""
        if self.gate.stopped or unit.account.abandoned.is_set():
            raise RunStopped(self.gate.state.ending.reason or "this attempt was abandoned")

    def _judge(self, example: dspy.Example, unit: Unit, result: _Try, bare: Rollout) -> Rollout:
        """Score an answer, or say why there is nothing to score."""
        account = unit.account
        if account.outage is not None:
            return replace(bare, outcome=Outcome.INFRASTRUCTURE, error=clean(describe(account.outage)))
        if result.error is not None:
            score = self._failure_score if self._score is not None else None
            error = clean(describe(result.error, fault=account.fault))
            return replace(bare, outcome=outcome_of(result.error), score=score, error=error)
        try:
            fields = _outputs(result.value)
        except Exception:  # an odd prediction whose fields can't be read still goes to the metric
            fields = {}
        # Reasoning fields are left out: the transcript has them.
        answer = {name: value for name, value in fields.items() if name not in _NOT_COMPARED} or fields
        rollout = replace(bare, answer=redact(render_fields(answer, 300)))
        if self._score is None:
            return replace(rollout, outcome=Outcome.LABEL_FREE, compared=self._compared(fields))
        verdict = self._measure(self._score, example, unit, result.value)
        if verdict.value is None:
            return replace(rollout, outcome=Outcome.METRIC_ERROR, error=clean(verdict.problem))
        feedback = cut_middle(clean(redact(verdict.feedback)), _FEEDBACK_TOKENS)
        return replace(rollout, score=verdict.value, feedback=feedback)

    def _measure(self, score: Callable[..., Score], example: dspy.Example, unit: Unit, prediction: Any) -> Score:
        """Call the metric, again where an outage was in the way; a metric that raises leaves the attempt unscored."""
        for tries in range(1, _TRIES + 1):
            judge = unit.as_judge()
            result = self._call(judge, lambda: score(example, prediction))
            error, outage = result.error, judge.account.outage is not None
            if error is None and not outage:
                return result.value
            outage = outage or (error is not None and classify(error) is Failure.INFRASTRUCTURE)
            if not outage or tries == _TRIES:
                break
            self.gate.state.waiting.rest(unit, tries)
        return Score(
            None, problem=f"the metric raised {describe(error)}" if error else "an outage met the metric's own LM call"
        )

    def _compared(self, fields: Mapping[str, Any]) -> str:
        names = self._compare_fields or [name for name in fields if name not in _NOT_COMPARED]
        if missing := [name for name in names if name not in fields]:
            raise FatalError(f"compare_fields names {missing!r}; the program's outputs are {list(fields)}")
        if fields and not names:
            raise FatalError(
                f"the program's outputs {list(fields)} are not compared by default, so nothing could be learned; "
                f"without a metric name what to compare, as in compare_fields={list(fields)[:1]!r}"
            )
        text = "\x1f".join(normalised(text_of(fields[name])) for name in names)
        return text if len(text) <= 1000 else hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _outputs(prediction: Any) -> dict[str, Any]:
    """A program's final outputs by name; what is no prediction counts as one output named 'output'."""
    if isinstance(prediction, (dspy.Example, Mapping)):
        return {str(name): value for name, value in prediction.items()}
    return {} if prediction is None else {"output": prediction}


def total_cost(unit: Unit) -> float | None:
    """What its calls cost in US dollars; None as soon as one price is unknown."""
    costs = [0.0 if c.cached or c.failed else c.cost for c in unit.account.calls]
    return None if None in costs else sum(cost for cost in costs if cost is not None)
