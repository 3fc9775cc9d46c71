"""The charts of a run as SVG and PNG files, drawn by matplotlib (extra `report`).

Guarantees: equal runs give equal SVG files; no global state of matplotlib is changed; a figure made with the offline
model says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .charts import Curve, curves
from .grid import LEVELS, Grid, grids
from .history import RunHistory, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["write_figures"]

_COLOURS = {"validation": "#0b5c8a", "training": "#bd6a00"}
_MARKS = {"validation": "o", "training": "s"}
_RAMP = ("#efd5bd", "#ecdac8", "#e6dfd8", "#d8e1e5", "#bfd7e3", "#a2c9dd", "#82b7d3", "#60a2c5", "#4089b2", "#266e9a", "#10527d")  # fmt: skip  # noqa: E501
_STYLE: Any = {
    "font.size": 9, "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#8a8f96", "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.grid": True,
    "axes.grid.axis": "y", "grid.color": "#e2dfd8", "axes.axisbelow": True, "legend.frameon": False,
    "svg.hashsalt": "trgrpo-dspy", "text.parse_math": False,
}  # fmt: skip


def write_figures(log_dir: str | os.PathLike[str], directory: str | os.PathLike[str] | None = None) -> tuple[Path, ...]:
    """Write the learning curves and the scores of all examples, each as SVG and PNG; return the files.

    Args:
        log_dir: The run's directory.
        directory: Where the files go; None is `figures` in the run's directory.

    Raises:
        ImportError: matplotlib is not installed.
        OSError: There is no log of events, or a file can't be written.
        JournalError: The log holds no run yet, or can't be read.
    """
    history = read_run(log_dir)
    folder = history.log_dir / "figures" if directory is None else Path(directory).expanduser()
    returned = history.ended.step if history.ended is not None else None
    files: list[Path] = []
    for curve in curves(history):
        name = curve.name.replace(" ", "_")
        files += _write(history, folder / name, (5.6, 3.2), partial(_draw_curve, curve=curve, returned=returned))
    for grid in grids(history):
        size = (max(3.0, min(20.0, 1.6 + 0.34 * len(grid.columns))), min(20.0, 1.4 + 0.1 * len(grid.rows)))
        files += _write(history, folder / f"{grid.name}_examples", size, partial(_draw_grid, grid=grid))
    return tuple(files)


def _write(
    history: RunHistory, path: Path, size: tuple[float, float], draw: Callable[[Axes], object]
) -> tuple[Path, Path]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'trgrpo-dspy[report]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        if history.offline:
            figure.supxlabel("offline model: a built-in n-gram model, not an LLM", fontsize=7, color="#5a626c")
        svg, png = path.with_suffix(".svg"), path.with_suffix(".png")
        figure.savefig(svg, metadata={"Date": None})
        figure.savefig(png, dpi=200)
    return svg, png


def _draw_curve(axes: Axes, curve: Curve, returned: int | None) -> None:
    from matplotlib.ticker import MaxNLocator

    for name, points in curve.series.items():
        style: dict[str, Any] = {"color": _COLOURS[name], "marker": _MARKS[name], "label": name}
        axes.plot([p.step for p in points], [p.value for p in points], **style)
        for p in points:
            if p.low is not None and p.high is not None:
                axes.plot([p.step] * 2, [p.low, p.high], color=_COLOURS[name], alpha=0.5, linewidth=1.2)
    if returned in curve.steps:
        axes.axvline(returned, color="#5a626c", linestyle=":", linewidth=1.2, label="returned library")
    axes.set_title(curve.title)
    axes.set_xlabel("library after step (0: the input)")
    axes.set_ylabel(curve.unit)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()


def _draw_grid(axes: Axes, grid: Grid) -> None:
    from matplotlib.colors import ListedColormap

    none = float("nan")
    levels = [[none if c is None or c.level is None else c.level for c in row.cells] for row in grid.rows]
    across, down = range(len(grid.columns)), range(len(grid.rows))
    colours: dict[str, Any] = {"cmap": ListedColormap(_RAMP), "vmin": -0.5, "vmax": LEVELS + 0.5}
    axes.pcolormesh(across, down, levels, edgecolors="white", linewidth=0.6, **colours)
    axes.invert_yaxis()
    for y, row in enumerate(grid.rows):
        for x, cell in enumerate(row.cells):
            if cell is not None and cell.change:
                mark, dark = ("^" if cell.change == "fixed" else "v"), (cell.level or 0) >= LEVELS - 2
                axes.plot(x, y, mark, color="#ffffff" if dark else "#1a1d21", markersize=3)
    axes.grid(False)
    axes.set_title(f"{grid.name.capitalize()} examples")
    axes.set_xticks(across, grid.columns, rotation=90 if len(grid.columns) > 4 else 0)
    axes.set_ylabel("example (up: fixed, down: broken)")
    shown = down[:: max(1, len(grid.rows) // 20)]
    axes.set_yticks(shown, [str(grid.rows[i].example) for i in shown])
