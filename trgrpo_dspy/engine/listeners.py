"""A listener of the engine's own: notices as log lines."""

from __future__ import annotations

import logging

from trgrpo_dspy.events import Event, Notice

__all__ = ["log_notice"]

logger = logging.getLogger(__name__)


def log_notice(event: Event) -> None:
    """Log the sentences that the user should read while the run goes on."""
    if isinstance(event, Notice):
        logger.log(logging.WARNING if event.level == "warning" else logging.INFO, "%s", event.text)
