"""How an attempt can end, and which ends carry a score."""

from __future__ import annotations

import enum

__all__ = ["Outcome"]


class Outcome(str, enum.Enum):
    """How an attempt ended. The first four carry a score; the others are unscored."""

    COMPLETED = "completed"
    """The program answered and the metric scored the answer."""
    PROGRAM_ERROR = "program_error"
    """The program raised; it gets the failure score."""
    PARSE_ERROR = "parse_error"
    """A reply could not be parsed into the predictor's fields; it gets the failure score."""
    CONTEXT_WINDOW = "context_window"
    """The prompt did not fit the model; it gets the failure score."""
    INFRASTRUCTURE = "infrastructure"
    """An outage (rate limit, timeout, transport, server error, a tool's dead connection): unscored."""
    METRIC_ERROR = "metric_error"
    """The metric raised, or returned None, NaN or something that is no score: unscored."""
    LABEL_FREE = "label_free"
    """Answered, in a run without a metric: there is nothing to score."""

    @property
    def failed(self) -> bool:
        """Whether the program itself failed (a verdict: the attempt gets the failure score)."""
        return self in (Outcome.PROGRAM_ERROR, Outcome.PARSE_ERROR, Outcome.CONTEXT_WINDOW)

    @property
    def scoreless(self) -> bool:
        """Whether a score was wanted and there is none."""
        return self in (Outcome.INFRASTRUCTURE, Outcome.METRIC_ERROR)
