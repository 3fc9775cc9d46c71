"""The plain files that a run writes for people beside its journal, each whole or not at all, for their owner alone.

`config.json` (the settings), `libraries/step_003.json` (the library after each step), `program.json` (the best program
so far, which plain DSPy loads; no LM state in it) and `results.json`. They hold no key, header or address.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from trgrpo_dspy.library.library import ExperienceLibrary
from trgrpo_dspy.program.carrying import write_library
from trgrpo_dspy.program.copies import own_copy

from .files import create_private, unwritable, write_atomically

__all__ = ["LogDir"]

logger = logging.getLogger(__name__)


class LogDir:
    """The files of one run, in a directory that exists."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @classmethod
    def inside(cls, directory: Path, name: str) -> LogDir:
        """Use a folder of a directory that exists; it is made if need be."""
        folder = directory / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        return cls(folder)

    def config(self, settings: Mapping[str, Any]) -> None:
        """Write the settings of the run."""
        write_atomically(self._directory / "config.json", json.dumps(dict(settings), indent=2, ensure_ascii=False))

    def library(self, step: int, library: ExperienceLibrary) -> None:
        """Write the library after a step."""
        folder = LogDir.inside(self._directory, "libraries")._directory
        write_atomically(folder / f"step_{step:03d}.json", library.to_json())

    def program(self, student: dspy.Module, library: ExperienceLibrary, names: Sequence[str]) -> None:
        """Write the program with this library, its LMs left out."""
        program = own_copy(student)
        write_library(program, library, names)
        for _, predictor in program.named_sub_modules(dspy.Predict):
            predictor.lm = None
        path, scratch = self._directory / "program.json", self._directory / ".program.tmp.json"
        try:
            create_private(scratch)
            program.save(scratch)
            os.replace(scratch, path)
        except OSError as error:
            raise unwritable(path, error) from error
        except (TypeError, ValueError, RuntimeError) as error:  # demos or fields that JSON can't hold
            scratch.unlink(missing_ok=True)
            logger.warning("program.json was not written: this program can't be saved as JSON (%s)", error)

    def results(self, text: str) -> None:
        """Write the results."""
        write_atomically(self._directory / "results.json", text)
