"""How a command that failed ends: its exit code, and one line that says what went wrong and what to do.

Guarantees: no traceback unless `--debug` is given; no secret is shown.
"""

from __future__ import annotations

from typing import NamedTuple

from trgrpo_dspy.errors import FatalError, InfrastructureError, TrainingFreeGRPOError
from trgrpo_dspy.failures.messages import describe
from trgrpo_dspy.failures.redaction import redact
from trgrpo_dspy.failures.secrets import blank

from .errors import ExitCode, InputError

__all__ = ["Problem", "problem_of"]


class Problem(NamedTuple):
    """What is said of an error, and what is returned to the shell."""

    text: str
    code: ExitCode


def problem_of(error: BaseException) -> Problem:
    """What to say of an error, in one line."""
    if isinstance(error, KeyboardInterrupt):
        return Problem("interrupted", ExitCode.INTERRUPTED)
    if callable(usage := getattr(error, "format_message", None)):  # an error in the use of a command, typer's own
        path = getattr(getattr(error, "ctx", None), "command_path", "")
        said = _line(usage())
        said += "" if said[-1:] in ".?)" else "."
        return Problem(said + (f" See: {path} --help" if path else ""), ExitCode.INPUT)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return Problem(_line(f"{where}{error.strerror}"), ExitCode.INPUT)
    if isinstance(error, (FatalError, InfrastructureError)):  # redacted already, but for advice such as 'api_key=...'
        return Problem(blank(" ".join(str(error).split())), ExitCode.FAILED)
    if isinstance(error, KeyError) and error.args:  # whose text is quoted
        return Problem(_line(str(error.args[0])), ExitCode.INPUT)
    if isinstance(error, (InputError, TrainingFreeGRPOError, ImportError, TypeError, ValueError)):
        return Problem(_line(str(error)), ExitCode.INPUT)
    return Problem(f"unexpected {describe(error)}; --debug shows where", ExitCode.FAILED)


def _line(text: str) -> str:
    return redact(" ".join(text.split()))
