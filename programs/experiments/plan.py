"""What an experiment is: the arguments that decide its figures, kept beside them, and the limits that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import filelock

from trgrpo_dspy import JournalError
from trgrpo_dspy.engine.journal.files import write_atomically

__all__ = [
    "ABLATIONS",
    "ARMS",
    "EVALUATION_TEMPERATURE",
    "ROLLOUT_TEMPERATURE",
    "Limits",
    "Plan",
    "arm_name",
    "base",
    "claimed",
    "keep_plan",
]

ROLLOUT_TEMPERATURE = 0.7
EVALUATION_TEMPERATURE = 0.3
ARMS = {
    "input": "input program",
    "written": "experiences written directly",
    "label-free": "without ground truth",
    "single": "group size 1",
    "full": "Training-Free GRPO",
}
"""What each program of an experiment is called in tables, in their order."""
ABLATIONS = ("input", "full", "written", "label-free", "single")
"""In the order they run: as many experiences are written directly as the full method learned."""
_AGAIN = "#"
"""Stands between "full" and the number of a further learning: "full#2"."""
_BEFORE_IT_BEGINS = ("experiment.lock", "estimate.json", ".estimate.json.tmp", ".plan.json.tmp")
"""What may be in the directory of an experiment that was ended before it began."""


def base(arm: str) -> str:
    """The arm that a further learning repeats; any other arm is its own."""
    return arm.partition(_AGAIN)[0]


def arm_name(arm: str) -> str:
    """What an arm is called in tables."""
    return ARMS[base(arm)] + (f", learning {number}" if (number := arm.partition(_AGAIN)[2]) else "")


@dataclass(frozen=True)
class Plan:
    """The arguments that decide the figures; another plan on the same directory is refused."""

    command: str
    """"math", "web", "gym" or "ablations"."""
    task: str
    """"math", "web" or "gym"."""
    mode: str
    """"agent" or "direct"."""
    model: str
    """LiteLLM string of the program's LM."""
    reflection_model: str | None
    """The same for the reflection steps; None is `model`."""
    judge: str | None
    """The same for the judge of the web task; None is `model`."""
    search: str | None
    """What the web task searches with: "ddgs", "serper" or a folder; None where the question does not arise."""
    k: int
    """Attempts at each problem of an evaluation set."""
    train: int
    """Problems to learn from."""
    epochs: int
    group_size: int
    seed: int
    max_tokens: int
    """Tokens of a reply at most, or the model's own limit where that is known and lower."""
    top_p: float
    """Share of the probability that replies are drawn from, for models that take it."""
    max_iters: int
    """Steps of an agent at most."""
    learnings: int
    """How often the full method learns, each time with a seed of its own."""
    size: int | None
    """Questions of WebWalkerQA (None is all of them), or puzzles of each test set; None for mathematics."""
    family: str | None
    """Family of `reasoning-gym`; None for the other tasks."""
    difficulty: int | None
    """Level of its curriculum to learn from, and of the first test set."""
    test_difficulty: int | None
    """Level of the second test set."""
    curve: bool
    """Whether the library of every step is measured, not only the last."""
    offline: bool
    """Whether shipped data and the built-in text model are used."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        least = {"k": 1, "train": 1, "epochs": 1, "group_size": 2, "max_tokens": 1, "max_iters": 1, "size": 1,
                 "learnings": 1}  # fmt: skip
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                why = "; for group size 1 run the ablations" if name == "group_size" else ""
                raise ValueError(f"--{name.replace('_', '-')} {value} must be at least {low}{why}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p {self.top_p} must be above 0 and at most 1")
        if self.task == "gym" and self.difficulty == self.test_difficulty:
            raise ValueError(f"--test-difficulty {self.test_difficulty} must be another level than --difficulty")

    @property
    def arms(self) -> tuple[str, ...]:
        """The programs to measure, in the order they run."""
        arms = ABLATIONS if self.command == "ablations" else ("input", "full")
        return (*arms, *(f"full{_AGAIN}{number}" for number in range(2, self.learnings + 1)))

    @property
    def setting(self) -> str:
        """What tells this experiment from those that share a table with it."""
        return self.family or self.mode

    @property
    def uses_tools(self) -> bool:
        """Whether the program has tools."""
        return self.mode == "agent"

    def seed_of(self, arm: str) -> int:
        """The seed an arm learns with: each further learning has the next one, the problems stay the same."""
        return self.seed + int(arm.partition(_AGAIN)[2] or 1) - 1

    @property
    def in_tables(self) -> tuple[str, ...]:
        """The programs in the order of the tables."""
        return tuple(sorted(self.arms, key=lambda arm: list(ARMS).index(base(arm))))

    def label(self, data_set: str) -> str:
        """What a column on one of the paper's data sets is called: offline, other problems take its place."""
        return f"in place of {data_set}" if self.offline and self.task != "gym" else data_set

    @property
    def models(self) -> tuple[str, ...]:
        """Every model string, once."""
        named = (self.model, self.reflection_model, self.judge)
        return tuple(dict.fromkeys(model for model in named if model))


@dataclass(frozen=True)
class Limits:
    """What may be different when an experiment goes on."""

    threads: int = 32
    """Attempts at a time."""
    max_cost: float = 20.0
    """US dollars at which the experiment stops; an estimate above it is asked about."""
    yes: bool = False
    """Whether to begin whatever the estimate says."""
    prices: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """US dollars per million prompt and completion tokens, by model, where the backend reports no price."""
    timeout: float | None = None
    """Seconds after which an attempt is given up and left unscored."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("threads", "max_cost", "timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"--{name.replace('_', '-')} {value} must be above 0")


@contextmanager
def claimed(out: Path, plan: Plan) -> Iterator[None]:
    """Hold the directory while an experiment runs in it.

    Raises:
        JournalError: It can't be used, is in use, or holds an experiment with another plan.
    """
    lock = filelock.FileLock(out / "experiment.lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _check_plan(out, plan)  # before anything is written into what may be somebody's directory
        lock.acquire()
    except filelock.Timeout:
        raise JournalError(f"--out {out} is in use by another process; wait for it, or give another --out") from None
    except OSError as error:
        raise JournalError(f"--out {out} can't be used: {error.strerror or error}; give another --out") from error
    try:
        _check_plan(out, plan)
        yield
    finally:
        lock.release()


def keep_plan(out: Path, plan: Plan) -> None:
    """From now on the directory holds this experiment."""
    write_atomically(out / "plan.json", json.dumps(asdict(plan), indent=2))


def _check_plan(out: Path, plan: Plan) -> None:
    path, now = out / "plan.json", asdict(plan)
    if not path.exists():
        if others := sorted(item.name for item in out.iterdir() if item.name not in _BEFORE_IT_BEGINS):
            raise JournalError(f"--out {out} holds {others[0]!r} and no experiment; give a new or empty directory")
        return
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise JournalError(f"{path} can't be read; give another --out") from None
    grown = {
        "k": isinstance(known.get("k"), int) and plan.k > known["k"],
        "learnings": isinstance(known.get("learnings"), int) and plan.learnings > known["learnings"],
        "curve": known.get("curve") is False,  # what was measured stands, there is only more of it
    }
    differences = [
        f"{n} was {known.get(n)!r}, is {now[n]!r}" for n in now if known.get(n) != now[n] and not grown.get(n)
    ]
    if differences:
        raise JournalError(
            f"--out {out} holds another experiment: {'; '.join(differences)}. Run it with the arguments it began "
            "with, or give another --out"
        )
