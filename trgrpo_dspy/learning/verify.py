"""Holding a draft of the library against labelled examples: the check as a sequence of reflection calls.

New and changed entries that decide examples wrongly, or that are too long, go back once for repair with their
counter-examples. What is then still wrong more often than right is refused with the figures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from trgrpo_dspy.library.applying import apply_edits
from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.entries import count_words
from trgrpo_dspy.library.library import ExperienceLibrary, LibraryLimits
from trgrpo_dspy.meter.meter import Stage

from .check import Findings, Verified, batches, count, problems_text
from .reading import checked_edits
from .steps import Ask, Steps, losses

if TYPE_CHECKING:
    from .cases import Case
    from .reflector import Reflector

__all__ = ["verify"]

_CALLS = 3
"""Calls of one check at most."""


def verify(
    reflector: Reflector,
    draft: ExperienceLibrary,
    changed: Sequence[str],
    cases: Sequence[Case],
    closed: frozenset[str],
    program: str,
    limits: LibraryLimits,
    step: int,
    objection: Callable[[Edit], str] = lambda edit: "",
) -> Steps[Verified]:
    """Check a draft, have what fails repaired once, and check again what was repaired.

    Args:
        reflector: Makes the calls.
        draft: The library with a step's edits applied.
        changed: Ids of its new and changed entries: only these are repaired or refused.
        cases: Labelled examples, in order of importance; empty checks lengths only.
        closed: The answers as a closed set (`check.closed_labels`): then the labels are not shown; empty otherwise.
        program: Description of the program.
        limits: Caps.
        step: Recorded with repairs.
        objection: Says why an edit must not count, whatever the check says; a repair with one is dropped.
    """
    cases = [case for case in cases if case.label] if closed else cases
    calls = batches(cases, reflector.context_tokens // 4, blind=bool(closed))[:_CALLS]
    shown = [case for group, _ in calls for case in group]

    look = functools.partial(_look, reflector, calls, closed, program)
    findings, lost = yield from look(draft, 0)
    over = _too_long(draft, changed, limits)
    failed = [id for id in changed if findings.contradicted.get(id) or findings.is_unclear(id) or id in over]
    if not failed:
        return Verified(draft, findings, lost=lost)
    text = problems_text(draft, failed, findings, shown, over)
    (reply,) = yield [Ask(Stage.REPAIR, (0,), functools.partial(reflector.repair, draft, text, program))]
    edits = [
        e
        for e in checked_edits(reply.value or (), ())
        if e.id in failed and e.operation in ("MODIFY", "DELETE") and not (e.text and objection(e))
    ]
    report = apply_edits(draft, edits, step=step, limits=replace(limits, max_words=10**6, max_tokens=10**9))
    lost = (*lost, *losses([reply]))
    unchecked: list[tuple[str, str]] = []
    if report.applied and calls:
        again, more = yield from look(report.library, 1)
        lost = (*lost, *more)
        repaired = {edit.id for edit in report.applied}
        if more:  # what the second look did not see is as the first one left it
            unchecked = [
                (id, "its repair could not be checked")
                for id in changed
                if id in repaired and findings.is_wrong(id) and not again.has_seen(id) and report.library.get(id)
            ]
            again = findings.updated(again, repaired)
        findings = again
    refused = [(id, _reason(findings, id)) for id in changed if report.library.get(id) and findings.is_wrong(id)]
    return Verified(report.library, findings, report.applied, (*refused, *unchecked), lost)


def _look(
    reflector: Reflector,
    calls: Sequence[tuple[Sequence[Case], str]],
    closed: frozenset[str],
    program: str,
    library: ExperienceLibrary,
    round_: int,
) -> Steps[tuple[Findings, tuple[str, ...]]]:
    """Have a library applied to the examples; what that found, and replies that could not be used."""
    replies = yield [
        Ask(Stage.CHECK, (round_, i), functools.partial(reflector.check, library, text, program, blind=bool(closed)))
        for i, (_, text) in enumerate(calls)
    ]
    read = [(cases, reply.value) for (cases, _), reply in zip(calls, replies, strict=True) if reply.value is not None]
    seen = [case for cases, _ in read for case in cases]
    return count([d for _, ds in read for d in ds], seen, library, closed), losses(replies)


def _too_long(library: ExperienceLibrary, ids: Sequence[str], limits: LibraryLimits) -> dict[str, str]:
    """What is said of entries above the cap on words."""
    words = {id: count_words(entry.text) for id in ids if (entry := library.get(id)) is not None}
    return {id: f"has {n} words; write at most {limits.soft_words}" for id, n in words.items() if n > limits.max_words}


def _reason(findings: Findings, id: str) -> str:
    against, support = len(findings.contradicted.get(id, ())), len(findings.supported.get(id, ()))
    return f"decides {against} of {against + support} labelled examples wrongly"
