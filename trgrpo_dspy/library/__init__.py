"""What was learned: entries, the library of them, and edits applied to it. Plain records and pure functions."""

from .difference import LibraryDiff, diff
from .edits import Edit, RejectedEdit, apply_edits, overlong
from .experience import Experience
from .library import ExperienceLibrary, LibraryLimits
from .screening import screen

__all__ = [
    "Edit",
    "Experience",
    "ExperienceLibrary",
    "LibraryDiff",
    "LibraryLimits",
    "RejectedEdit",
    "apply_edits",
    "diff",
    "overlong",
    "screen",
]
