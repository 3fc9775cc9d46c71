"""Learning from attempts: a `dspy.Module` of four steps, and the one boundary where replies become lessons and edits.

`Reflector.forward(attempts, experiences)` summarizes each attempt of a group, compares the attempts (the *semantic
advantage*) and proposes edits; `consolidate` merges the proposals of many groups. Each step is a `dspy.Predict`, so a
DSPy optimizer can compile the reflector itself, and `save`/`load` work.

The optimizer calls the steps (`summarize`, `compare`, `propose`) one by one, so that the groups of a batch flow through
them side by side. Override any step, or replace its signature. A subclass that overrides `forward` itself is called
through it, one group at a time on one worker.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy

from trgrpo_dspy.learning.group import RolloutGroup
from trgrpo_dspy.library import Edit, Experience, ExperienceLibrary, LibraryLimits
from trgrpo_dspy.library.entries import clean_entry
from trgrpo_dspy.program.rollout import Rollout
from trgrpo_dspy.program.transcript.rendering import clean, cut_middle, field_lines

from .prompts import CompareAnswers, CompareAttempts, ConsolidateEdits, ProposeEdits, SummarizeAttempt

__all__ = ["Comparison", "Lesson", "Reflector"]

_SUMMARY_TOKENS = 400
_COMPARISON_TOKENS = 300
_NO_LESSON = re.compile(r"\W*(?:none|null|n/?a|no (?:new )?lessons?)?\W*", re.IGNORECASE)
"""How models write that there is none."""


@dataclass(frozen=True)
class Lesson:
    """One lesson drawn from a group."""

    text: str
    """One clean line."""
    targets: tuple[str, ...] = ()
    """Predictors it is for, as the comparison named them; empty means all."""


@dataclass(frozen=True)
class Comparison:
    """The semantic advantage of a group: why some attempts beat the others, and what follows."""

    text: str
    """The reasons, bounded."""
    lessons: tuple[Lesson, ...] = ()
    """At most `max_lessons`."""


class Reflector(dspy.Module):
    """The four reflection steps, for programs with labels and a metric or, with `label_free=True`, without."""

    def __init__(self, *, label_free: bool = False, max_lessons: int = 2, limits: LibraryLimits | None = None) -> None:
        """Set up the steps.

        Args:
            label_free: Compare answers instead of scores; no label, score or feedback enters any prompt.
            max_lessons: Lessons at most from one group (`experiences_per_group` of the optimizer).
            limits: Caps of the library, told to the consolidation.
        """
        super().__init__()
        self.label_free = label_free
        self.max_lessons = max_lessons
        self.limits = limits or LibraryLimits()
        self.summarize_attempt = dspy.Predict(SummarizeAttempt)
        self.compare_attempts = dspy.Predict(CompareAnswers if label_free else CompareAttempts)
        self.propose_edits = dspy.Predict(ProposeEdits)
        self.consolidate_edits = dspy.Predict(ConsolidateEdits)

    def forward(self, attempts: RolloutGroup, experiences: ExperienceLibrary, predictors: str = "") -> dspy.Prediction:
        """Learn from one group.

        Args:
            attempts: The group.
            experiences: The library the attempts were made with.
            predictors: The program's predictors, a line each; empty if there is only one.

        Returns:
            A prediction with `summaries` (a text per usable attempt), `comparison` (`Comparison`), `lessons` (tuple of
            `Lesson`) and `edits` (tuple of `Edit`).
        """
        summaries = [self.summarize(attempts, rollout) for rollout in attempts.usable]
        comparison = self.compare(attempts, summaries, experiences, predictors)
        edits = self.propose(comparison.lessons, experiences, predictors, source=attempts.example)
        return dspy.Prediction(summaries=summaries, comparison=comparison, lessons=comparison.lessons, edits=edits)

    def summarize(self, group: RolloutGroup, rollout: Rollout) -> str:
        """Tell one attempt step by step; bounded."""
        judged: dict[str, str] = {}
        if not self.label_free:
            judged = {"expected": group.expected, "score": _number(rollout.score), "feedback": rollout.feedback}
        reply = _ask(self.summarize_attempt, task=group.task, attempt=rollout.transcript, **judged)
        return cut_middle(clean(_text(reply.summary)), _SUMMARY_TOKENS)

    @staticmethod
    def reads_whole(rollout: Rollout) -> bool:
        """Whether the comparison can read an attempt's whole transcript, so that it need not be summarized first."""
        return cut_middle(rollout.transcript, _SUMMARY_TOKENS) == rollout.transcript

    def compare(
        self, group: RolloutGroup, summaries: Sequence[str | None], experiences: ExperienceLibrary, predictors: str = ""
    ) -> Comparison:
        """Say why some attempts beat the others, against the library they were made with.

        Args:
            group: The group.
            summaries: One for each of `group.usable`, in order; None for an attempt without one, which is then told
                by its transcript, cut short.
            experiences: The library the attempts were made with.
            predictors: The program's predictors, a line each; empty if there is only one.
        """
        told = zip(group.usable, summaries, strict=True)
        reply = _ask(
            self.compare_attempts,
            max_lessons=str(self.max_lessons),
            predictors=predictors,
            experiences=library_text(experiences),
            task=group.task,
            expected="" if self.label_free else group.expected,
            attempts="\n\n".join(self._attempt_text(i, rollout, s) for i, (rollout, s) in enumerate(told, 1)),
        )
        lessons = [Lesson(clean_entry(item.text), _names(item.predictors)) for item in _items(reply.lessons)]
        kept = tuple(lesson for lesson in lessons if not _NO_LESSON.fullmatch(lesson.text))[: self.max_lessons]
        return Comparison(cut_middle(_text(reply.comparison), _COMPARISON_TOKENS), kept)

    def _attempt_text(self, number: int, rollout: Rollout, summary: str | None) -> str:
        score = "" if self.label_free else f"score {_number(rollout.score)}, "
        parts = {
            "Answer": rollout.answer,
            "Feedback": "" if self.label_free else cut_middle(rollout.feedback, 200),
            "Failure": rollout.error,
            "Summary": summary or "",
            "Transcript": "" if summary else cut_middle(rollout.transcript, _SUMMARY_TOKENS),
        }
        # Indented where they have several lines: no text of an attempt can pass for another attempt.
        told = [field_lines(name, text) for name, text in parts.items() if text]
        return "\n".join([f"Attempt {number} ({score}{rollout.outcome.value})", *told])

    def propose(
        self, lessons: Sequence[Lesson], experiences: ExperienceLibrary, predictors: str = "", *, source: int
    ) -> tuple[Edit, ...]:
        """Turn a group's lessons into edits of the library as it stood at the start of the step.

        Args:
            lessons: The group's lessons; none, no call.
            experiences: The library.
            predictors: The program's predictors, a line each; empty if there is only one.
            source: Index of the group's example: where the edits come from.
        """
        if not lessons:
            return ()
        numbered = "\n".join(f"{i}. {lesson.text}{_for(lesson.targets)}" for i, lesson in enumerate(lessons, 1))
        reply = _ask(self.propose_edits, predictors=predictors, experiences=library_text(experiences), lessons=numbered)
        return tuple(_edit(item, [source]) for item in _items(reply.edits))

    def consolidate(
        self, proposals: Sequence[Edit], experiences: ExperienceLibrary, predictors: str = ""
    ) -> tuple[Edit, ...]:
        """Merge the proposals of all groups of a step into one plan.

        Args:
            proposals: ADD, MODIFY and DELETE edits in input order.
            experiences: The library they were proposed against.
            predictors: The program's predictors, a line each; empty if there is only one.
        """
        lines = [f"P{i}. {_proposal_text(edit)}" for i, edit in enumerate(proposals, 1)]
        reply = _ask(
            self.consolidate_edits,
            max_experiences=str(self.limits.max_entries),
            predictors=predictors,
            experiences=library_text(experiences),
            proposals="\n".join(lines),
        )
        return tuple(_edit(item, _origins(item, proposals)) for item in _items(reply.edits))


def library_text(library: ExperienceLibrary) -> str:
    """The library as the reflection prompts show it: ids, targets where there are any, texts."""
    return "\n".join(f"[{_id_and_targets(e)}] {e.text}" for e in library)


def _id_and_targets(entry: Experience) -> str:
    return f"{entry.id} | {', '.join(entry.targets)}" if entry.targets else entry.id


def _ask(predictor: dspy.Predict, **inputs: str) -> Any:
    """Call a step with the inputs that are there: an absent input is an absent field."""
    absent = tuple(name for name in predictor.signature.input_fields if not inputs.get(name))
    signature = _without(predictor.signature, absent, predictor.signature.instructions)
    return predictor(signature=signature, **{name: value for name, value in inputs.items() if value})


@functools.lru_cache(maxsize=64)
def _without(signature: Any, absent: tuple[str, ...], instructions: str) -> Any:
    """The signature without some fields, made once: it is a class, and classes are slow to make.

    The instructions are there to be told apart: they can be changed in place.
    """
    for name in absent:
        signature = signature.delete(name)
    return signature


def _items(reply: Any) -> Sequence[Any]:
    return getattr(reply, "root", None) or ()


def _text(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""


def _edit(item: Any, sources: Sequence[int]) -> Edit:
    return Edit.parse(item.operation, item.id, item.text, _names(item.predictors), sources)


def _names(text: str) -> tuple[str, ...]:
    names = [part.strip().strip("`'\"()") for part in re.split(r"[,;\n]", text)]
    return tuple(name for name in names if name and name.casefold() not in ("all", "none", "any", "empty"))


def _for(targets: Sequence[str]) -> str:
    return f" (for: {', '.join(targets)})" if targets else ""


def _number(score: float | None) -> str:
    return "" if score is None else f"{score:.10g}"


def _proposal_text(edit: Edit) -> str:
    head = edit.operation if edit.operation == "ADD" else f"{edit.operation} {edit.id}"
    return f"{head}: {edit.text}{_for(edit.targets)}" if edit.text else head


def _origins(item: Any, proposals: Sequence[Edit]) -> list[int]:
    """The examples behind a planned edit: those of the proposals it names, else of those most like it."""
    numbers = {int(n) for n in re.findall(r"(?<!\d)\d{1,6}(?!\d)", item.proposals)}
    named = [p for i, p in enumerate(proposals, 1) if i in numbers]
    if not named:
        words = set(item.text.casefold().split())
        shared = [len(words & set(p.text.casefold().split())) for p in proposals]
        best = max(shared, default=0)
        named = [p for p, n in zip(proposals, shared, strict=True) if n == best and best > 0]
    return sorted({source for p in named for source in p.sources})


def with_sources(edit: Edit, sources: Sequence[int]) -> Edit:
    """The edit with these sources if it has none of its own."""
    return edit if edit.sources else replace(edit, sources=tuple(sorted(set(sources))))
