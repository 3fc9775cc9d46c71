"""What `compile`, `evaluate` and `compare` were asked to do, as a record that a run's directory keeps for `resume`.

It holds no key: models are kept by their names, and settings that look like a secret are refused before.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trgrpo_dspy.library.saved import Saved

from .errors import InputError

__all__ = ["FILE", "SETS", "Job", "asked", "names", "option_texts", "pairs", "read_job"]

FILE = "command.json"
"""The record's name in a run's directory."""
SETS = ("trainset", "valset", "testset")


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

    def with_paths(self) -> Job:
        """The job with absolute paths, so that it can be done from elsewhere; one that has them stays."""
        if self.folder:
            return self
        return replace(
            self,
            target=_absolute(self.target),
            programs=tuple(map(_absolute, self.programs)),
            data={name: _absolute(source) for name, source in self.data.items()},
            save=str(Path(self.save).expanduser().absolute()) if self.save else "",
            folder=os.getcwd(),
        )


def asked(verb: str, target: str, given: Mapping[str, Any], programs: tuple[str, ...] = (), save: str = "") -> Job:
    """The job of a verb's arguments, which are named as in `arguments.takes`."""
    on = given.get("on", "").removesuffix("set")
    if on not in ("", "train", "val", "test"):
        raise InputError(f"--on {given['on']}: train, val or test is wanted")
    named = {"auto": given.get("auto"), "k": given.get("k"), "budget.max_cost": given.get("max_cost")}
    return Job(
        verb,
        target,
        programs,
        model=given["model"],
        reflection_model=given.get("reflection_model", ""),
        lm=pairs(given["lm"], "--lm"),
        price=given.get("price", ""),
        offline=given["offline"],
        options=option_texts(given["set_"], named),
        data={name: given[name] for name in SETS if given.get(name)},
        inputs=names(given["inputs"]),
        columns=pairs(names(given["columns"]), "--columns"),
        on=on,
        save=save,
    )


def option_texts(texts: list[str], named: Mapping[str, Any]) -> dict[str, str]:
    """What was given with --set, and by options of their own."""
    found = pairs(texts, "--set")
    for name, value in named.items():
        if value in (None, ""):
            continue
        if name in found:
            raise InputError(f"{name} is given twice, by --set and by its own option; leave one out")
        found[name] = str(value)
    return found


def pairs(texts: list[str] | tuple[str, ...], option: str) -> dict[str, str]:
    """`name=value` texts by name."""
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not sign or not name:
            raise InputError(f"{option} {text}: write {option} name=value")
        if name in found:
            raise InputError(f"{option} {name} is given twice; leave one out")
        found[name] = value.strip()
    return found


def names(text: str) -> tuple[str, ...]:
    """The names in a text, parted by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _absolute(name: str) -> str:
    """The path of a file, which a slice may follow; any other name as it is."""
    path = Path(name.partition("[")[0]).expanduser()
    return str(Path(name).expanduser().absolute()) if path.exists() else name


def read_job(run: Path) -> Job:
    """The command of a run; an `InputError` where the run was started from Python and has none."""
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
