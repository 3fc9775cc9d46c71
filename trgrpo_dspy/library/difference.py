"""What changed from one library to another: a frozen record that reads as text."""

from __future__ import annotations

from dataclasses import dataclass

from .entries import as_written
from .experience import Experience
from .library import ExperienceLibrary

__all__ = ["Change", "LibraryDiff", "diff"]


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
