"""What an experiment found, as pictures: SVG and PNG beside `report.md` (matplotlib, extra `report`).

`learning-curve` has the score by step, `tool-calls` the tool calls by step, both in training and on the data sets;
`cost` has the score against LM calls and dollars; `flips` has every problem before and after. All bars are 95%
intervals over problems. The same report gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .plan import ARMS, arm_name, base
from .records import Band, Cell, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PICTURES", "draw"]

PICTURES = {
    "learning-curve": "Score by step",
    "tool-calls": "Tool calls by step",
    "cost": "Score against LM calls and dollars",
    "flips": "Every problem before and after",
}
"""File names and titles."""
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
_GREY = "#999999"
_MARKERS = "osD^v"
"""One for each of `ARMS`."""
_SCORES = (-2, 102)
"""Ends of an axis of scores in percent, with room for the ends of an interval."""
_MOST_FLIPS = 60
"""Problems one panel shows at most: beyond it the equal ones are left out, then those that differ least."""


def draw(out: Path, report: Report) -> list[str]:
    """Draw what the report has figures for; return the names of the pictures, none without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return []
    painters: dict[str, Callable[[Any, Report], bool]] = {
        "learning-curve": _learning_curve, "tool-calls": _tool_calls, "cost": _cost, "flips": _flips,
    }  # fmt: skip
    drawn = []
    # The salt and the absent date make the bytes of an SVG depend on nothing but the figures.
    with rc_context(
        {
            "svg.hashsalt": "trgrpo",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    ):
        for name, paint in painters.items():
            figure = Figure(layout="constrained")
            if not paint(figure, report):
                continue
            mark = "\nOFFLINE: n-gram model, no LLM: means nothing" if report.plan.offline else ""
            figure.suptitle(f"{PICTURES[name]}{mark}", fontsize=11)
            figure.savefig(out / f"{name}.svg", metadata={"Date": None})
            figure.savefig(out / f"{name}.png", dpi=150)
            drawn.append(name)
    return drawn


def _learning_curve(figure: Figure, report: Report) -> bool:
    train = [(p.arm, p.step, _percent(Band(p.train_mean, p.train_low, p.train_high))) for p in report.curve]
    return _by_step(figure, report, train, lambda c: _percent(Band(c.mean, c.low, c.high)), "mean score, %", _SCORES)


def _tool_calls(figure: Figure, report: Report) -> bool:
    train = [(p.arm, p.step, p.tools) for p in report.curve]
    return report.plan.uses_tools and _by_step(
        figure, report, train, lambda c: c.tools, "tool calls of an attempt", (0, None)
    )


def _by_step(
    figure: Figure,
    report: Report,
    train: Iterable[tuple[str, int, Band | None]],
    of_cell: Callable[[Cell], Band],
    label: str,
    limits: tuple[float, float | None],
) -> bool:
    """One panel for training and one for each data set, the steps from left to right."""
    if not report.curve:
        return False
    last = {p.arm: p.step for p in report.curve}
    panels: dict[str, list[tuple[str, int, Band | None]]] = {"training": list(train)}
    for name in report.titles:
        cells = [c for c in (*report.cells, *report.along) if c.data_set == name]
        panels[report.plan.label(name)] = [
            (arm, step, of_cell(c))
            for c in cells
            for arm, step in ([(arm, 0) for arm in last] if c.arm == "input" else [(c.arm, c.step or last.get(c.arm))])
            if step is not None
        ]
    axes = _panels(figure, len(panels))
    colours = _colours(report)
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        arms = [arm for arm in report.plan.in_tables if arm in last]
        for place, arm in enumerate(arms):
            shift = 0.08 * (place - (len(arms) - 1) / 2)  # or bars of equal steps would hide each other
            line = sorted((step, band) for a, step, band in points if a == arm and band and band.value is not None)
            _bars(axis, [step + shift for step, _ in line], [band for _, band in line], colours[arm], arm, "-")
        axis.set(title=title, xlabel="step (0: input program)" if title != "training" else "step", ylabel=label)
        axis.set_xticks(range(0 if title != "training" else 1, max(last.values()) + 1))
        axis.set_ylim(*limits)
    _legend(figure, axes)
    return True


def _cost(figure: Figure, report: Report) -> bool:
    panels = [
        (name, attribute, words)
        for name in report.titles
        for attribute, words in (("lm_calls", "LM calls of an attempt"), ("cost", "US dollars of an attempt"))
    ]
    cells = [c for c in report.cells if c.mean is not None]
    if not cells:
        return False
    from matplotlib.transforms import ScaledTranslation

    axes, colours = _panels(figure, len(panels), columns=2), _colours(report)
    for axis, (name, attribute, words) in zip(axes, panels, strict=True):
        axis.set(title=report.plan.label(name), xlabel=words, ylabel="mean score, %")
        axis.set_ylim(*_SCORES)
        known = {c: x for c in cells if c.data_set == name and (x := getattr(c, attribute)) is not None}
        if not any(known.values()):
            axis.text(0.5, 0.5, "it costs nothing" if known else "not known", transform=axis.transAxes, ha="center")
            axis.set_xticks([])
            continue
        for cell, x in known.items():
            # Points with equal calls would hide each other: each program stands a little beside the last one.
            shift = ScaledTranslation(4 / 72 * list(colours).index(cell.arm), 0, figure.dpi_scale_trans)
            band = _percent(Band(cell.mean, cell.low, cell.high))
            _bars(axis, [x], [band], colours[cell.arm], cell.arm, "", transform=axis.transData + shift)
        low, high = min(known.values()), max(known.values())
        room = max(0.2 * (high - low), 0.05 * high)
        axis.set_xlim(low - room, high + room)  # shifted points are not in the axis's own reckoning
    _legend(figure, axes)
    return True


def _flips(figure: Figure, report: Report) -> bool:
    """The full method beside the input program: an arrow for each problem whose score differs."""
    cells = {(c.arm, c.data_set): c for c in report.cells}
    pairs = [(name, cells["input", name].scores, cells["full", name].scores)
             for name in report.titles if ("input", name) in cells and ("full", name) in cells]  # fmt: skip
    if not pairs:
        return False
    axes = _panels(figure, len(pairs), columns=1)
    for axis, (name, before, after) in zip(axes, pairs, strict=True):
        both = [(i, 100 * b, 100 * a) for i, (b, a) in enumerate(zip(before, after, strict=True))
                if b is not None and a is not None]  # fmt: skip
        flips = sorted((f for f in both if f[1] != f[2]), key=lambda f: (-abs(f[2] - f[1]), f[0]))
        drawn = both if len(both) <= _MOST_FLIPS else flips[:_MOST_FLIPS]
        shown = sorted(drawn, key=lambda f: (f[1] - f[2], f[0]))
        for x, (_, low, high) in enumerate(shown):
            colour = _GREY if high == low else _COLOURS[0] if high > low else _COLOURS[1]
            arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "shrinkA": 0, "shrinkB": 0}
            if high != low:
                axis.annotate("", (x, high), (x, low), arrowprops=arrow)
            axis.plot([x], [low], "o", color=colour, ms=3)
        won = sum(a > b for _, b, a in both)
        cut = "" if len(shown) == len(both) else f"; the {len(shown)} that differ most are shown"
        if not shown:
            axis.text(0.5, 0.5, "no problem differs", transform=axis.transAxes, ha="center")
        axis.set(
            title=f"{report.plan.label(name)}: {won} up, {len(flips) - won} down, {len(both) - len(flips)} equal{cut}",
            xlabel="problem (number in the data set)", ylabel="score, % (input to learned)",
        )  # fmt: skip
        axis.set_xticks(range(len(shown)), [str(i + 1) for i, _, _ in shown], rotation=90 if len(shown) > 20 else 0)
        axis.set_xlim(-0.7, max(len(shown), 1) - 0.3)
        axis.set_ylim(*_SCORES)
    return True


# -- what the pictures share -------------------------------------------------------------------------------------------


def _panels(figure: Figure, count: int, columns: int = 3) -> list[Axes]:
    wide = min(count, columns)
    rows = -(-count // wide)
    figure.set_size_inches(max(6.0, 3.6 * wide) if columns > 1 else 9.0, 0.8 + 2.8 * rows)
    grid = figure.subplots(rows, wide, squeeze=False).ravel()
    for unused in grid[count:]:
        unused.remove()
    return list(grid[:count])


def _bars(axis: Axes, x: Sequence[float], bands: Sequence[Band], colour: str, arm: str, line: str, **more: Any) -> None:
    """Points with their intervals; without an interval the point alone."""
    values = [band.value or 0.0 for band in bands]
    below = [0.0 if band.low is None else max(v - band.low, 0.0) for v, band in zip(values, bands, strict=True)]
    above = [0.0 if band.high is None else max(band.high - v, 0.0) for v, band in zip(values, bands, strict=True)]
    marker = _MARKERS[list(ARMS).index(base(arm))]
    axis.errorbar(
        x,
        values,
        yerr=[below, above],
        fmt=marker + line,
        color=colour,
        capsize=2,
        lw=1.2,
        ms=4,
        label=arm_name(arm),
        **more,
    )


def _colours(report: Report) -> dict[str, str]:
    """A colour for each program, the same in every report; further learnings take what is left."""
    further = [arm for arm in report.plan.in_tables if arm not in ARMS]
    return {arm: _COLOURS[i % len(_COLOURS)] for i, arm in enumerate((*ARMS, *further)) if arm in report.plan.in_tables}


def _legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend for all panels, below them."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=3, frameon=False)


def _percent(band: Band) -> Band:
    return Band(*(None if v is None else 100 * v for v in (band.value, band.low, band.high)))
