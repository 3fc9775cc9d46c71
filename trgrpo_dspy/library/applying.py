"""Edits, applied to a library by a pure function.

Guarantees:

- `apply_edits` never breaks a cap: entries, words an entry, tokens in all. What can't be applied is rejected with a
  reason and counted, never reinterpreted.
- A pinned entry is neither changed nor deleted, and what was banned does not come back.
- Duplicates and near duplicates are caught here, in code, without an LM.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from .edits import Edit, RejectedEdit
from .entries import as_written, clean_entry, count_tokens, count_words, near_duplicate
from .experience import Experience
from .ids import ID_END
from .library import ExperienceLibrary, LibraryLimits

__all__ = ["EditReport", "apply_edits"]

_PLACEHOLDERS = {
    "text", "new text", "the text", "the new text", "the whole new text", "whole new text", "lesson", "experience",
    "condition strategy", "when condition strategy", "when condition decision", "your text here", "string", "none",
}  # fmt: skip
"""How small models repeat the form they were to fill in."""
OPERATIONS = ("ADD", "MODIFY", "DELETE", "KEEP")


@dataclass(frozen=True)
class EditReport:
    """What came of a list of edits."""

    library: ExperienceLibrary
    """The library after them."""
    applied: tuple[Edit, ...] = ()
    """Edits that took effect, KEEP included."""
    rejected: tuple[RejectedEdit, ...] = ()
    """Edits that did not, with reasons."""


def apply_edits(
    library: ExperienceLibrary,
    edits: Sequence[Edit],
    *,
    step: int = 0,
    limits: LibraryLimits | None = None,
    predictors: Sequence[str] = (),
) -> EditReport:
    """Apply edits to a library: a pure function, total, and never past a cap.

    Deletions come first (DELETE beats MODIFY of the same entry), then modifications, then additions, each kind in the
    order given; so a full library can be pruned and extended in one step.

    Args:
        library: The library before; it is not changed.
        edits: Proposals, in order of precedence.
        step: Recorded as the step that created or updated an entry.
        limits: Caps; the defaults of `LibraryLimits` if None.
        predictors: Names a target may have; empty accepts any. Unknown names are dropped; if none is left the edit
            is rejected, or for all where there is one predictor.

    Returns:
        The new library, the edits that took effect and those that did not, with reasons.
    """
    state = _Draft(library, step, limits or LibraryLimits(), predictors)
    rank = {"DELETE": 0, "MODIFY": 1, "ADD": 2, "KEEP": 3}
    outcome: dict[int, str | None] = {}
    for index, edit in sorted(enumerate(edits), key=lambda pair: rank.get(pair[1].operation, 4)):
        outcome[index] = state.apply(edit)
    rejected = (RejectedEdit(edit, reason) for i, edit in enumerate(edits) if (reason := outcome[i]) is not None)
    return EditReport(
        replace(library, entries=tuple(state.entries.values()), next_id=state.next_id),
        tuple(edit for i, edit in enumerate(edits) if outcome[i] is None),
        tuple(rejected),
    )


class _Draft:
    """A library being edited; `apply` returns None, or the reason for refusing."""

    def __init__(self, library: ExperienceLibrary, step: int, limits: LibraryLimits, predictors: Sequence[str]) -> None:
        self.entries = {e.id: e for e in library}
        self.next_id, self.banned = library.next_id, library.banned
        self.step, self.limits, self.predictors = step, limits, predictors
        self.deleted: set[str] = set()
        self.modified: set[str] = set()

    def apply(self, edit: Edit) -> str | None:
        if edit.operation not in OPERATIONS:
            return f"unknown operation {edit.operation[:40]!r}; ADD, MODIFY, DELETE and KEEP are known"
        if edit.operation == "ADD":
            return self._add(edit)
        if edit.id in self.deleted:
            return f"{edit.id} is deleted by another edit of this step"
        if (old := self.entries.get(edit.id)) is None:
            return f"there is no entry {edit.id[:40] or '(empty id)'}"
        if old.pinned and edit.operation != "KEEP":
            return f"{edit.id} is pinned by the user"
        if edit.operation == "DELETE":
            del self.entries[edit.id]
            self.deleted.add(edit.id)
        return self._modify(edit, old) if edit.operation == "MODIFY" else None

    def _add(self, edit: Edit) -> str | None:
        if len(self.entries) >= self.limits.max_entries:
            return f"the library is full ({self.limits.max_entries} entries)"
        if self.next_id >= ID_END:
            return "no id is left"
        text, targets = clean_entry(edit.text), self._known(edit.targets)
        if reason := self._unusable(text, targets, edit):
            return reason
        entry = Experience(f"E{self.next_id}", text, targets or (), self.step, self.step, edit.sources)
        if reason := self._unfitting(entry):
            return reason
        self.entries[entry.id] = entry
        self.next_id += 1
        return None

    def _modify(self, edit: Edit, old: Experience) -> str | None:
        if edit.id in self.modified:
            return f"{edit.id} was already modified in this step"
        text, targets = clean_entry(edit.text), self._known(edit.targets)
        if reason := self._unusable(text, targets, edit):
            return reason
        same, sources = text == old.text, tuple(sorted({*old.sources, *edit.sources}))
        entry = replace(
            old,
            text=text,
            targets=targets or old.targets,
            updated_step=self.step,
            support=old.support if same else (),
            against=old.against if same else (),
            sources=sources,
        )
        if reason := self._unfitting(entry):
            return reason
        self.entries[entry.id] = entry
        self.modified.add(entry.id)
        return None

    def _known(self, targets: tuple[str, ...]) -> tuple[str, ...] | None:
        """Targets that exist, whatever their case; None when some were named and none exists.

        A program of one predictor leaves nothing to choose, and small models fill the field with prose: that is all.
        """
        if not self.predictors or not targets:
            return targets
        names = {name.casefold(): name for name in self.predictors}
        found = (t if t in self.predictors else names.get(t.casefold()) for t in targets)
        nothing = () if len(self.predictors) == 1 else None
        return tuple(dict.fromkeys(name for name in found if name is not None)) or nothing

    def _unusable(self, text: str, targets: tuple[str, ...] | None, edit: Edit) -> str | None:
        """Why this text and these targets make no entry."""
        if not text:
            return "the text is empty"
        if " ".join(re.findall(r"\w+", text.casefold())) in _PLACEHOLDERS:
            return f"{text[:60]!r} is a placeholder, no experience"
        if targets is None:
            return f"no predictor is named {', '.join(edit.targets)[:80]}"
        if (words := count_words(text)) > self.limits.max_words:
            return f"{words} words; at most {self.limits.max_words} are allowed"
        return None

    def _unfitting(self, entry: Experience) -> str | None:
        """Why there is no place for this entry beside the others."""
        if banned := next((text for text in self.banned if near_duplicate(text, entry.text)), None):
            return f"the user banned {as_written(banned)[:60]!r}"
        others = [e for e in self.entries.values() if e.id != entry.id]
        if twin := next((e for e in others if _overlap(e, entry) and near_duplicate(e.text, entry.text)), None):
            return f"says the same as {twin.id}"
        # The new entry may be an old one at its old place: joined length does not depend on the order.
        if count_tokens("\n".join(e.line() for e in [*others, entry])) > self.limits.max_tokens:
            return f"the library would exceed {self.limits.max_tokens} tokens"
        return None


def _overlap(a: Experience, b: Experience) -> bool:
    return not a.targets or not b.targets or bool(set(a.targets) & set(b.targets))
