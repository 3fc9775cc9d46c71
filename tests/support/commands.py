"""The command `trgrpo`, run in this process."""

from __future__ import annotations

from collections.abc import Callable

from typer.testing import CliRunner, Result

from trgrpo_dspy.cli.app import app

Command = Callable[..., Result]


def command(*words: str, code: int = 0) -> Result:
    """Run a command in this process; its exit code is checked."""
    done = CliRunner().invoke(app, list(words), prog_name="trgrpo")
    assert done.exit_code == code, f"{words}: {done.exit_code}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.output
    return done
