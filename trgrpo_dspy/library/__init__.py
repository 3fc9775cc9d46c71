"""What was learned: entries, the library of them, and edits applied to it. Plain records and pure functions."""

from .applying import apply_edits
from .edits import Edit, RejectedEdit, overlong
from .experience import Experience
from .library import ExperienceLibrary, LibraryDiff, LibraryLimits, diff
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
