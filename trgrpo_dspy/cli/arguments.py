"""The arguments that several verbs share, each said once."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .errors import InputError
from .sources import RUNS, is_run

__all__ = [
    "AsJson",
    "Auto",
    "Columns",
    "Format",
    "Inputs",
    "LMArguments",
    "LogDir",
    "MaxCost",
    "Model",
    "Offline",
    "Out",
    "Price",
    "ReflectionModel",
    "Run",
    "Set",
    "Target",
    "Testset",
    "Trainset",
    "Valset",
    "column_names",
    "given",
    "names",
    "option_texts",
    "pairs",
]


def _runs_beginning(incomplete: str) -> list[str]:
    return [str(path) for path in sorted(RUNS.glob("*")) if is_run(path) and str(path).startswith(incomplete)]


def _options_beginning(incomplete: str) -> list[str]:
    from trgrpo_dspy.learning.options import LearningOptions

    from .settings import texts_of

    return [f"{text.name}=" for text in texts_of(LearningOptions) if text.name.startswith(incomplete)]


_DATA = "in place of the target's: a .jsonl, .json, .csv or .parquet file, or owner/name:split on the hub"

Target = Annotated[str, typer.Argument(help="A .py file or module with program, metric, trainset, valset, testset.")]
Model = Annotated[str, typer.Option(help="The LM, as LiteLLM names it: openai/gpt-4o-mini. Keys: the environment.")]
ReflectionModel = Annotated[str, typer.Option(help="The LM that reflects; by default the same.")]
LMArguments = Annotated[
    list[str], typer.Option("--lm", metavar="NAME=VALUE", help="An argument of dspy.LM, such as api_base=http://...")
]
Offline = Annotated[bool, typer.Option("--offline", help="Use the built-in model, no LLM: no key, no network.")]
Set = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any option by name; `trgrpo options` lists them.",
        autocompletion=_options_beginning,
    ),
]
Auto = Annotated[str, typer.Option(metavar="light|medium|heavy", help="How much to spend on learning.")]
MaxCost = Annotated[float | None, typer.Option(help="US dollars at most.")]
Price = Annotated[
    str,
    typer.Option(metavar="PROMPT,REPLY", help="US dollars per million tokens, if the model's price is unknown."),
]
LogDir = Annotated[str, typer.Option(help="The run's directory.")]
Trainset = Annotated[str, typer.Option(metavar="DATA", help=f"Training examples {_DATA}.")]
Valset = Annotated[str, typer.Option(metavar="DATA", help="Validation examples, likewise.")]
Testset = Annotated[str, typer.Option(metavar="DATA", help=f"Test examples {_DATA}.")]
Inputs = Annotated[str, typer.Option(metavar="NAME,NAME", help="Fields that are inputs; by default the program's.")]
Columns = Annotated[
    str, typer.Option(metavar="FIELD=COLUMN,...", help="The column of a field, where the data name it otherwise.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON for a script.")]
Run = Annotated[
    str | None,
    typer.Argument(help="A run's directory; by default the newest in runs/.", autocompletion=_runs_beginning),
]
Format = Annotated[str, typer.Option(help="Format of the file; by default guessed. `trgrpo export --help` lists them.")]
Out = Annotated[str, typer.Option("--out", "-o", help="Where to write; by default the screen.")]


def option_texts(texts: list[str], **named: Any) -> dict[str, str]:
    """What was given with --set, and by options of their own; `__` stands for a dot."""
    found = pairs(texts, "--set")
    for name, value in named.items():
        name = name.replace("__", ".")
        if value in (None, ""):
            continue
        if name in found:
            raise InputError(f"{name} is given twice, by --set and by its own option; leave one out")
        found[name] = str(value)
    return found


def pairs(texts: list[str], option: str) -> dict[str, str]:
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


def given(**data: str) -> dict[str, str]:
    """Those of the named texts that were given."""
    return {name: source for name, source in data.items() if source}


def column_names(text: str) -> dict[str, str]:
    """Columns by the names of the fields."""
    return pairs(list(names(text)), "--columns")


def names(text: str) -> tuple[str, ...]:
    """The names in a text, parted by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
