"""Stage and step on the spans of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from support.scripted import Triage, examples, scripted_lm, told

from trgrpo_dspy import TrainingFreeGRPO
from trgrpo_dspy.report.tracking.spans import StageAttributes, labels_here

pytest.importorskip("opentelemetry.sdk", reason="OpenTelemetry's SDK is not installed")
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


@pytest.fixture
def spans() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(StageAttributes())
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.force_flush()
    provider.shutdown()


def learn(program: dspy.Module, metric: Any = told) -> None:
    optimizer = TrainingFreeGRPO(metric=metric, group_size=2, num_epochs=1, num_threads=4)
    optimizer.compile(program, trainset=examples(3), valset=examples(2, start=8))


def labels(exporter: InMemorySpanExporter, name: str = "") -> Counter[tuple[Any, ...]]:
    keys = ("stage", "step", "example", "attempt", "role")
    found = [dict(span.attributes or {}) for span in exporter.get_finished_spans() if name in span.name]
    return Counter(tuple(one.get(f"trgrpo.{key}") for key in keys) for one in found)


ATTEMPTS = {
    *(("rollout", 1, example, attempt, None) for example in range(3) for attempt in range(2)),
    *(("validation", step, example, 0, None) for step in (0, 1) for example in range(2)),
}


def test_spans_of_the_users_own_are_labelled_within_a_run_only(spans: Any) -> None:
    provider, exporter = spans
    tracer = provider.get_tracer("tests")

    class Traced(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.route = dspy.Predict(Triage)

        def forward(self, ticket: str) -> Any:
            with tracer.start_as_current_span("own"):
                return self.route(ticket=ticket)

    def judged(example: Any, prediction: Any, trace: Any = None) -> Any:
        with tracer.start_as_current_span("metric"):
            return told(example, prediction)

    with dspy.context(lm=scripted_lm()):
        learn(Traced(), judged)
        with tracer.start_as_current_span("outside"):
            assert labels_here() == {}
    assert labels(exporter, "own") == dict.fromkeys(ATTEMPTS, 1)
    assert labels(exporter, "metric") == dict.fromkeys([(*where[:4], "judge") for where in ATTEMPTS], 1)
    assert labels(exporter, "outside") == {(None,) * 5: 1}


def test_spans_of_openinference_are_labelled(spans: Any) -> None:
    openinference = pytest.importorskip("openinference.instrumentation.dspy", reason="openinference is not installed")
    wrapt = pytest.importorskip("wrapt")
    provider, exporter = spans
    instrumentor = openinference.DSPyInstrumentor()
    instrumentor.instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        with dspy.context(lm=scripted_lm()):
            learn(dspy.Predict(Triage))
    finally:
        for module, name in reversed(instrumentor._originals):  # its own way takes DSPy's callbacks away as well
            owner, attribute, wrapper = wrapt.resolve_path(module, name)
            setattr(owner, attribute, wrapper.__wrapped__)
        instrumentor._originals.clear()
        instrumentor.uninstrument()
    found = labels(exporter, "LM.__call__")
    assert {where for where in found if where[2] is not None} == ATTEMPTS
    assert {where[:2] for where in found} - {where[:2] for where in ATTEMPTS} == {
        ("comparison", 1), ("consolidation", 1), ("check", 1)
    }  # fmt: skip
