"""What a run starts with: its library, its own reflector, the LM of the reflection, what is told of the predictors."""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from trgrpo_dspy.library import ExperienceLibrary, LibraryLimits
from trgrpo_dspy.library.entries import count_words
from trgrpo_dspy.program.copies import own_copy
from trgrpo_dspy.program.instructions import read_library, retarget

from .reflector import Reflector
from .settings import Settings

__all__ = ["describe_predictors", "own_reflector", "reflection_lm", "starting_library"]


def starting_library(
    student: dspy.Module, names: Sequence[str], library: ExperienceLibrary | None, limits: LibraryLimits
) -> ExperienceLibrary:
    """What was handed in, else what the student carries, else nothing."""
    if library is None:
        library = read_library(student, names)
        learned = student.__dict__.get("experiences")
        if isinstance(learned, ExperienceLibrary) and str(learned) == str(library):
            library = learned  # the same entries, with steps and sources
    else:
        library = retarget(library, student)
    if len(library) > limits.max_entries:
        raise ValueError(
            f"the starting library has {len(library)} entries, max_experiences={limits.max_entries}; "
            "raise the limit or pass a smaller library="
        )
    if long := [e.id for e in library if count_words(e.text) > limits.max_words]:
        raise ValueError(
            f"entries {', '.join(long)} of the starting library have more than {limits.max_words} words; "
            "shorten them, or pass reflector=Reflector(limits=LibraryLimits(max_words=...))"
        )
    if library.tokens > limits.max_tokens:
        raise ValueError(
            f"the starting library has {library.tokens} tokens (4 characters each), {limits.max_tokens} are "
            "allowed; shorten it, or pass reflector=Reflector(limits=LibraryLimits(max_tokens=...))"
        )
    return library


def own_reflector(settings: Settings, limits: LibraryLimits) -> Reflector:
    """The run's own copy of the reflection steps."""
    if settings.reflector is None:
        return Reflector(label_free=settings.metric is None, max_lessons=settings.experiences_per_group, limits=limits)
    reflector = own_copy(settings.reflector)
    assert isinstance(reflector, Reflector)
    reflector.limits = limits  # what consolidation is told is what is enforced
    return reflector


def reflection_lm(settings: Settings, student: dspy.Module, reflector: Reflector) -> dspy.BaseLM | None:
    """The LM of the reflection steps: as set, as configured, or the program's only one."""
    if settings.reflection_lm is not None or dspy.settings.lm is not None:
        return settings.reflection_lm or dspy.settings.lm
    lms = {id(p.lm): p.lm for _, p in student.named_sub_modules(dspy.Predict) if p.lm is not None}
    if len(lms) != 1 and any(p.lm is None for p in reflector.predictors()):
        raise ValueError(
            f"no LM for the reflection steps: no LM is configured and the program's predictors use {len(lms)}; "
            "call dspy.configure(lm=dspy.LM('openai/gpt-4o-mini')), or pass reflection_lm=dspy.LM(...)"
        )
    return next(iter(lms.values()), None)


def describe_predictors(program: dspy.Module, names: Sequence[str]) -> str:
    """What the comparison is told of the predictors: name, inputs, outputs; nothing if there is only one."""
    if len(names) < 2:
        return ""
    found = dict(program.named_predictors())
    lines = []
    for name in names:
        signature = found[name].signature
        lines.append(f"{name}: {', '.join(signature.input_fields)} -> {', '.join(signature.output_fields)}")
    return "\n".join(lines)
