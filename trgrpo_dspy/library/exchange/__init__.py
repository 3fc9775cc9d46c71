"""Libraries in other projects' files, both ways. To add a format: one file here, one line in `FORMATS`.

Guarantees: reading is plain parsing and executes nothing; what a format can hold is not lost; with `base`, the file
that is written to, everything in it that is no entry stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trgrpo_dspy.library.library import ExperienceLibrary

from .ace import read_playbook, write_playbook
from .skillopt import read_skill, write_list, write_skill
from .youtu import read_agent, read_experiences, write_agent, write_experiences

__all__ = ["FORMATS", "Format", "guess_format"]


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    about: str
    """Whose file it is, in a few words."""
    read: Callable[[str], ExperienceLibrary]
    """A library from the file's text; raises ValueError naming the line or key that can't be read."""
    write: Callable[[ExperienceLibrary, str], str]
    """The file's text from a library and the text of the file as it is, empty for a new one."""


FORMATS = {
    "json": Format(
        "this project's own file", ExperienceLibrary.from_json, lambda library, base: library.to_json() + "\n"
    ),
    "markdown": Format(
        "a list to read and edit", ExperienceLibrary.from_markdown, lambda library, base: library.to_markdown()
    ),
    "list": Format("a plain Markdown list, texts only", ExperienceLibrary.from_markdown, write_list),
    "youtu-agent": Format("the paper's reference: agent YAML", read_agent, write_agent),
    "youtu-json": Format("the paper's reference: experiences.json", read_experiences, write_experiences),
    "ace": Format("ACE's playbook", read_playbook, write_playbook),
    "skillopt": Format("SkillOpt's best_skill.md", read_skill, write_skill),
}
"""Formats by name."""


def guess_format(text: str, filename: str = "") -> str:
    """The name of the format that a file is most likely in; its name helps where the text could be several."""
    name = filename.lower().replace("\\", "/").rsplit("/", 1)[-1]
    if name.endswith((".yaml", ".yml")):
        return "youtu-agent"
    if text.lstrip()[:1] in ("{", "["):
        return "json" if '"schema_version"' in text else "youtu-json"
    if "helpful=" in text and " :: " in text:
        return "ace"
    return "skillopt" if "skill" in name or "<!-- SLOW_UPDATE_START -->" in text else "markdown"
