"""From a plan to the next library: edits are screened, applied, verified, and what fails is taken back.

Pure functions of library and edits; the calls of the check are made by `learning/verify.py` in between.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from trgrpo_dspy.errors import FatalError
from trgrpo_dspy.failures.messages import describe
from trgrpo_dspy.library.applying import apply_edits
from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.library.entries import count_tokens, count_words, near_duplicate
from trgrpo_dspy.library.experience import Experience
from trgrpo_dspy.library.library import ExperienceLibrary, LibraryLimits
from trgrpo_dspy.library.screening import screen

if TYPE_CHECKING:
    from .check import Findings, Verified
    from .options import Allow

__all__ = ["Draft", "Refusal", "Update", "answer_key", "draft_of", "finish"]

_RUN_OF_WORDS = 8
"""Words in a row that an entry may share with one example's task."""
_IDENTIFIER = re.compile(r"(?<![\w-])#?[^\W\d_][\w-]*\d{4,}[\w-]*|#\d{3,}")
"""A word with letters and then digits, or with a number sign, such as an order's."""


@dataclass(frozen=True)
class Refusal:
    """An edit that does not count, and why."""

    edit: Edit
    """The edit."""
    reason: str
    """Why, in a sentence."""
    held: str = ""
    """The id to let it in with (`allow=`), where it was held back for the user; empty otherwise."""


@dataclass(frozen=True)
class Draft:
    """The library with a step's edits applied, before the check."""

    before: ExperienceLibrary
    """The library the step started from."""
    library: ExperienceLibrary
    """The library with the edits, those over the word cap included."""
    edits: Mapping[str, Edit]
    """The edit behind each new or changed entry, by its id."""
    others: tuple[Edit, ...]
    """Edits that took effect and leave no entry of their own: DELETE and KEEP."""
    refused: tuple[Refusal, ...]
    """Edits that did not take effect."""

    @property
    def changed(self) -> tuple[str, ...]:
        """Ids of new and changed entries."""
        return tuple(self.edits)


@dataclass(frozen=True)
class Update:
    """What a step made of the library."""

    library: ExperienceLibrary
    """The library after the step."""
    applied: tuple[Edit, ...]
    """Edits that took effect; texts as they stand after repair."""
    refused: tuple[Refusal, ...]
    """Edits that did not."""
    changes: tuple[tuple[Edit, Experience | None, Experience | None], ...] = field(default=())
    """Each edit that took effect, with its entry before and after."""


def draft_of(
    library: ExperienceLibrary,
    edits: Sequence[Edit],
    *,
    step: int,
    limits: LibraryLimits,
    names: Sequence[str],
    facts: Mapping[int, str],
    observations: Sequence[str] = (),
    allow: Allow = (),
) -> Draft:
    """Screen edits and apply them.

    Args:
        library: The library before.
        edits: The plan, in order.
        step: The step's number.
        limits: Caps; those on words and tokens are held after the check, which may shorten a text.
        names: Predictors that can be taught.
        facts: What is known of each training example, by index: its inputs and what attempts found out beyond them.
        observations: What tools returned in this step: an entry may not repeat it.
        allow: Held-back entries that may count.
    """
    fine, refused = [], []
    for number, edit in enumerate(edits, 1):
        if edit.text and (reason := answer_key(edit.text, facts)):
            refused.append(Refusal(edit, reason))
        elif edit.text and (why := screen(edit.text, observations)):
            reason, id = "; ".join(why), f"H{step}.{number}"
            if _allowed(allow, edit, reason, id):
                fine.append(edit)
            else:
                refused.append(Refusal(edit, f"held back as {id}: {reason}", held=id))
        else:
            fine.append(edit)
    report = apply_edits(
        library, fine, step=step, limits=replace(limits, max_words=10**6, max_tokens=10**9), predictors=names
    )
    refused += [Refusal(r.edit, r.reason) for r in report.rejected]
    made = [e for e in report.applied if e.operation == "ADD"]
    new = [e.id for e in report.library if library.get(e.id) is None]
    owners = {e.id: e for e in report.applied if e.operation == "MODIFY"} | dict(zip(new, made, strict=True))
    others = tuple(e for e in report.applied if e.operation in ("DELETE", "KEEP"))
    return Draft(library, report.library, owners, others, tuple(refused))


def finish(draft: Draft, verified: Verified | None, limits: LibraryLimits) -> Update:
    """Take back what failed the check or breaks a cap, and keep each entry's support.

    Args:
        draft: The draft.
        verified: What the check came to; None where there was none.
        limits: Caps.
    """
    library = verified.draft if verified is not None else draft.library
    failed = dict(verified.refused) if verified is not None else {}
    for id in draft.changed:
        entry = library.get(id)
        if entry is not None and (words := count_words(entry.text)) > limits.max_words:
            failed.setdefault(id, f"{words} words; at most {limits.max_words} are allowed")
    for id in draft.changed:
        if library.get(id) is None:
            failed.setdefault(id, "taken back by its own repair")
    library = _settled(draft, library, failed)
    for id in draft.changed:  # an entry that is as it was before may say what another edit of the plan says
        entry = library.get(id)
        old = next((f for f in failed if entry and (e := library.get(f)) and near_duplicate(e.text, entry.text)), None)
        if old is not None and id not in failed:
            failed[id] = f"says the same as {old}"
            library = _settled(draft, library, failed)
    while count_tokens(str(library)) > limits.max_tokens:
        last = next((id for id in reversed(draft.changed) if id not in failed and library.get(id)), None)
        if last is None:
            break
        failed[last] = f"the library would exceed {limits.max_tokens} tokens"
        library = _settled(draft, library, failed)
    library = _with_support(library, verified.findings if verified is not None else None)
    refused = [*draft.refused, *(Refusal(draft.edits[id], reason) for id, reason in failed.items())]
    changes: list[tuple[Edit, Experience | None, Experience | None]] = []
    for id, edit in draft.edits.items():
        if id not in failed:
            after = library[id]
            changes.append((replace(edit, text=after.text), draft.before.get(id), after))
    changes += [(e, draft.before.get(e.id), library.get(e.id)) for e in draft.others]
    return Update(library, tuple(edit for edit, _, _ in changes), tuple(refused), tuple(changes))


def _allowed(allow: Allow, edit: Edit, reason: str, id: str) -> bool:
    if not callable(allow):
        return id in allow
    try:
        return bool(allow(edit, reason))
    except Exception as error:  # the user's own function
        raise FatalError(f"allow= raised {describe(error)}") from error


def _settled(draft: Draft, library: ExperienceLibrary, failed: Collection[str]) -> ExperienceLibrary:
    """The library with failed entries as they were before, or gone if they are new. Ids are not used again."""
    kept = (draft.before.get(e.id) if e.id in failed else library.get(e.id) for e in draft.library)
    return replace(library, entries=tuple(e for e in kept if e is not None))


def _with_support(library: ExperienceLibrary, findings: Findings | None) -> ExperienceLibrary:
    if findings is None:
        return library
    entries = tuple(
        replace(
            entry,
            support=findings.supported.get(entry.id, ()),
            against=findings.contradicted.get(entry.id, ()),
        )
        if entry.id in findings.supported or entry.id in findings.contradicted
        else entry
        for entry in library
    )
    return replace(library, entries=entries)


def answer_key(text: str, facts: Mapping[int, str]) -> str:
    """Why a text is an answer key: it repeats wording or an identifier that only one example has; else empty."""
    words = text.casefold().split()
    pieces = {" ".join(words[i : i + _RUN_OF_WORDS]) for i in range(len(words) - _RUN_OF_WORDS + 1)}
    pieces |= {word.casefold() for word in _IDENTIFIER.findall(text)}
    if not pieces:
        return ""
    plain = {number: " ".join(known.casefold().split()) for number, known in facts.items()}
    for piece in sorted(pieces):
        holders = [number for number, known in plain.items() if piece in known]
        if len(holders) == 1:
            return f"an answer key: {piece!r} stands in example {holders[0]} alone"
    return ""
