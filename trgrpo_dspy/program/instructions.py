"""The only writer and reader of the library's block in a program.

Guarantees, for every predictor's instructions `s` as DSPy reads them and every library `L`:

- `remove_block(write_block(s, L)) == s`, byte for byte, if `s` holds no block; writing twice equals writing once.
- What is trained is what ships: rollouts, validation and the compiled program carry the same text.
- The block carries the ids, so reading it gives the entries back, wherever it stands in the text and whatever became
  of its line ends and spaces. A block that somebody else has rewritten is no longer ours: it is the user's text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import dspy

from trgrpo_dspy.library.entries import MARK, clean_entry, guard_fields
from trgrpo_dspy.library.experience import Experience
from trgrpo_dspy.library.ids import ID_PATTERN

__all__ = [
    "has_unreadable_block", "original_instructions", "read_block", "remove_block", "teachable_predictors",
    "write_block",
]  # fmt: skip

_HEADER = "--- Experiences from earlier attempts. Apply those whose condition fits; ignore the others. ---"
_FOOTER = "--- End of experiences ---"
_BLOCK = re.compile(
    rf"(?:\A|\r\n\r\n|\n\n|\r\n|\n)[ \t]*{re.escape(_HEADER)}[ \t]*\r?\n"
    rf"(?P<lines>(?:[ \t]*\[{ID_PATTERN}\][ \t]+[^\r\n]+\r?\n)+)[ \t]*{re.escape(_FOOTER)}[ \t]*(?=[\r\n]|\Z)"
)
_TAG = re.compile(rf"<{MARK}/?\s{{0,9}}(\w+)")
_LINE = re.compile(rf"[ \t]*\[({ID_PATTERN})\][ \t]+(.*\S)[ \t]*")
_TRACE = re.compile(
    r"(?i)^\W*(?:experiences from earlier attempts|end of experiences)\b"
    r"|\bexperiences from earlier attempts\. apply those whose condition fits\b.*\bend of experiences\b",
    re.MULTILINE | re.DOTALL,  # a block folded into one line has no line of its own
)


def write_block(instructions: str, entries: Sequence[Experience], fields: Iterable[str] = ()) -> str:
    """Put the entries after the instructions, in place of the blocks that are there; no entries, no block.

    Tags named like one of the signature's fields are marked, so that the XML adapter's fields stay the only ones.
    """
    original = remove_block(instructions)
    if not entries:
        return original
    names = tuple(fields)
    block = "\n".join([_HEADER, *(guard_fields(e.line(), names) for e in entries), _FOOTER])
    return f"{original}\n\n{block}" if original else block


def remove_block(instructions: str) -> str:
    """The instructions as they were before any block of ours; what was written after a block stays."""
    while found := _find(instructions):
        before, after = instructions[: found.start()], instructions[found.end() :]
        instructions = before + after if before else after.lstrip("\r\n")
    return instructions


def read_block(instructions: str) -> tuple[Experience, ...]:
    """The entries of our blocks, id and text; empty where there is none."""
    entries: list[Experience] = []
    while found := _find(instructions):
        entries += [Experience(id, clean_entry(text)) for id, text in _lines(found)]
        instructions = instructions[found.end() :]
    return tuple(dict.fromkeys(entries))


def has_unreadable_block(instructions: str) -> bool:
    """Whether the text still looks like ours when all blocks that can be read are gone."""
    return _TRACE.search(remove_block(instructions)) is not None


def _find(instructions: str) -> re.Match[str] | None:
    """The first block that the writer could have written."""
    for found in _BLOCK.finditer(instructions):
        lines = _lines(found)
        if len({id for id, _ in lines}) == len(lines) and all(_could_be_written(text) for _, text in lines):
            return found
    return None


def _lines(found: re.Match[str]) -> list[tuple[str, str]]:
    """Ids and texts of a block's lines."""
    matches = [_LINE.fullmatch(line) for line in re.split(r"\r?\n", found["lines"])[:-1]]
    return [(m.group(1), m.group(2)) for m in matches if m]


def _could_be_written(text: str) -> bool:
    """Whether the writer could have written this text: marks of the fields come on top of those of the entry."""
    return guard_fields(clean_entry(text), _TAG.findall(text)) == text


def original_instructions(predictor: dspy.Predict) -> str:
    """A predictor's instructions without our block."""
    return remove_block(predictor.signature.instructions)


def teachable_predictors(program: dspy.Module, names: Iterable[str] | None = None) -> dict[str, dspy.Predict]:
    """The predictors a library may be written into, by name, in the program's order; only these names if any are given.

    Predictors in a frozen sub-module (`_compiled`) are left alone, as DSPy does.

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
