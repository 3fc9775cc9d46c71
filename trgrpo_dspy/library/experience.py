"""One piece of advice and where it comes from; and what may be read from an ordered collection of them.

Guarantees: a text is one clean line (`entries.clean_entry`); nothing that is loaded is executed; what people see is
escaped where it is HTML.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from .entries import as_written, clean_entry, count_tokens
from .ids import number_of

__all__ = ["Collection", "Experience"]


def _cleaned(text: Any) -> Any:
    return clean_entry(text) if isinstance(text, str) else text


@dataclass(frozen=True)
class Experience:
    """One piece of advice, and where it comes from."""

    id: str
    """`E` and a number; unique among all entries this library ever held."""
    text: Annotated[str, BeforeValidator(_cleaned)]
    """One clean line; `entries.as_written` gives it without the marks that make it harmless in a prompt."""
    targets: tuple[str, ...] = ()
    """Names of the predictors it is for; empty means all."""
    created_step: int = 0
    """Step that added it; 0 when it was handed in."""
    updated_step: int = 0
    """Step that last changed it."""
    sources: tuple[int, ...] = ()
    """Indices of the training examples whose groups spoke for it, ascending."""
    support: tuple[int, ...] = ()
    """Indices of the training examples that it was found right on, when it was last checked."""
    against: tuple[int, ...] = ()
    """Indices of the training examples that it was found wrong on, when it was last checked."""
    pinned: bool = False
    """Whether learning must neither change nor delete it."""
    section: Annotated[str, BeforeValidator(_cleaned)] = ""
    """Heading that it stood under in the file it was imported from."""
    helpful: int = 0
    """How often it was found helpful where it was imported from, beside `support`."""
    harmful: int = 0
    """How often it was found harmful where it was imported from, beside `against`."""

    def __post_init__(self) -> None:
        """Refuse what would not stand in a prompt as one entry."""
        number_of(self.id)
        if not self.text or clean_entry(self.text) != self.text:
            raise ValueError(
                f"Experience {self.id}: {self.text[:80]!r} is not one clean line; pass the text through clean_entry, "
                "or build the library with ExperienceLibrary.of(...)"
            )
        if len(self.section.splitlines()) > 1:
            raise ValueError(f"Experience {self.id}: section={self.section[:80]!r} must be one line")

    def line(self) -> str:
        """The entry as it stands in a prompt."""
        return f"[{self.id}] {self.text}"

    def is_for(self, predictor: str) -> bool:
        """Whether the predictor of this name is to see it."""
        return not self.targets or predictor in self.targets

    def notes(self) -> list[str]:
        """What is known of it beside its text, in words."""
        found = {
            f"for {', '.join(self.targets)}": self.targets,
            "pinned": self.pinned,
            f"right on {len(self.support)}, wrong on {len(self.against)}": self.support or self.against,
            f"helpful {self.helpful}, harmful {self.harmful}": self.helpful or self.harmful,
            f"from {_some('example', self.sources)}": self.sources,
            f"added in step {self.created_step}": self.created_step,
            f"under {self.section!r}": self.section,
            f"changed in step {self.updated_step}": self.updated_step > self.created_step,
        }
        return [note for note, known in found.items() if known]


class Collection:
    """What a library of entries in order is asked; its changes are in `ExperienceLibrary`."""

    entries: tuple[Experience, ...]

    def __iter__(self) -> Iterator[Experience]:
        """Entries in order."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.entries)

    def __contains__(self, id: object) -> bool:
        """Whether there is an entry with this id."""
        return any(id in (e.id, e) for e in self.entries)

    def __getitem__(self, id: str) -> Experience:
        """The entry with this id; a `KeyError` names the ids that are known."""
        if found := self.get(id):
            return found
        known = ", ".join(e.id for e in self.entries) or "none: the library is empty"
        raise KeyError(f"there is no entry {id!r:.60}; ids: {known}")

    def __str__(self) -> str:
        """The entries as a prompt holds them, a line each."""
        return "\n".join(e.line() for e in self.entries) or "(no experiences)"

    def __repr__(self) -> str:
        """The entries with what is known of them."""
        head = f"{type(self).__name__} of {_count(len(self), 'entry', 'entries')}, {self.tokens:,} tokens"
        lines = (f"[{e.id}] {as_written(e.text)}" + "".join(f" | {n}" for n in e.notes()) for e in self.entries)
        return "\n".join([head, *lines])

    def _repr_html_(self) -> str:
        """The entries as a notebook shows them."""
        rows = "".join(
            f"<tr><td><b>{e.id}</b></td><td style='text-align:left'>{html.escape(as_written(e.text))}</td>"
            f"<td style='text-align:left'>{html.escape('; '.join(e.notes()))}</td></tr>"
            for e in self.entries
        )
        head = f"<b>{_count(len(self), 'experience', 'experiences')}</b>, {self.tokens:,} tokens"
        return f"<p>{head}</p>" + (f"<table>{rows}</table>" if rows else "")

    @property
    def digest(self) -> str:
        """Hash of all that a program sees of it; empty if it sees nothing."""
        seen = json.dumps([[e.id, e.text, e.targets] for e in self.entries])
        return hashlib.sha256(seen.encode()).hexdigest()[:16] if self.entries else ""

    @property
    def tokens(self) -> int:
        """Tokens of all entries with their ids."""
        return count_tokens(str(self)) if self.entries else 0

    def get(self, id: str) -> Experience | None:
        """The entry with this id, or None."""
        return next((e for e in self.entries if e.id == id), None)

    def for_predictor(self, name: str) -> tuple[Experience, ...]:
        """The entries the predictor of this name is to see, in order."""
        return tuple(e for e in self.entries if e.is_for(name))


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _some(name: str, numbers: tuple[int, ...], most: int = 6) -> str:
    shown = ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")
    return f"{name} {shown}" if len(numbers) == 1 else f"{name}s {shown}"
