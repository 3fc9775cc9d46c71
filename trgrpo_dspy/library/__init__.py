"""What was learned: entries, the library of them, and edits applied to it. Plain records and pure functions."""

from .edits import Edit, apply_edits, overlong
from .library import Experience, ExperienceLibrary, LibraryLimits

__all__ = ["Edit", "Experience", "ExperienceLibrary", "LibraryLimits", "apply_edits", "overlong"]
