"""Charts of a run as files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from trgrpo_dspy.report import RunHistory
from trgrpo_dspy.report.charts import curves, gain_bar, nice_ticks, plot
from trgrpo_dspy.report.figures import write_figures


def test_charts_are_written_twice_alike_and_a_missing_extra_is_named(
    run: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    first, again = (write_figures(run[0], tmp_path / name) for name in ("a", "b"))
    charts = ("score", "tokens", "training_examples", "validation_examples")
    assert {path.name for path in first} == {f"{name}.{kind}" for name in charts for kind in ("svg", "png")}
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, again, strict=True) if a.suffix == ".svg")
    assert all(ElementTree.parse(path).getroot().tag.endswith("svg") for path in first if path.suffix == ".svg")

    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'trgrpo-dspy\[report\]'"):
        write_figures(run[0])


def test_the_curve_holds_what_was_measured(run: tuple[Path, Any], history: RunHistory) -> None:
    score, tokens = curves(history)
    means = {m.step: (pytest.approx(m.mean.value), m.mean.n) for m in run[1].measured}
    assert {p.step: (p.value, p.n) for p in score.series["validation"]} == means
    spent = {m.step: pytest.approx(m.tokens) for m in run[1].measured}
    assert {p.step: p.value for p in tokens.series["validation"]} == spent
    for step in history.steps:  # training attempts of a step are made with the library before it
        point, scored = score.at("training", step.step - 1), [g.score for g in step.groups if g.score is not None]
        assert point is not None and point.value == pytest.approx(sum(scored) / len(scored))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 0.0), (0.0, 1.0), (-3.0, 250.0), (0.0, 1e-6), (5e8, 5e8), (0.2, 0.20001)]
)
def test_ticks_are_few_and_hold_the_range(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 9


def test_a_chart_of_one_point_and_a_gain_without_interval(history: RunHistory) -> None:
    score = curves(history)[0]
    single = replace(score, series={"validation": score.series["validation"][:1]})
    drawn = plot(single, 7)
    assert drawn.returned is None and drawn.lines[0].band == "" and "nan" not in drawn.lines[0].path
    assert gain_bar(None, (0.0, 1.0)) is None and gain_bar(0.1, None) is None
    bar = gain_bar(0.1, (-0.2, 0.4))
    assert bar is not None and bar.low < bar.zero < bar.gain < bar.high
