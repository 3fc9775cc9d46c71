"""The figures published for Training-Free GRPO (arXiv 2510.08191), as data. In percent."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "FIGURES",
    "LEARNING",
    "MODEL",
    "REFERENCE",
    "SOURCE",
    "Figure",
    "Learning",
    "gain",
    "learning",
    "others",
    "published",
]

SOURCE = "arXiv 2510.08191"
MODEL = "DeepSeek-V3.1-Terminus"
"""The model of all figures that name no other."""
LEARNING = (
    "100 problems, 3 epochs, group size 5 (web 3), temperature 0.7 (0.3 for evaluation); in mathematics 38M input and "
    "6.6M output tokens, about $18"
)
"""What learning took there."""
REFERENCE = "replies of at most 16,384 tokens, top_p 0.95, agents of at most 50 (math) and 20 (web) steps"
"""Settings that the paper does not name and its code has."""
FINE_TUNED = "fine-tuned 32B, about $10,000"


@dataclass(frozen=True)
class Figure:
    """One published figure."""

    task: str
    """"math" or "web"."""
    mode: str
    """"direct" or "agent"."""
    arm: str
    """The program: an arm of ours, or a name of its own."""
    data_set: str
    measure: str
    """"Mean@32", "pass@1" or "pass@3"."""
    percent: float
    model: str = MODEL


def _row(task: str, mode: str, arm: str, columns: tuple[tuple[str, str], ...], *percents: float) -> list[Figure]:
    return [Figure(task, mode, arm, *column, percent) for column, percent in zip(columns, percents, strict=True)]


def _other(task: str, name: str, columns: tuple[tuple[str, str], ...], model: str, *percents: float) -> list[Figure]:
    return [Figure(f.task, f.mode, f.arm, f.data_set, f.measure, f.percent, model)
            for f in _row(task, "agent", name, columns, *percents)]  # fmt: skip


@dataclass(frozen=True)
class Learning:
    """What a published learning took."""

    cost: float
    """US dollars."""
    prompt_tokens: float | None = None
    """None where it was not published."""
    completion_tokens: float | None = None


_AIME = (("AIME24", "Mean@32"), ("AIME25", "Mean@32"))
_WEB = (("WebWalkerQA", "pass@1"),)
_WEB_51 = (("WebWalkerQA (51)", "pass@1"), ("WebWalkerQA (51)", "pass@3"))
FIGURES: tuple[Figure, ...] = (
    *_row("math", "direct", "input", _AIME, 68.6, 52.9),
    *_row("math", "direct", "full", _AIME, 72.6, 54.0),
    *_row("math", "agent", "input", _AIME, 80.0, 67.9),
    *_row("math", "agent", "written", _AIME, 79.8, 67.3),
    *_row("math", "agent", "label-free", _AIME, 80.7, 68.9),
    *_row("math", "agent", "single", _AIME, 80.4, 69.3),
    *_row("math", "agent", "full", _AIME, 82.7, 73.3),
    *_other("math", "ReTool", _AIME, FINE_TUNED, 67.0, 49.3),
    *_other("math", "AFM", _AIME, FINE_TUNED, 66.7, 59.8),
    *_row("web", "agent", "input", _WEB, 63.2),
    *_row("web", "agent", "full", _WEB, 67.8),
    *_row("web", "agent", "input", _WEB_51, 66.7, 74.5),
    *_row("web", "agent", "written", _WEB_51, 64.7, 76.5),
    *_row("web", "agent", "label-free", _WEB_51, 66.7, 78.4),
    *_row("web", "agent", "full", _WEB_51, 68.6, 78.4),
    *_other("web", "ReAct", _WEB_51, "QwQ-32B", 27.5, 43.1),
    *_other("web", "ReAct with Training-Free GRPO", _WEB_51, "QwQ-32B", 25.5, 45.1),
)


def published(task: str, mode: str, arm: str, data_set: str, measure: str) -> float | None:
    """The figure of an arm, in percent; None where none was published."""
    key = (task, mode, arm, data_set, measure, MODEL)
    found = [f.percent for f in FIGURES if (f.task, f.mode, f.arm, f.data_set, f.measure, f.model) == key]
    return found[0] if found else None


def gain(task: str, mode: str, arm: str, data_set: str, measure: str) -> float | None:
    """The published figure of an arm minus the input program's, in points; None for the input program itself."""
    after, before = (published(task, mode, name, data_set, measure) for name in (arm, "input"))
    return None if arm == "input" or after is None or before is None else round(after - before, 1)


def learning(task: str, mode: str, arm: str) -> Learning | None:
    """What the published learning of an arm, or of another model in `others`, took; None where it was not published."""
    if (task, mode, arm) == ("math", "agent", "full"):
        return Learning(18.0, 38e6, 6.6e6)
    return Learning(10_000.0) if FINE_TUNED in arm else None


def others(task: str, data_set: str) -> dict[str, dict[str, float]]:
    """Published figures of other models on a data set: name with model, then percent by measure."""
    rows: dict[str, dict[str, float]] = {}
    for f in FIGURES:
        if (f.task, f.data_set) == (task, data_set) and f.model != MODEL:
            rows.setdefault(f"{f.arm} ({f.model})", {})[f.measure] = f.percent
    return rows
