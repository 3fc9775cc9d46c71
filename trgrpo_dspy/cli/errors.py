"""What a command returns to the shell, and the error for what the user gave."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["EXIT_CODES", "ExitCode", "InputError", "exit_code"]


class ExitCode(IntEnum):
    """What a command returns to the shell."""

    OK = 0
    FAILED = 1
    INPUT = 2
    BUDGET = 3
    INTERRUPTED = 130


EXIT_CODES = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "the run failed: a wrong key, an outage, nothing to score",
    ExitCode.INPUT: "what was given can't be used: arguments, files, a run",
    ExitCode.BUDGET: "a budget ended the run; what was found is kept",
    ExitCode.INTERRUPTED: "Ctrl-C; what was found is kept",
}
"""What each exit code says."""


def exit_code(stop_reason: str) -> ExitCode:
    """What a run that ended for this reason returns to the shell."""
    known = {"completed": ExitCode.OK, "interrupted": ExitCode.INTERRUPTED}
    return known.get(stop_reason, ExitCode.BUDGET if stop_reason.startswith("max_") else ExitCode.FAILED)


class InputError(Exception):
    """What the user gave can't be used; the message is one line and says what to do."""
