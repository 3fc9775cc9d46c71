"""The experience library: a value.

Guarantees:

- A library is frozen and ordered. Ids (`E7`) are never reused and never renumbered; `next_id` outlives deletions.
- An entry is one clean line (`entries.clean_entry`).
- Nothing that is loaded is executed: plain data with a version.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from trgrpo_dspy.errors import SchemaVersionError

from .entries import clean_entry, count_tokens

__all__ = [
    "ID_END",
    "ID_PATTERN",
    "Experience",
    "ExperienceLibrary",
    "LibraryLimits",
]

SCHEMA_VERSION = 1
ID_PATTERN = "E[1-9][0-9]{0,8}"
"""What an id looks like; numbers are below a thousand million, so that no text can make an absurd one."""
ID_END = 10**9


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


@dataclass(frozen=True)
class Experience:
    """One piece of advice, and where it comes from."""

    id: str
    """`E` and a number; unique among all entries this library ever held."""
    text: str
    """One clean line."""
    targets: tuple[str, ...] = ()
    """Names of the predictors it is for; empty means all."""
    created_step: int = 0
    """Step that added it; 0 when it was handed in."""
    updated_step: int = 0
    """Step that last changed it."""
    sources: tuple[int, ...] = ()
    """Indices of the training examples whose groups spoke for it, ascending."""

    def __post_init__(self) -> None:
        """Refuse what would not stand in a prompt as one entry."""
        _number(self.id)
        if not self.text or clean_entry(self.text) != self.text:
            raise ValueError(
                f"Experience {self.id}: {self.text[:80]!r} is not one clean line; pass the text through clean_entry, "
                "or build the library with ExperienceLibrary.of(...)"
            )

    def line(self) -> str:
        """The entry as it stands in a prompt."""
        return f"[{self.id}] {self.text}"

    def is_for(self, predictor: str) -> bool:
        """Whether the predictor of this name is to see it."""
        return not self.targets or predictor in self.targets


@dataclass(frozen=True)
class ExperienceLibrary:
    """A frozen, ordered library of experiences. Build one by hand with `ExperienceLibrary.of("advice", ...)`."""

    entries: tuple[Experience, ...] = ()
    """In the order they were added."""
    next_id: int = 1
    """Number the next added entry gets; grows only."""

    def __post_init__(self) -> None:
        """Refuse ids that repeat or that `next_id` would give out again."""
        if not 1 <= self.next_id <= ID_END:
            raise ValueError(f"ExperienceLibrary: next_id={self.next_id} must be from 1 to {ID_END}")
        numbers = [_number(e.id) for e in self.entries]
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

    def __iter__(self) -> Iterator[Experience]:
        """Entries in order."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.entries)

    def __str__(self) -> str:
        """The entries, a line each."""
        return "\n".join(e.line() for e in self.entries)

    @property
    def digest(self) -> str:
        """Hash of all that a program sees of it; empty if it sees nothing."""
        seen = json.dumps([[e.id, e.text, e.targets] for e in self.entries])
        return hashlib.sha256(seen.encode()).hexdigest()[:16] if self.entries else ""

    def get(self, id: str) -> Experience | None:
        """The entry with this id, or None."""
        return next((e for e in self.entries if e.id == id), None)

    def for_predictor(self, name: str) -> tuple[Experience, ...]:
        """The entries the predictor of this name is to see, in order."""
        return tuple(e for e in self.entries if e.is_for(name))

    @property
    def tokens(self) -> int:
        """Tokens of all entries with their ids."""
        return count_tokens(str(self))

    def to_json(self) -> str:
        """Serialise with a schema version; `from_json` is the inverse."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, text: str) -> ExperienceLibrary:
        """Load what `to_json` wrote. Plain data: nothing is executed.

        Raises:
            SchemaVersionError: The text was written by a newer version.
            ValueError: The text is no library.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            version = data["schema_version"]
            if version > SCHEMA_VERSION:
                raise SchemaVersionError(
                    f"library of schema {version}; this version reads up to {SCHEMA_VERSION}: upgrade trgrpo-dspy"
                )
            return cls(tuple(map(_read_entry, data["entries"])), int(data["next_id"]))
        except SchemaVersionError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"not an experience library: {type(error).__name__}: {error}") from error


def _read_entry(data: dict[str, Any]) -> Experience:
    if not isinstance(data["text"], str) or not all(isinstance(data[key], list) for key in ("targets", "sources")):
        raise TypeError(f"entry {data['id']!r}: the text must be a string, targets and sources lists")
    return Experience(
        str(data["id"]),
        clean_entry(data["text"]),
        tuple(map(str, data["targets"])),
        int(data["created_step"]),
        int(data["updated_step"]),
        tuple(map(int, data["sources"])),
    )


def _number(id: str) -> int:
    if not re.fullmatch(ID_PATTERN, id):
        raise ValueError(f"{id[:40]!r} is no experience id; ids are E1, E2, ...")
    return int(id[1:])
