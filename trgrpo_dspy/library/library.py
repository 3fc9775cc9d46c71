"""The experience library: a value.

Guarantees:

- A library is frozen and ordered. Ids (`E7`) are never reused and never renumbered; `next_id` outlives deletions.
- What people do to it by hand gives a new library: `add`, `without`, `with_text`, `pin`, `unpin`, `ban`.
- Nothing that is loaded is executed: plain data with a version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .entries import as_written, clean_entry
from .experience import Collection, Experience
from .ids import ID_END, number_of, numbering
from .markdown import parse_markdown, render_markdown
from .saved import Saved

__all__ = ["Change", "ExperienceLibrary", "LibraryDiff", "LibraryLimits", "diff", "numbered"]


@dataclass(frozen=True)
class LibraryLimits:
    """Hard caps of a library; `apply_edits` never exceeds them.

    The defaults hold the libraries that the paper's authors released (45 entries, about 2,750 tokens).
    """

    max_entries: int = 50
    """Entries at most."""
    max_words: int = 64
    """Words at most in one entry (`count_words`)."""
    max_tokens: int = 3000
    """Tokens at most of all entries with their ids (`count_tokens`)."""
    soft_words: int = 32
    """Words that prompts ask for; no cap."""


@dataclass(frozen=True, repr=False)
class ExperienceLibrary(Collection, Saved):
    """A frozen, ordered library of experiences. Build one by hand with `ExperienceLibrary.of("advice", ...)`."""

    saved_as = "experience library"
    needs = ("entries", "next_id")
    entries: tuple[Experience, ...] = ()
    """In the order they were added."""
    next_id: int = 1
    """Number the next added entry gets; grows only."""
    banned: tuple[str, ...] = ()
    """Texts that learning must not bring back, nor what says the same."""
    schema_version: int = field(default=2, compare=False)
    """Version of the record; 1 knew no support, pins and bans."""

    def __post_init__(self) -> None:
        """Refuse ids that repeat or that `next_id` would give out again."""
        if not 1 <= self.next_id <= ID_END:
            raise ValueError(f"ExperienceLibrary: next_id={self.next_id} must be from 1 to {ID_END}")
        numbers = [number_of(e.id) for e in self.entries]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"ExperienceLibrary: ids must be unique, got {[e.id for e in self.entries]}")
        if numbers and max(numbers) >= self.next_id:
            raise ValueError(
                f"ExperienceLibrary: next_id={self.next_id} must exceed every id, the highest is E{max(numbers)}"
            )

    @classmethod
    def of(cls, *texts: str) -> ExperienceLibrary:
        """A library of hand-written advice, for every predictor."""
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise TypeError(
                f"ExperienceLibrary.of takes texts, one an argument, got {type(wrong[0]).__name__}; write of(*texts)"
            )
        cleaned = [clean_entry(text) for text in texts]
        if "" in cleaned:
            raise ValueError(f"ExperienceLibrary.of: text {cleaned.index('')} is empty; give it at least one word")
        return cls(tuple(Experience(f"E{i}", text) for i, text in enumerate(cleaned, 1)), len(cleaned) + 1)

    def add(self, text: str, targets: Iterable[str] = ()) -> ExperienceLibrary:
        """The library with one more entry, under the next id; without targets it is for all predictors."""
        if isinstance(targets, str):
            raise TypeError(f"add: targets must be names of predictors, got {targets!r}; write targets=[{targets!r}]")
        entry = Experience(f"E{self.next_id}", _text(text, "add"), tuple(dict.fromkeys(targets)))
        return replace(self, entries=(*self.entries, entry), next_id=self.next_id + 1)

    def without(self, *ids: str) -> ExperienceLibrary:
        """The library without these entries; their ids are not given out again."""
        gone = {self[id].id for id in ids}
        return replace(self, entries=tuple(e for e in self.entries if e.id not in gone))

    def only(self, ids: Iterable[str]) -> ExperienceLibrary:
        """The entries with these ids, in the library's order: what an exposure returns."""
        wanted = set(ids)
        return replace(self, entries=tuple(entry for entry in self.entries if entry.id in wanted))

    def with_text(self, id: str, text: str) -> ExperienceLibrary:
        """The library with another text under this id; what was counted for the old text goes."""
        return self._with(replace(self[id], text=_text(text, f"with_text {id}"), support=(), against=()))

    def with_evidence(self, found: Mapping[str, tuple[Iterable[int], Iterable[int]]]) -> ExperienceLibrary:
        """The library with what a check found: for each id the examples it is right on, and those it is wrong on."""
        return self._with(
            *(
                replace(self[id], support=tuple(sorted(set(support))), against=tuple(sorted(set(against))))
                for id, (support, against) in found.items()
            )
        )

    def pin(self, *ids: str) -> ExperienceLibrary:
        """The library with these entries pinned: learning neither changes nor deletes them."""
        return self._with(*(replace(self[id], pinned=True) for id in ids))

    def unpin(self, *ids: str) -> ExperienceLibrary:
        """The library with these entries open to learning again."""
        return self._with(*(replace(self[id], pinned=False) for id in ids))

    def ban(self, *ids: str) -> ExperienceLibrary:
        """The library without these entries; neither they nor their near duplicates come back by learning."""
        texts = (self[id].text for id in ids)
        return replace(self.without(*ids), banned=tuple(dict.fromkeys((*self.banned, *texts))))

    def to_markdown(self) -> str:
        """The library as a list that people read and edit; `from_markdown` is the inverse."""
        return render_markdown(self.entries, self.next_id, self.banned)

    @classmethod
    def from_markdown(cls, text: str) -> ExperienceLibrary:
        """Read what `to_markdown` wrote, or any plain list; items without an id get the next ones.

        Raises:
            ValueError: A line can't be read; the message names its number.
        """
        found, next_id, banned = parse_markdown(text)
        return cls(tuple(Experience(id, text, **notes) for id, text, notes in found), next_id, banned)

    def _with(self, *changed: Experience) -> ExperienceLibrary:
        new = {e.id: e for e in changed}
        return replace(self, entries=tuple(new.get(e.id, e) for e in self.entries))


def numbered(found: Iterable[tuple[int, str, Mapping[str, Any]]]) -> ExperienceLibrary:
    """The library of numbers, texts and other fields as a file has them; no text is no entry, 0 is no number."""
    kept = [(number, cleaned, fields) for number, text, fields in found if (cleaned := clean_entry(text))]
    numbers = numbering([number for number, _, _ in kept])
    entries = (Experience(f"E{n}", text, **fields) for n, (_, text, fields) in zip(numbers, kept, strict=True))
    return ExperienceLibrary(tuple(entries), max(numbers, default=0) + 1)


def _text(text: str, where: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{where}: the text must be a string, got {type(text).__name__}")
    if not (cleaned := clean_entry(text)):
        raise ValueError(f"{where}: the text {text[:40]!r} is empty; give it at least one word")
    return cleaned


# -- what changed ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One entry that both libraries have, with another text, other targets or another pin."""

    before: Experience
    after: Experience

    def __str__(self) -> str:
        """The old line and the new one."""
        return f"- {_line(self.before)}\n+ {_line(self.after)}"


@dataclass(frozen=True)
class LibraryDiff:
    """What changed, by id."""

    added: tuple[Experience, ...] = ()
    """Entries that only the second library has."""
    removed: tuple[Experience, ...] = ()
    """Entries that only the first library has."""
    changed: tuple[Change, ...] = ()
    """Entries that differ in what a program reads or in their pin."""

    def __bool__(self) -> bool:
        """Whether anything changed."""
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        """A line for each entry that went or came, two for each that changed."""
        went, came = (f"- {_line(e)}" for e in self.removed), (f"+ {_line(e)}" for e in self.added)
        return "\n".join([*went, *map(str, self.changed), *came]) or "(no difference)"


def diff(a: ExperienceLibrary, b: ExperienceLibrary) -> LibraryDiff:
    """What changed from library `a` to library `b`; counts, steps and sources are no change."""
    both = [Change(e, b[e.id]) for e in a if e.id in b]
    return LibraryDiff(
        tuple(e for e in b if e.id not in a),
        tuple(e for e in a if e.id not in b),
        tuple(c for c in both if _line(c.before) != _line(c.after)),
    )


def _line(entry: Experience) -> str:
    """All of an entry that counts as a change."""
    targets = f" | {', '.join(entry.targets)}" if entry.targets else ""
    return f"[{entry.id}{targets}] {as_written(entry.text)}" + (" (pinned)" if entry.pinned else "")
