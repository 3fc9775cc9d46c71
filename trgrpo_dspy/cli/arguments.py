"""The arguments that several verbs share, each said once: a verb takes those it names by `takes`."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Annotated, Any, TypeVar

from typer import Argument, Option

from .directories import RUNS, is_run

__all__ = ["Format", "Out", "Run", "Target", "takes"]

Verb = TypeVar("Verb", bound=Callable[..., Any])


def _runs_beginning(incomplete: str) -> list[str]:
    return [str(path) for path in sorted(RUNS.glob("*")) if is_run(path) and str(path).startswith(incomplete)]


def _options_beginning(incomplete: str) -> list[str]:
    from trgrpo_dspy.learning.options import LearningOptions

    from .settings import texts_of

    return [f"{text.name}=" for text in texts_of(LearningOptions) if text.name.startswith(incomplete)]


_RUN = Argument(help="A run's directory; by default the newest in runs/.", autocompletion=_runs_beginning)
Run = Annotated[str | None, _RUN]
Target = Annotated[str, Argument(help="A .py file or module with program, metric, trainset, valset, testset.")]
Format = Annotated[str, Option(help="Format of the file; by default guessed. `trgrpo export --help` lists them.")]
Out = Annotated[str, Option("--out", "-o", help="Where to write; by default the screen.")]

_DATA = "in place of the target's: a .jsonl, .json, .csv or .parquet file, or owner/name:split on the hub"
_SET = Option("--set", metavar="NAME=VALUE", help="Any option by name; `trgrpo options` lists them.")
_SET.autocompletion = _options_beginning
_LM = Option(metavar="NAME=VALUE", help="An argument of dspy.LM, such as api_base=http://...")
_PRICE = "US dollars per million tokens, if the model's price is unknown."
_COLUMNS = "The column of a field, where the data name it otherwise."
_SHARED: dict[str, tuple[Any, Any, Any]] = {
    "model": (str, "", Option(help="The LM, as LiteLLM names it: openai/gpt-4o-mini. Keys: the environment.")),
    "reflection_model": (str, "", Option(help="The LM that reflects; by default the same.")),
    "auto": (str, "", Option(metavar="light|medium|heavy", help="How much to spend on learning.")),
    "on": (str, "", Option(metavar="train|val|test", help="The set to measure on; by default test, else val.")),
    "k": (int | None, None, Option("-k", min=1, help="Attempts at each example; by default 1.")),
    "max_cost": (float | None, None, Option(help="US dollars at most.")),
    "price": (str, "", Option(metavar="PROMPT,REPLY", help=_PRICE)),
    "offline": (bool, False, Option("--offline", help="Use the built-in model, no LLM: no key, no network.")),
    "log_dir": (str, "", Option(help="The run's directory.")),
    "set_": (list[str], [], _SET),
    "lm": (list[str], [], _LM),
    "trainset": (str, "", Option(metavar="DATA", help=f"Training examples {_DATA}.")),
    "testset": (str, "", Option(metavar="DATA", help=f"Test examples {_DATA}.")),
    "valset": (str, "", Option(metavar="DATA", help="Validation examples, likewise.")),
    "inputs": (str, "", Option(metavar="NAME,NAME", help="Fields that are inputs; by default the program's.")),
    "columns": (str, "", Option(metavar="FIELD=COLUMN,...", help=_COLUMNS)),
    "json": (bool, False, Option("--json", help="Write JSON for a script.")),
}
"""Type, default and option of each, in the order in which help shows them."""


def takes(names: str) -> Callable[[Verb], Verb]:
    """Give a verb the shared arguments of these names after its own; its `**given` holds them."""
    shared = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        for name, (kind, default, option) in _SHARED.items()
        if name in names.split()
    ]

    def extended(verb: Verb) -> Verb:
        own = signature(verb, eval_str=True)
        kept = [p for p in own.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        verb.__signature__ = own.replace(parameters=[*kept, *shared])  # type: ignore[attr-defined]
        verb.__annotations__ = {p.name: p.annotation for p in (*kept, *shared)}  # what typer reads beside it
        return verb

    return extended
