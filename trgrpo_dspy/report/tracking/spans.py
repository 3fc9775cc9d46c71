"""Stage and step of a run on OpenTelemetry spans, whoever makes the spans.

    from trgrpo_dspy.report.tracking.spans import StageAttributes

    tracer_provider.add_span_processor(StageAttributes())

Instrumentation of DSPy, of an HTTP client or of the user's own tools makes spans; every span that starts within a run
gets `trgrpo.stage`, `trgrpo.step` and, within an attempt, `trgrpo.example` and `trgrpo.attempt` (of the metric's own
calls also `trgrpo.role`). They are read from DSPy's settings, which follow the work into threads and tasks; nothing is
put into OpenTelemetry's context or baggage, so nothing travels to a provider in a header.
"""

from __future__ import annotations

from typing import Any

import dspy

from trgrpo_dspy.engine.calls.units import UNIT, Unit

__all__ = ["StageAttributes", "labels_here"]


def labels_here() -> dict[str, str | int]:
    """Stage, step, example and attempt of the work that is under way in this context; empty outside of a run."""
    unit = dspy.settings.get(UNIT)
    return unit.labels if isinstance(unit, Unit) else {}


class StageAttributes:
    """An OpenTelemetry span processor; it needs no import of OpenTelemetry."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Put the labels on a span that starts."""
        for name, value in labels_here().items():
            span.set_attribute(f"trgrpo.{name}", value)

    def _on_ending(self, span: Any) -> None:
        """Newer SDKs call it before a span ends."""

    def on_end(self, span: Any) -> None:
        """Leave a span that ended as it is."""

    def shutdown(self) -> None:
        """There is nothing to close."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """There is nothing to send."""
        return True
