"""What a program carries: the library in its instructions, and what is known of each entry beside its text.

The block in the instructions is the truth: it is what the model reads. Steps, sources, support, pins and bans go into
`predictor.traces`, which DSPy saves and loads with a predictor and uses for nothing; an entry whose text was changed
since by hand has none of these.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import dspy

from trgrpo_dspy.errors import SchemaVersionError
from trgrpo_dspy.library.experience import Experience
from trgrpo_dspy.library.library import ExperienceLibrary

from .calling import check_program
from .copies import own_copy
from .instructions import has_unreadable_block, read_block, teachable_predictors, write_block

__all__ = ["attach", "carried", "read_library", "retarget", "write_library"]

logger = logging.getLogger(__name__)

_KEY = "trgrpo_dspy"


def write_library(program: dspy.Module, library: ExperienceLibrary, names: Iterable[str] | None = None) -> None:
    """Write each teachable predictor's own entries into its instructions, in place.

    Writing an empty library removes the block. Called on copies: the program a user handed in is never written to.
    """
    for name, predictor in teachable_predictors(program, names).items():
        signature, entries = predictor.signature, library.for_predictor(name)
        text = write_block(signature.instructions, entries, signature.fields)
        if text != signature.instructions:
            # DSPy reads instructions through inspect.cleandoc, which strips the first line unless it is empty, and
            # takes an empty text for none at all.
            predictor.signature = signature.with_instructions(f"\n{text}")
        _note(predictor, replace(library, entries=entries))


def read_library(program: dspy.Module, names: Iterable[str] | None = None) -> ExperienceLibrary:
    """What the blocks in the program's teachable predictors carry, put together into one library.

    An entry that only some predictors carry gets those as its targets. Where predictors carry different texts under one
    id (edited by hand), the later one gets a new id. A text that looks like a block but can't be read is warned about.
    """
    check_program("program", program)
    predictors = teachable_predictors(program, names)
    for name, predictor in predictors.items():
        if has_unreadable_block(predictor.signature.instructions):
            logger.warning(
                "The instructions of predictor %r hold what looks like a block of experiences but can't be read: "
                "somebody changed it, so it stays as the user's text. Remove it, or restore its lines.",
                name,
            )
    return _read(predictors)


def _read(predictors: dict[str, dspy.Predict]) -> ExperienceLibrary:
    notes = [note for predictor in predictors.values() if (note := _noted(predictor)) is not None]
    noted = {(entry.id, entry.text): entry for note in notes for entry in note}
    carriers: dict[tuple[str, str], list[str]] = {}
    for name, predictor in predictors.items():
        for entry in read_block(predictor.signature.instructions):
            carriers.setdefault((entry.id, entry.text), []).append(name)
    next_id = max([int(id[1:]) + 1 for id, _ in carriers] + [note.next_id for note in notes], default=1)
    entries: dict[str, Experience] = {}
    for (id, text), carrying in carriers.items():
        entry = noted.get((id, text), Experience(id, text))
        if [name for name in predictors if entry.is_for(name)] != carrying:
            entry = replace(entry, targets=() if len(carrying) == len(predictors) else tuple(carrying))
        if id in entries:
            id, next_id = f"E{next_id}", next_id + 1
        entries[id] = replace(entry, id=id)
    ordered = tuple(sorted(entries.values(), key=lambda e: int(e.id[1:])))
    banned = tuple(dict.fromkeys(text for note in notes for text in note.banned))
    return ExperienceLibrary(ordered, next_id, banned)


def _note(predictor: dspy.Predict, library: ExperienceLibrary) -> None:
    """Keep what is known of a predictor's entries where DSPy saves it."""
    others = [trace for trace in predictor.traces if not _is_note(trace)]
    known = library != ExperienceLibrary()
    predictor.traces = [*others, {_KEY: library.to_json()}] if known else others


def _noted(predictor: dspy.Predict) -> ExperienceLibrary | None:
    note = next((trace[_KEY] for trace in predictor.traces if _is_note(trace)), None)
    try:
        return None if note is None else ExperienceLibrary.from_json(note)
    except SchemaVersionError as error:
        logger.warning("What is known of the program's experiences is not read: %s", error)
    except (TypeError, ValueError) as error:  # changed by hand in a saved file
        logger.warning("What is known of the program's experiences can't be read: %s", error)
    return None


def _is_note(trace: Any) -> bool:
    return isinstance(trace, dict) and _KEY in trace


def attach(
    program: dspy.Module, library: ExperienceLibrary | Iterable[str], names: Iterable[str] | None = None
) -> dspy.Module:
    """A deep copy of a program that carries the library: knowledge moves between programs as text.

    Its `experiences` are what its instructions hold; `detailed_results` of another program do not come along.

    Args:
        program: Any program of the same task; it is not changed.
        library: What was learned elsewhere, or texts. Targets that this program does not have count as all predictors.
        names: The predictors to write to; None means all.
    """
    check_program("program", program)
    if isinstance(library, (str, bytes)) or not isinstance(library, Iterable):
        raise TypeError(f"library must be an ExperienceLibrary or a list of texts, got {type(library).__name__}")
    found = library if isinstance(library, ExperienceLibrary) else ExperienceLibrary.of(*library)
    chosen = None if names is None else tuple(names)
    copied = own_copy(program)
    read_library(copied, chosen)  # warns of what can't be replaced
    write_library(copied, retarget(found, program), chosen)
    copied.experiences = carried(copied, chosen)
    vars(copied).pop("detailed_results", None)
    return copied


def retarget(library: ExperienceLibrary, program: dspy.Module) -> ExperienceLibrary:
    """The library for another program: targets it does not have go, and an entry left without any is for all."""
    known = set(teachable_predictors(program))
    entries = (replace(e, targets=tuple(t for t in e.targets if t in known)) for e in library)
    return replace(library, entries=tuple(entries))


def carried(program: dspy.Module, names: Iterable[str] | None = None) -> ExperienceLibrary:
    """The library that the program carries whenever it is looked at, for an attribute of the program.

    `program.load(...)` and new instructions change what it says. Its copies, and what it is turned into, are values.
    """
    return _Carried(program, names)


class _Carried(ExperienceLibrary):
    """Reads the program's blocks at each look."""

    _program: dspy.Module
    _names: tuple[str, ...] | None

    def __init__(self, program: dspy.Module, names: Iterable[str] | None) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_names", None if names is None else tuple(names))

    def _now(self) -> ExperienceLibrary:
        return _read(teachable_predictors(self._program, self._names))

    @property
    def entries(self) -> tuple[Experience, ...]:  # type: ignore[override]
        return self._now().entries

    @property
    def next_id(self) -> int:
        return self._now().next_id

    @property
    def banned(self) -> tuple[str, ...]:
        return self._now().banned

    def to_json(self) -> str:
        return self._now().to_json()

    def __repr__(self) -> str:
        return repr(self._now())

    # `dataclasses.replace` and `==` look at the class: results of edits are plain values, and equal ones are equal.
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return ExperienceLibrary

    def __copy__(self) -> ExperienceLibrary:
        return self._now()

    def __deepcopy__(self, memo: dict[int, Any]) -> ExperienceLibrary:
        program = memo.get(id(self._program))  # a copy of the program carries what the copy's instructions hold
        return _Carried(program, self._names) if program is not None else copy.copy(self)

    def __reduce__(self) -> Any:
        now = self._now()
        return ExperienceLibrary, (now.entries, now.next_id, now.banned)
