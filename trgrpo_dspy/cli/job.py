"""What `compile`, `evaluate` and `compare` were asked to do, as a record that a run's directory keeps for `resume`.

It holds no key: models are kept by their names, and settings that look like a secret are refused before.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from trgrpo_dspy.saved import Saved

from .errors import InputError

__all__ = ["FILE", "Job", "read_job"]

FILE = "command.json"
"""The record's name in a run's directory."""


@dataclass(frozen=True)
class Job(Saved):
    """One command."""

    saved_as = "command"
    needs = ("verb", "target")
    verb: str
    """'compile', 'evaluate' or 'compare'."""
    target: str
    """File or module."""
    programs: tuple[str, ...] = ()
    """Files of the programs to measure; none is the target's own."""
    model: str = ""
    """The LM's model string; empty is what the target configures."""
    reflection_model: str = ""
    """Likewise, of the reflection."""
    lm: dict[str, str] = field(default_factory=dict)
    """Arguments of `dspy.LM`."""
    price: str = ""
    """US dollars per million prompt and completion tokens, 'prompt,completion', where the price is not known."""
    offline: bool = False
    """Whether the built-in text model answers."""
    options: dict[str, str] = field(default_factory=dict)
    """Options by name, as text."""
    data: dict[str, str] = field(default_factory=dict)
    """Files or hub names in place of the target's sets."""
    inputs: tuple[str, ...] = ()
    """Fields of these that are inputs."""
    columns: dict[str, str] = field(default_factory=dict)
    """The column of a field, where it has another name."""
    on: str = ""
    """The set to measure on."""
    save: str = ""
    """Where the result is saved; empty saves none beside the run's directory."""
    folder: str = ""
    """Where the command was given."""
    schema_version: int = 1
    """Version of this record."""

    def with_paths(self) -> Job:
        """The job with absolute paths, so that it can be done from elsewhere."""
        return replace(
            self,
            target=_absolute(self.target),
            programs=tuple(map(_absolute, self.programs)),
            data={name: _absolute(source) for name, source in self.data.items()},
            save=str(Path(self.save).expanduser().absolute()) if self.save else "",
            folder=os.getcwd(),
        )


def _absolute(name: str) -> str:
    """The path of a file, which a slice may follow; any other name as it is."""
    path = Path(name.partition("[")[0]).expanduser()
    return str(Path(name).expanduser().absolute()) if path.exists() else name


def read_job(run: Path) -> Job:
    """The command of a run.

    Raises:
        InputError: The directory keeps none, as where the run was started from Python.
    """
    path = run / FILE
    if not path.is_file():
        raise InputError(
            f"{run} was not started by trgrpo: it has no {FILE}. Run the same lines of Python again with "
            f"log_dir={str(run)!r}"
        )
    try:
        return Job.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: {error}") from error
