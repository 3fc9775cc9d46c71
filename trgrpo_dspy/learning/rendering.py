"""What the reflection prompts show: library, attempts, groups, evidence, proposals, as bounded text.

Values of several lines are indented, so that no text of an attempt can pass for another attempt, example or entry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.entries import count_tokens
from trgrpo_dspy.library.experience import Experience
from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.program.rollout import Rollout
from trgrpo_dspy.program.transcript.rendering import cut_middle, field_lines

if TYPE_CHECKING:
    from .group import RolloutGroup

__all__ = [
    "attempt_text",
    "block",
    "contrast_texts",
    "example_block",
    "group_text",
    "library_text",
    "number_text",
    "proposals_text",
    "tally",
]

_FEEDBACK_TOKENS = 300


def library_text(library: ExperienceLibrary) -> str:
    """The library, an entry a line: id, targets where there are any, text."""
    return "\n".join(f"[{_id_and_targets(entry)}] {entry.text}" for entry in library) or "(the library is empty)"


def _id_and_targets(entry: Experience) -> str:
    return f"{entry.id} | {', '.join(entry.targets)}" if entry.targets else entry.id


def number_text(score: float | None) -> str:
    """A score as text; empty if there is none."""
    return "" if score is None else f"{score:.10g}"


def block(header: str, fields: Iterable[tuple[str, str]]) -> str:
    """A header and its fields, those without text left out."""
    return "\n".join([header, *(field_lines(name, text) for name, text in fields if text)])


def attempt_text(rollout: Rollout, summary: str, label_free: bool, max_tokens: int) -> str:
    """One attempt: score, outcome, answer, feedback, failure, and its summary or else its transcript."""
    score = "" if label_free else f"score {number_text(rollout.score)}, "
    return block(
        f"({score}{rollout.outcome.value})",
        [
            ("Answer", rollout.answer),
            ("Feedback", "" if label_free else cut_middle(rollout.feedback, _FEEDBACK_TOKENS)),
            ("Failure", rollout.error),
            ("Summary", summary),
            ("Transcript", "" if summary or _repeats_answer(rollout) else cut_middle(rollout.transcript, max_tokens)),
        ],
    )


def _repeats_answer(rollout: Rollout) -> bool:
    """Whether a transcript is one step that says what the answer says."""
    return rollout.transcript.partition("\n")[2].strip() == rollout.answer.strip()


def group_text(group: RolloutGroup, summaries: Sequence[str], max_tokens: int) -> str:
    """One example with its attempts; attempts that came back the same are shown once, with their number.

    Args:
        group: The group.
        summaries: One for each of `group.usable`, in order; empty where the attempt is shown by its transcript.
        max_tokens: Bound of one attempt's transcript.
    """
    expected = "" if group.label_free else group.expected
    parts = [block(f"Example {group.example}", [("Task", group.task), ("Expected", expected)])]
    texts = [
        attempt_text(rollout, summary, group.label_free, max_tokens)
        for rollout, summary in zip(group.usable, summaries, strict=True)
    ]
    for number, (text, count) in enumerate(Counter(texts).items(), 1):
        again = f"\nThe same again: {count - 1} more" if count > 1 else ""
        parts.append(f"Attempt {number} {text}{again}")
    return "\n".join(parts)


def contrast_texts(
    right: Sequence[RolloutGroup], groups: Sequence[RolloutGroup], most: int, max_tokens: int
) -> list[str]:
    """Examples that were answered rightly, to stand beside a comparison of groups: the nearest to each group in turn.

    Two tasks that are alike and have different answers tell most, so nearness counts where the answers differ.
    """
    words = {group.example: set(f"{group.task} {group.observed}".casefold().split()) for group in (*right, *groups)}

    def nearness(one: RolloutGroup, group: RolloutGroup) -> float:
        mine, theirs = words[one.example], words[group.example]
        return len(mine & theirs) / max(1, len(mine | theirs)) if one.expected != group.expected else 0.0

    by_group = [sorted(right, key=lambda one: -nearness(one, group)) for group in groups]
    in_turn = {one.example: one for rank in zip(*by_group, strict=True) for one in rank}
    found = []
    for text in map(_right_text, list(in_turn.values())[:most]):
        max_tokens -= count_tokens(text)
        if max_tokens >= 0:
            found.append(text)
    return found


def _right_text(group: RolloutGroup) -> str:
    """One example that was answered rightly, with its answers alone."""
    fields = [("Task", group.task), ("Observed", group.observed), ("Expected", group.expected)]
    parts = [block(f"Example {group.example} (right)", fields)]
    for number, (answer, count) in enumerate(Counter(r.answer for r in group.usable).items(), 1):
        parts.append(block(f"Attempt {number} ({count} times)", [("Answer", answer)]))
    return "\n".join(parts)


def example_block(number: int, task: str, observed: str, expected: str, *more: tuple[str, str]) -> str:
    """One example without attempts, with more fields where there are any."""
    return block(f"Example {number}", [("Task", task), ("Observed", observed), ("Expected", expected), *more])


def tally(rollouts: Iterable[Rollout], label_free: bool, max_tokens: int) -> str:
    """Which answers the attempts gave how often, with their scores, most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    for r in rollouts:
        answer = " ".join(cut_middle(r.answer or r.error, max_tokens).split())
        counts[answer, "" if label_free else f" (score {number_text(r.score)})"] += 1
    return "; ".join(f'{count} x "{answer}"{score}' for (answer, score), count in counts.most_common())


def proposals_text(proposals: Sequence[Edit]) -> str:
    """Proposals P1, P2, ..., one a line, with the examples they come from."""
    return "\n".join(f"P{i}. {_proposal_text(edit)}{_from(edit)}" for i, edit in enumerate(proposals, 1))


def _proposal_text(edit: Edit) -> str:
    head = edit.operation if edit.operation == "ADD" else f"{edit.operation} {edit.id}"
    targets = f" (for: {', '.join(edit.targets)})" if edit.targets else ""
    return f"{head}: {edit.text}{targets}" if edit.text else head


def _from(edit: Edit) -> str:
    return f" (from: {', '.join(map(str, edit.sources))})" if edit.sources else ""
