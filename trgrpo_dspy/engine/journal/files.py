"""Files of a run: whole or not at all, and readable by their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

from trgrpo_dspy.errors import JournalError

__all__ = ["create_private", "unwritable", "write_atomically"]


def create_private(path: Path) -> None:
    """Make an empty file for its owner alone, or take it from all others.

    Raises:
        OSError: It can't be written.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never a part.

    Raises:
        JournalError: It can't be written.
    """
    scratch = path.with_name(f".{path.name}.tmp")  # one process a directory: what a killed one left is overwritten
    try:
        create_private(scratch)
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(scratch, path)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> JournalError:
    """The error for a file that can't be written."""
    return JournalError(
        f"{path.name} in {str(path.parent)!r} can't be written: {error.strerror or error}; make room or mend the "
        "directory and run again with the same log_dir"
    )
