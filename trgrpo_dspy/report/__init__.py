"""What a run did, read from its log directory, and the report that shows it."""

from .entries import EntryHistory
from .history import RunHistory, read_run

__all__ = ["EntryHistory", "RunHistory", "read_run"]
