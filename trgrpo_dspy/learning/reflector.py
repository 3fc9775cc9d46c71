"""Learning from attempts: a `dspy.Module` of reflection steps, and the one boundary where replies become edits.

Each step is a method that makes one call of a `dspy.Predict`, so a DSPy optimizer can compile the reflector itself,
`save`/`load` work, and a subclass can override any step or replace any signature. `reflect` and `consolidate` are the
sequences of these steps (`learning/steps.py`); `forward` runs `reflect` in place.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import dspy

from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.entries import clean_entry, count_tokens
from trgrpo_dspy.library.library import ExperienceLibrary, LibraryLimits
from trgrpo_dspy.meter.meter import Stage
from trgrpo_dspy.program.rollout import Rollout
from trgrpo_dspy.program.transcript.rendering import clean, cut_middle

from .asking import ask, predictors_of
from .reading import (
    checked_edits,
    decisions_of,
    edit_of,
    examples_of,
    items_of,
    names_of,
    origins_of,
    text_of,
)
from .reflection import Comparison, Context, Decision, Lesson, Plan, Reflection
from .rendering import attempt_text, contrast_texts, group_text, library_text, number_text, proposals_text
from .steps import Ask, Reply, Steps, in_place, losses

if TYPE_CHECKING:
    from .evidence import Evidence
    from .group import RolloutGroup

__all__ = ["Reflector"]

_NO_LESSON = re.compile(r"\W*(?:none|null|n/?a|no (?:new )?lessons?)?\W*", re.IGNORECASE)
"""How models write that there is none."""


class Reflector(dspy.Module):
    """The reflection steps, for programs with labels and a metric or, with `label_free=True`, without."""

    def __init__(
        self,
        *,
        form: Literal["batch", "paper"] = "batch",
        label_free: bool = False,
        max_lessons: int = 2,
        groups_per_comparison: int = 8,
        context_tokens: int = 32_000,
        summarize: Literal["auto", "always"] = "auto",
        limits: LibraryLimits | None = None,
    ) -> None:
        """Set up the steps.

        Args:
            form: "batch" compares several groups side by side in one call, consolidates with an evidence table and
                checks entries against labelled examples; "paper" summarizes, compares and proposes one group at a time
                and merges once (arXiv 2510.08191).
            label_free: Compare answers instead of scores; no label, score or feedback enters any prompt.
            max_lessons: Lessons at most from one group (`experiences_per_group` of the optimizer).
            groups_per_comparison: Groups at most in one comparison of the batch form.
            context_tokens: Tokens of the reflection model's context that a prompt may fill. All bounds on what the
                reflection reads follow: half for groups or evidence, a sixteenth for one attempt read whole.
            summarize: "auto" summarizes only attempts too long to be read whole; "always" all, as the paper does.
            limits: Caps of the library; consolidation is shown the number of entries.
        """
        super().__init__()
        if form not in ("batch", "paper"):
            raise ValueError(f"form={form!r} must be 'batch' or 'paper'")
        if summarize not in ("auto", "always"):
            raise ValueError(f"summarize={summarize!r} must be 'auto' or 'always'")
        least = {"max_lessons": (max_lessons, 1), "groups_per_comparison": (groups_per_comparison, 1)}
        for name, (value, low) in {**least, "context_tokens": (context_tokens, 256)}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name}={value!r} must be a whole number, at least {low}")
        self.form, self.label_free, self.summarize_when = form, label_free, summarize
        self.max_lessons, self.context_tokens = max_lessons, context_tokens
        self.groups_per_comparison = 1 if form == "paper" else groups_per_comparison
        self.limits = limits or LibraryLimits()
        self.steps = predictors_of(form, label_free)

    @property
    def attempt_tokens(self) -> int:
        """Tokens up to which an attempt is read whole, and at which it is cut where it is not summarized."""
        return self.context_tokens // 16

    # -- sequences ---------------------------------------------------------------------------------------------------

    def forward(self, groups: Sequence[RolloutGroup], context: Context | None = None) -> dspy.Prediction:
        """Learn from groups, here and one call after the other.

        Returns:
            A prediction with `reflections` (a `Reflection` for each comparison) and `edits` (all their proposals).
        """
        found = in_place(self.reflect(groups, context or Context()))
        return dspy.Prediction(reflections=found, edits=tuple(edit for r in found for edit in r.edits))

    def reflect(self, groups: Sequence[RolloutGroup], context: Context) -> Steps[tuple[Reflection, ...]]:
        """Summarize long attempts, compare groups (those that fit one prompt together), and propose edits."""
        found = []
        long = {(g.example, _content(r)): (g, r) for g in groups for r in g.usable if not self._reads_whole(r)}
        replies = yield [
            Ask(Stage.SUMMARY, (g.example, r.attempt), functools.partial(self.summarize, g, r, context))
            for g, r in long.values()
        ]
        texts = {key: reply.value or "" for key, reply in zip(long, replies, strict=True)}
        lost = losses(replies)
        summaries = {g.example: tuple(texts.get((g.example, _content(r)), "") for r in g.usable) for g in groups}
        packs = self._packs(groups, summaries)
        compared = yield [
            Ask(Stage.COMPARISON, (p[0].example,), functools.partial(self.compare, p, summaries, context))
            for p in packs
        ]
        for pack, reply in zip(packs, compared, strict=True):
            comparison = reply.value or Comparison("")
            if not isinstance(comparison, Comparison):
                raise TypeError(f"Reflector.compare must return a Comparison, got {type(comparison).__name__}")
            examples = tuple(g.example for g in pack)
            edits, more = comparison.edits, losses([reply])
            if comparison.lessons:
                propose = functools.partial(self.propose, comparison.lessons, context, source=pack[0].example)
                (proposed,) = yield [Ask(Stage.PROPOSALS, (pack[0].example,), propose)]
                edits, more = proposed.value or (), (*more, *losses([proposed]))
            own = {example: summaries[example] for example in examples}
            found.append(Reflection(examples, own, comparison.text, checked_edits(edits, examples), (*lost, *more)))
            lost = ()
        return tuple(found)

    def consolidate(self, proposals: Sequence[Edit], evidence: Evidence, context: Context) -> Steps[Plan]:
        """Merge the proposals of a step into one plan, in a tree where the batch is too large for one prompt."""
        # Small models fill lists with empty records, which are not worth a call.
        proposals = [edit for edit in proposals if edit.text or edit.operation == "DELETE"]
        if self.form == "paper" and len(proposals) < 2:
            return Plan(tuple(proposals))
        if not proposals and not evidence.wrong:
            return Plan(())
        nodes = evidence.nodes(proposals, self.context_tokens // 2) if self.form == "batch" else []
        lost: tuple[str, ...] = ()
        if len(nodes) > 1:
            replies = yield [
                Ask(Stage.CONSOLIDATION, (i,), functools.partial(self.merge, node.proposals, node, context))
                for i, node in enumerate(nodes, 1)
            ]
            plans = [_usable(reply, node.proposals) for node, reply in zip(nodes, replies, strict=True)]
            proposals = [edit for plan in plans for edit in plan.edits]
            lost = tuple(reason for plan in plans for reason in plan.lost)
        fitting = evidence.within(self.context_tokens // 2)
        (reply,) = yield [Ask(Stage.CONSOLIDATION, (0,), functools.partial(self.merge, proposals, fitting, context))]
        plan = _usable(reply, proposals)
        return replace(plan, lost=(*lost, *plan.lost), proposals=tuple(proposals))

    # -- single steps ------------------------------------------------------------------------------------------------

    def summarize(self, group: RolloutGroup, rollout: Rollout, context: Context) -> str:
        """Describe one attempt step by step; bounded."""
        judged: dict[str, str] = {}
        if self.form == "paper" and not self.label_free:
            judged = {
                "expected": group.expected,
                "score": number_text(rollout.score),
                "feedback": rollout.feedback,
            }
        reply = ask(
            self.steps["summarize"], program=context.program, task=group.task, attempt=rollout.transcript, **judged
        )
        return cut_middle(clean(text_of(reply.summary)), self.attempt_tokens)

    def compare(
        self, groups: Sequence[RolloutGroup], summaries: Mapping[int, Sequence[str]], context: Context
    ) -> Comparison:
        """Say what made some attempts better, or what all of them missed, and what follows.

        Args:
            groups: Groups to hold against each other; one in the paper's form.
            summaries: For each group's example a text for each of its usable attempts; empty where the attempt is read
                whole.
            context: Program and library.
        """
        shared = {"program": context.program, "experiences": library_text(context.library)}
        if self.form == "paper":
            return self._compare_one(groups[0], summaries[groups[0].example], shared)
        texts = [group_text(g, summaries[g.example], self.attempt_tokens) for g in groups]
        room = min(self.context_tokens // 8, self.context_tokens // 2 - sum(map(count_tokens, texts)))
        reply = ask(
            self.steps["compare"],
            **shared,
            max_edits=str(self.max_lessons * len(groups)),
            groups="\n\n".join([*texts, *contrast_texts(context.right, groups, self.groups_per_comparison, room)]),
        )
        shown = [*groups, *context.right]
        edits = [edit_of(item, examples_of(item.sources, shown)) for item in items_of(reply.edits)]
        return Comparison(cut_middle(text_of(reply.comparison), 2000), tuple(edits[: self.max_lessons * len(groups)]))

    def _compare_one(self, group: RolloutGroup, summaries: Sequence[str], shared: Mapping[str, str]) -> Comparison:
        attempts = [
            f"Attempt {i} {attempt_text(rollout, summary, self.label_free, self.attempt_tokens)}"
            for i, (rollout, summary) in enumerate(zip(group.usable, summaries, strict=True), 1)
        ]
        reply = ask(
            self.steps["compare"],
            **shared,
            max_lessons=str(self.max_lessons),
            task=group.task,
            expected="" if self.label_free else group.expected,
            attempts="\n\n".join(attempts),
        )
        lessons = [Lesson(clean_entry(item.text), names_of(item.predictors)) for item in items_of(reply.lessons)]
        kept = tuple(lesson for lesson in lessons if not _NO_LESSON.fullmatch(lesson.text))[: self.max_lessons]
        return Comparison(cut_middle(text_of(reply.comparison), 2000), lessons=kept)

    def propose(self, lessons: Sequence[Lesson], context: Context, *, source: int) -> tuple[Edit, ...]:
        """Turn a group's lessons into edits of the library as it stood at the start of the step (the paper's form)."""
        targets = [f" (for: {', '.join(lesson.targets)})" if lesson.targets else "" for lesson in lessons]
        numbered = [f"{i}. {lesson.text}{t}" for i, (lesson, t) in enumerate(zip(lessons, targets, strict=True), 1)]
        reply = ask(
            self.steps["propose"],
            program=context.program,
            experiences=library_text(context.library),
            lessons="\n".join(numbered),
        )
        return tuple(edit_of(item, [source]) for item in items_of(reply.edits))

    def merge(self, proposals: Sequence[Edit], evidence: Evidence, context: Context) -> Plan:
        """Turn proposals into one plan, with the evidence side by side in the batch form."""
        reply = ask(
            self.steps["consolidate"],
            program=context.program,
            max_experiences=str(self.limits.max_entries),
            experiences=library_text(context.library),
            refused=evidence.refused,
            history=evidence.history,
            evidence=evidence.text,
            proposals=proposals_text(proposals) or "(none)",
        )
        known = [row.example for row in evidence.rows]
        edits = tuple(edit_of(item, origins_of(item, proposals, known)) for item in items_of(reply.edits))
        went = {
            f"P{n}": text_of(item.outcome)
            for item in items_of(getattr(reply, "dispositions", None))
            for n in re.findall(r"\d{1,6}", item.proposal)[:1]
        }
        return Plan(edits, text_of(getattr(reply, "reasoning", "")), went)

    def check(self, library: ExperienceLibrary, examples: str, program: str, *, blind: bool) -> tuple[Decision, ...]:
        """Say what the library decides for examples.

        Args:
            library: The library.
            examples: The examples as text; with their expected answers unless `blind`.
            program: Description of the program.
            blind: Whether the decisions are answers, which the code compares with the labels; else each is 'supports',
                'contradicts' or 'silent'.
        """
        step = self.steps["check" if blind else "judge"]
        reply = ask(step, program=program, experiences=library_text(library), examples=examples)
        return decisions_of(items_of(reply.decisions))

    def repair(self, library: ExperienceLibrary, problems: str, program: str) -> tuple[Edit, ...]:
        """Rewrite entries that were contradicted or are too long."""
        reply = ask(self.steps["repair"], program=program, experiences=library_text(library), problems=problems)
        return tuple(edit_of(item, ()) for item in items_of(reply.edits))

    def _reads_whole(self, rollout: Rollout) -> bool:
        """Whether a comparison can read an attempt's whole transcript, so that it need not be summarized first."""
        return self.summarize_when == "auto" and count_tokens(rollout.transcript) <= self.attempt_tokens

    def _packs(
        self, groups: Sequence[RolloutGroup], summaries: Mapping[int, Sequence[str]]
    ) -> list[list[RolloutGroup]]:
        """Groups that are compared together: in order, about equally many, and no more than fit one prompt."""
        most = math.ceil(len(groups) / max(1, math.ceil(len(groups) / self.groups_per_comparison)))
        packs: list[list[RolloutGroup]] = []
        size = 0
        for group in groups:
            tokens = count_tokens(group_text(group, summaries[group.example], self.attempt_tokens))
            full = not packs or len(packs[-1]) >= most
            if full or size + tokens > self.context_tokens // 2:
                packs.append([])
                size = 0
            packs[-1].append(group)
            size += tokens
        return packs


def _usable(reply: Reply, proposals: Sequence[Edit]) -> Plan:
    """The plan of a reply; the proposals themselves, which are paid for, where there is none."""
    plan = reply.value
    if plan is not None and not isinstance(plan, Plan):
        raise TypeError(f"Reflector.merge must return a Plan, got {type(plan).__name__}")
    if plan is None or (proposals and not plan.edits and not plan.dispositions):
        return Plan(tuple(proposals), lost=(reply.lost or "consolidation: empty plan",))
    return plan


def _content(rollout: Rollout) -> tuple[Any, ...]:
    """What a summary is made from: equal for attempts that came back the same."""
    return (rollout.transcript, rollout.score, rollout.feedback)
