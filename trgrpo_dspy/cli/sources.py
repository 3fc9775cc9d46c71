"""Where a library stands: a library's file in any format, a saved program, or a run's directory.

Guarantees: reading executes nothing; writing changes the entries and nothing else in a file, and leaves the old file or
the new one, never a part.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trgrpo_dspy.library.exchange import FORMATS, guess_format
from trgrpo_dspy.library.library import ExperienceLibrary

from .errors import InputError

__all__ = ["Source", "other_fields", "read_source", "saved_fields", "write_text"]


@dataclass(frozen=True)
class Source:
    """A library and the file in which it stands."""

    path: Path
    library: ExperienceLibrary
    format: str
    """A name of `FORMATS`, or 'program'."""
    text: str
    """The file's text."""

    def with_library(self, library: ExperienceLibrary) -> str:
        """The file's text with another library in it."""
        if self.format != "program":
            plain = self.format == "markdown" and "Next id:" not in self.text  # anybody's list, with text around it
            return FORMATS["list" if plain else self.format].write(library, self.text)
        state = json.loads(self.text)
        _write_state(state, library)
        return json.dumps(state, indent=2, ensure_ascii=False)


def read_source(name: str, format: str = "") -> Source:
    """Read a library from a file, or the best program of a run's directory; an empty format is guessed."""
    if format and format not in FORMATS:
        raise InputError(f"--format {format}: the formats are {', '.join(FORMATS)}")
    path = Path(name).expanduser()
    if path.is_dir():
        path = _in_run(path)
    text = _text_of(path)
    if not format and (state := _state(text)) is not None:
        from trgrpo_dspy.program.carrying import read_library

        return Source(path, read_library(_program(state)), "program", text)
    if path.suffix == ".py":
        raise InputError(f"{path} is a target; name a library, a saved program or a run's directory")
    guessed, format = not format, format or guess_format(text, path.name)
    try:
        library = FORMATS[format].read(text)
        if guessed and not library.entries and format == "markdown" and "Next id:" not in text:
            raise ValueError("it holds no list of experiences")
        return Source(path, library, format, text)
    except (ValueError, KeyError, TypeError) as error:
        hint = "" if name.endswith((".json", ".md", ".yaml", ".yml")) else "; --format names another format"
        raise InputError(f"{path}: {error}{hint}") from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; its mode stays."""
    path = path.expanduser().resolve()
    if not path.parent.is_dir():
        raise InputError(f"{path} can't be written: its directory is not there")
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
        if path.exists():
            shutil.copymode(path, scratch)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def _text_of(path: Path) -> str:
    if path.suffix == ".pkl":
        raise InputError(f"{path} is a pickle, which runs code when it is loaded; save the program as .json")
    if not path.is_file():
        raise InputError(f"{path} is not there")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error.reason} at byte {error.start}") from error


def _in_run(path: Path) -> Path:
    libraries = sorted(path.glob("libraries/step_*.json"))
    found = [file for file in (path / "program.json", *reversed(libraries)) if file.is_file()]
    if not found:
        what = "a program saved whole, as a pickle" if (path / "program.pkl").exists() else "a directory without one"
        raise InputError(f"{path} holds no library: it is {what}; name a library, a saved program or a run's directory")
    return found[0]


# -- saved programs ----------------------------------------------------------------------------------------------------


def _state(text: str) -> dict[str, Any] | None:
    """The state of a program that DSPy saved; None for any other text."""
    try:
        state = json.loads(text) if text.lstrip()[:1] == "{" else None
    except (ValueError, RecursionError):
        return None
    return state if isinstance(state, dict) and _predictors(state) else None


def _predictors(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The predictors' states by name, as DSPy names them."""
    named = {"self": state, **state}
    return {
        name: part
        for name, part in named.items()
        if isinstance(part, dict)
        and isinstance(signature := part.get("signature"), dict)
        and isinstance(signature.get("instructions"), str)
    }


def saved_fields(text: str) -> dict[str, list[str]]:
    """The fields of each predictor in the text of a saved program, as DSPy keeps them: 'Question:', 'Answer:'."""
    return {
        name: [str(field.get("prefix")) for field in part["signature"].get("fields") or ()]
        for name, part in _predictors(json.loads(text)).items()
    }


def other_fields(a: Mapping[str, list[str]], b: Mapping[str, list[str]]) -> str:
    """How a program with the predictors `a` differs from one with the predictors `b`; empty if `a` has all of `b`."""
    for name, fields in b.items():
        if name not in a:
            return f"it has no predictor {name!r}, only {', '.join(map(repr, a))}"
        if a[name] and fields and a[name] != fields:  # a state that was written by hand may name none
            return f"the fields of {name!r} are {' '.join(a[name])} there and {' '.join(fields)} here"
    return ""


def _program(state: dict[str, Any]) -> Any:
    """A stand-in with the file's predictors: their names, instructions, fields and notes."""
    import dspy  # slow to import; a library's own file needs none

    class SavedProgram(dspy.Module):
        def named_predictors(self) -> list[tuple[str, dspy.Predict]]:
            return list(found.items())

    found = {}
    for name, part in _predictors(state).items():
        names = [field.get("prefix", "").strip(": ").lower().replace(" ", "_") for field in part["signature"]["fields"]]
        fields = {field: (str, dspy.InputField()) for field in names if field.isidentifier()}
        signature = dspy.Signature({**fields, "output_": (str, dspy.OutputField())}, "-")
        found[name] = dspy.Predict(signature.with_instructions(f"\n{part['signature']['instructions']}"))
        found[name].traces = list(part.get("traces") or [])
    return SavedProgram()


def _write_state(state: dict[str, Any], library: ExperienceLibrary) -> None:
    from trgrpo_dspy.program.carrying import retarget, write_library

    program = _program(state)
    write_library(program, retarget(library, program))
    for name, predictor in program.named_predictors():
        part = _predictors(state)[name]
        part["signature"]["instructions"] = predictor.signature.instructions
        part["traces"] = predictor.traces
