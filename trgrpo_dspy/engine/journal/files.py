"""Files of a run: whole or not at all, readable by their owner alone, and of one process at a time."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import filelock

from trgrpo_dspy.errors import JournalError

__all__ = ["DirectoryLock", "create_private", "unwritable", "write_atomically"]


def create_private(path: Path) -> None:
    """Make an empty file for its owner alone, or take it from all others."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if path.stat().st_mode & 0o077:
        with suppress(OSError):  # some mounted file systems have one mode for all files
            path.chmod(0o600)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never a part; or raise `JournalError`."""
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


class DirectoryLock:
    """The right to write into a directory. It ends with the process, however that ends."""

    def __init__(self, directory: Path) -> None:
        """Take it, or raise `JournalError`: another process has it, or the directory can't be written."""
        self._pid = directory / "run.pid"
        self._lock = filelock.FileLock(
            directory / "run.lock", timeout=0, mode=0o600, is_singleton=False, thread_local=False
        )
        try:
            self._lock.acquire()
            create_private(self._pid)
            self._pid.write_text(f"{os.getpid()}\n", encoding="ascii")
        except filelock.Timeout:
            pid = self._pid.read_text(encoding="ascii").strip() if self._pid.exists() else "unknown"
            raise JournalError(
                f"log_dir={str(directory)!r} is in use by process {pid}; wait for it, stop it, or pass "
                "another directory"
            ) from None
        except OSError as error:
            self._lock.release()
            raise JournalError(
                f"log_dir={str(directory)!r} can't be written: {error.strerror or error}; pass another directory"
            ) from error

    def release(self) -> None:
        """Give it back."""
        try:
            self._pid.unlink(missing_ok=True)
        finally:  # Ctrl-C may come here: the session no longer catches it
            self._lock.release()
