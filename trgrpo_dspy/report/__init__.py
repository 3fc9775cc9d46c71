"""What a run did, read from its log directory, and what shows it: the report, figures, trackers."""

from .figures import write_figures
from .history import RunHistory, read_run
from .html import write_report
from .records import EntryHistory

__all__ = ["EntryHistory", "RunHistory", "read_run", "write_figures", "write_report"]
