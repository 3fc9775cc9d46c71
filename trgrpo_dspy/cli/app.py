"""The command `trgrpo`: its verbs, put together, and how it ends.

Guarantees: asking for help imports no DSPy; an error is one line on standard error with an exit code (`EXIT_CODES`).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trgrpo_dspy import __version__

from .console import line, note
from .errors import EXIT_CODES
from .history_verbs import report, watch, why
from .library_verbs import apply, diff_, edit, export, import_, show_
from .problems import problem_of
from .run_verbs import compare, compile_, evaluate, resume
from .setup_verbs import doctor, estimate, init, options

__all__ = ["app", "main"]

VERBS = (
    *(init, doctor, options, estimate, compile_, evaluate, compare, resume),
    *(why, watch, report, show_, diff_, edit, apply, export, import_),
)
_EXITS = "\n".join(f"{code.value:>3}  {meaning}" for code, meaning in EXIT_CODES.items())


class _Commands(TyperGroup):
    """Says errors in one line, with the exit code that belongs to them."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> Any:
        """Run a command and leave the process, as typer does; `--debug` may stand anywhere."""
        given = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in given or bool(os.environ.get("TRGRPO_DEBUG"))
        given = [word for word in given if word != "--debug"]
        given = given if given or "_TRGRPO_COMPLETE" in os.environ else ["--help"]
        for stream in (sys.stdout, sys.stderr):
            if callable(set_up := getattr(stream, "reconfigure", None)):
                set_up(errors="backslashreplace")  # a terminal without UTF-8 still shows everything
        try:
            code = super().main(given, *rest, **{**settings, "standalone_mode": False})
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has what it wants
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except (Exception, KeyboardInterrupt) as error:
            if debug:
                traceback.print_exc()
            problem = problem_of(error)
            note(f"trgrpo: {problem.text}")
            sys.exit(problem.code)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=_Commands,
    name="trgrpo",
    help=(
        "Improve a DSPy program by experiences in its instructions, and look after what was learned.\n\n"
        "First steps: `trgrpo init my_task.py`, then `trgrpo compile my_task.py --offline`. `trgrpo VERB --help` shows "
        f"an example of each verb.\n\n\b\nExit codes:\n{_EXITS}"
    ),
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in VERBS:
    app.command(verb.__name__.rstrip("_"))(verb)


def _version(asked: bool) -> None:
    if asked:
        line(f"trgrpo {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere.")] = False,
) -> None: ...


def main() -> None:
    """Run the command."""
    app(prog_name="trgrpo")
