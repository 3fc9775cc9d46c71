"""Which library a run returns, what may be said of it in a plain sentence, and how the run's end is said.

The best on the valset is returned, and never one that scored below the input. A tie goes to the input, else to the
earlier library. 'Improved' is said only where the interval of the gain, simultaneous over all libraries that were
measured, lies above zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from trgrpo_dspy.engine.calls.backends import TOO_MANY_LOST
from trgrpo_dspy.meter.meter import Spend

from .result import Measurement, Verdict
from .statistics.best import Best, select_best
from .statistics.units import rows_text
from .warnings import FEW_EXAMPLES

__all__ = ["decide", "with_ending"]

MOSTLY_SCORED = 0.9
"""Share of the examples the input was scored on that a library must be scored on to be chosen: what is missing is not
missing by chance, and a library that makes the metric fail must not look good for it."""
MANY_CUT = 0.05
"""Share of replies cut by length in a stage from which the verdict says so."""


def decide(
    baseline: Measurement | None,
    measured: Sequence[Measurement],
    *,
    last_step: int,
    wanted: bool = True,
    unmeasured: bool = False,
    scored: bool = True,
    seed: int = 0,
) -> Verdict:
    """Say what was found, and choose the step whose library is returned; without any measurement the last step's.

    `wanted` says whether there is a valset, `unmeasured` that the run ended before its last library was measured, and
    `scored` whether any attempt of the run has a score, or none was asked for.
    """
    if baseline is None and wanted:
        return Verdict("Not measured: the run ended before the input was; the input is returned.", None, 0)
    if baseline is None:
        why = "there was no valset" if scored else "no attempt could be scored, and there was no valset"
        returned = "the last library" if last_step else "the input"
        return Verdict(f"Not measured: {why}, so {returned} is returned.", None, last_step)
    if baseline.mean.n == 0:
        return Verdict("Not measured: no validation example could be scored, so the input is returned.", None, 0)
    verdict = _of_measured(baseline, measured, last_step, unmeasured, seed)
    way = (
        " attach(program, compiled.detailed_results.steps[-1].library) carries what was learned last, unmeasured "
        "(in a shell: trgrpo apply)."
    )
    return replace(verdict, text=verdict.text + way) if unmeasured else verdict


def _of_measured(
    baseline: Measurement, measured: Sequence[Measurement], last_step: int, unmeasured: bool, seed: int
) -> Verdict:
    """The verdict where the input was measured."""
    if not measured:
        why = "no step changed the library" if last_step else "no step was completed"
        why = "the run ended before a new library was measured" if unmeasured else why
        return Verdict(f"No improvement found, the input is returned: {why}.", False, 0)
    enough = [m for m in measured if _scored_for_both(baseline, m) >= MOSTLY_SCORED * baseline.mean.n]
    if not enough:
        outcomes = sum((Counter(one.outcomes) for one in measured), Counter[str]())
        why = (
            f"none of {_libraries(len(measured))} could be scored on {100 * MOSTLY_SCORED:.0f}% of the validation "
            f"examples the input was scored on ({', '.join(f'{n} {name}' for name, n in sorted(outcomes.items()))})"
        )
        return Verdict(f"Not measured, the input is returned: {why}.", None, 0, tried=len(measured))
    best = select_best(baseline.scores, [m.scores for m in enough], seed=seed, units=baseline.inputs or None)
    step = 0 if best.best is None else enough[best.best].step
    text = _sentence(best, step, len(baseline.scores))
    return Verdict(text, best.improved, step, best.gain, best.interval, best.tried)


def _scored_for_both(a: Measurement, b: Measurement) -> int:
    return sum(x is not None and y is not None for x, y in zip(a.scores, b.scores, strict=True))


def _sentence(best: Best, step: int, size: int) -> str:
    """The sentence on libraries that could be compared with the input."""
    examples = rows_text(best.n, size, best.distinct, "validation examples")
    if best.interval is None:
        return (
            f"No improvement found, the input is returned: none of {_libraries(best.tried)} scored above it on "
            f"{examples}."
        )
    facts = f"{best.gain:+.3f} on {examples} ({best.interval:+.3f}, accounting for {_libraries(best.tried)} tried)"
    if (best.n if best.distinct is None else best.distinct) < FEW_EXAMPLES:
        facts += f", by an interval that is only a rough guide below {FEW_EXAMPLES} examples"
    if best.improved:
        return f"Improved: {facts}; the library of step {step} is returned."
    return f"Not distinguishable from noise: {facts}; step {step}, the best measured, is returned."


def _libraries(count: int) -> str:
    return "1 library" if count == 1 else f"{count} libraries"


def with_ending(
    verdict: Verdict, stop_reason: str, spend: Sequence[Spend], *, problem: str = "", journaled: bool = False
) -> Verdict:
    """Add to a verdict how the run ended, by what problem, how to go on, and what its replies suffered from."""
    notes = [] if stop_reason == "completed" else [_ENDINGS.get(stop_reason, f"The run ended early: {stop_reason}.")]
    if problem and stop_reason == "unscored":
        notes = [f"The run ended early: {problem}."]
    elif problem:
        notes[-1] = notes[-1].rstrip(".") + f" ({problem})."
    if journaled and stop_reason in _CAPS:
        more = "" if stop_reason == "max_seconds" else f" and a larger {stop_reason}"
        notes.append(f"To go on, run it again with the same log_dir{more}.")
    for stage in dict.fromkeys(row.stage for row in spend):
        calls = sum(row.calls for row in spend if row.stage == stage)
        cut = sum(row.truncated for row in spend if row.stage == stage)
        if cut > MANY_CUT * calls:
            notes.append(f"{cut} of {calls} replies in stage '{stage}' were cut by length: raise the LM's max_tokens.")
    return replace(verdict, text=" ".join([verdict.text, *notes]))


_CAPS = ("max_lm_calls", "max_tokens", "max_cost", "max_seconds")
_ENDINGS = {
    "interrupted": "The run was interrupted.",
    "unscored": "The run ended early: no attempt could be scored.",
    "fatal": "The run ended early: nothing further could succeed.",
    "error_rate": f"The run ended early because {TOO_MANY_LOST}.",
    **{cap: f"The run ended early: {cap} was reached." for cap in _CAPS},
}
