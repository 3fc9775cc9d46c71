"""The only writer and reader of the library's block in a program.

Guarantees, for every predictor's instructions `s` as DSPy reads them and every library `L`:

- `remove_block(write_block(s, L)) == s`, byte for byte, and writing twice equals writing once.
- What is trained is what ships: rollouts, validation and the compiled program carry the same text.
- The block carries the ids, so reading it gives the entries back. A block that somebody else has rewritten is no
  longer ours: it is the user's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import dspy

from trgrpo_dspy.library.entries import MARK, clean_entry, guard_fields
from trgrpo_dspy.library.experience import ID_PATTERN, Experience
from trgrpo_dspy.library.library import ExperienceLibrary

from .copies import own_copy

__all__ = [
    "attach",
    "original_instructions",
    "read_block",
    "read_library",
    "remove_block",
    "retarget",
    "teachable_predictors",
    "write_block",
    "write_library",
]

_HEADER = "--- Experiences from earlier attempts. Apply those whose condition fits; ignore the others. ---"
_FOOTER = "--- End of experiences ---"
_BLOCK = re.compile(
    rf"(?:\A|\n\n){re.escape(_HEADER)}\n(?P<lines>(?:\[{ID_PATTERN}\] [^\n]+\n)+){re.escape(_FOOTER)}\Z"
)
_TAG = re.compile(rf"<{MARK}/?\s{{0,9}}(\w+)")
_LINE = re.compile(rf"\[({ID_PATTERN})\] (.+)")


def write_block(instructions: str, entries: Sequence[Experience], fields: Iterable[str] = ()) -> str:
    """Put the entries after the instructions, in place of a block that is there; no entries, no block.

    Tags named like one of the signature's fields are marked, so that the XML adapter's fields stay the only ones.
    """
    original = remove_block(instructions)
    if not entries:
        return original
    names = tuple(fields)
    block = "\n".join([_HEADER, *(guard_fields(e.line(), names) for e in entries), _FOOTER])
    return f"{original}\n\n{block}" if original else block


def remove_block(instructions: str) -> str:
    """The instructions as they were before any block of ours."""
    while found := _find(instructions):
        instructions = instructions[: found.start()]
    return instructions


def read_block(instructions: str) -> tuple[Experience, ...]:
    """The entries of the block, id and text; empty where there is no block of ours."""
    found = _find(instructions)
    if not found:
        return ()
    return tuple(
        Experience(m.group(1), clean_entry(m.group(2))) for m in map(_LINE.fullmatch, found["lines"].splitlines()) if m
    )


def _find(instructions: str) -> re.Match[str] | None:
    """Our block at the end of the text: exactly as the writer leaves it, else it is not ours."""
    found = _BLOCK.search(instructions)
    if not found:
        return None
    lines = [m for m in map(_LINE.fullmatch, found["lines"].split("\n")[:-1]) if m]
    ids = [m.group(1) for m in lines]
    genuine = len(lines) == found["lines"].count("\n") and len(set(ids)) == len(ids)
    return found if genuine and all(_clean(m.group(2)) for m in lines) else None


def _clean(text: str) -> bool:
    """Whether the writer could have written this text: marks of the fields come on top of those of the entry."""
    return guard_fields(clean_entry(text), _TAG.findall(text)) == text


def original_instructions(predictor: dspy.Predict) -> str:
    """A predictor's instructions without our block."""
    return remove_block(predictor.signature.instructions)


def teachable_predictors(program: dspy.Module, names: Iterable[str] | None = None) -> dict[str, dspy.Predict]:
    """The predictors a library may be written into, by name, in the program's order.

    Args:
        program: The program. Predictors in a frozen sub-module (`_compiled`) are left alone, as DSPy does.
        names: Only these; None means all.

    Raises:
        ValueError: A name does not exist, or nothing is left to teach.
    """
    found = {name: p for name, p in program.named_predictors() if p is program or not p._compiled}
    if not found:
        frozen = [name for name, _ in program.named_sub_modules(dspy.Predict)]
        raise ValueError(
            f"{type(program).__name__} has no predictor left to teach. "
            + (
                f"Its predictors {frozen} are in sub-modules frozen by an earlier compile; to teach them set "
                "`sub_module._compiled = False` first."
                if frozen
                else "Build it from dspy.Predict, dspy.ChainOfThought, dspy.ReAct or another module with predictors."
            )
        )
    if names is None:
        return found
    wanted = list(names)
    if unknown := [name for name in wanted if name not in found]:
        raise ValueError(
            f"predictors={wanted!r} names {unknown!r}; the program's teachable predictors are {list(found)}"
        )
    if not wanted:
        raise ValueError(f"predictors=[] leaves nothing to teach; name some of {list(found)} or pass None for all")
    return {name: predictor for name, predictor in found.items() if name in wanted}


def write_library(program: dspy.Module, library: ExperienceLibrary, names: Iterable[str] | None = None) -> None:
    """Write each teachable predictor's own entries into its instructions, in place.

    Writing an empty library removes the block. Called on copies: the program a user handed in is never written to.
    """
    for name, predictor in teachable_predictors(program, names).items():
        signature = predictor.signature
        text = write_block(signature.instructions, library.for_predictor(name), signature.fields)
        if text != predictor.signature.instructions:
            # DSPy reads instructions through inspect.cleandoc, which strips the first line unless it is empty, and
            # takes an empty text for none at all.
            predictor.signature = predictor.signature.with_instructions(f"\n{text}")


def read_library(program: dspy.Module, names: Iterable[str] | None = None) -> ExperienceLibrary:
    """What the blocks in the program's teachable predictors carry, put together into one library.

    An entry that only some predictors carry gets those as its targets. Where two predictors carry different texts
    under one id (edited by hand), the later one gets a new id. Steps and sources are not in the text.
    """
    predictors = teachable_predictors(program, names)
    carriers: dict[tuple[str, str], list[str]] = {}
    for name, predictor in predictors.items():
        for entry in read_block(predictor.signature.instructions):
            carriers.setdefault((entry.id, entry.text), []).append(name)
    next_id = max((int(id[1:]) for id, _ in carriers), default=0) + 1
    entries: dict[str, Experience] = {}
    for (id, text), names_ in carriers.items():
        if id in entries:
            id, next_id = f"E{next_id}", next_id + 1
        entries[id] = Experience(id, text, () if len(names_) == len(predictors) else tuple(names_))
    ordered = tuple(sorted(entries.values(), key=lambda e: int(e.id[1:])))
    return ExperienceLibrary(ordered, next_id)


def attach(program: dspy.Module, library: ExperienceLibrary, names: Iterable[str] | None = None) -> dspy.Module:
    """A deep copy of a program that carries the library: knowledge moves between programs as text.

    Args:
        program: Any program of the same task; it is not changed.
        library: What was learned elsewhere. Targets that this program does not have count as all predictors.
        names: The predictors to write to; None means all.
    """
    if not isinstance(library, ExperienceLibrary):
        raise TypeError(f"library must be an ExperienceLibrary, got {type(library).__name__}; see ExperienceLibrary.of")
    copy = own_copy(program)
    write_library(copy, retarget(library, program), names)
    return copy


def retarget(library: ExperienceLibrary, program: dspy.Module) -> ExperienceLibrary:
    """The library for another program: targets it does not have go, and an entry left without any is for all."""
    known = set(teachable_predictors(program))
    entries = (replace(e, targets=tuple(t for t in e.targets if t in known)) for e in library)
    return replace(library, entries=tuple(entries))
