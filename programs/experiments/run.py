"""An experiment from its first look at the data to its report; run again, it goes on where it ended.

Every arm's learning and every evaluation has a journal of its own in the experiment's directory, so that no finished
LM call is paid twice; only the few trial calls of an estimate that was cut off are made again. The report is written
after each part, and says so while it is partial.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import dspy

from trgrpo_dspy import Budget, Evaluation, attach, evaluate
from trgrpo_dspy.engine.journal.files import write_atomically
from trgrpo_dspy.meter import Spend, total_spend

from . import article
from .arms import Taught, optimizer_of, teach
from .costs import TRIALS, Expected, expect, told, total
from .models import OFFLINE_MODEL, Models, models
from .pictures import draw
from .plan import EVALUATION_TEMPERATURE, Limits, Plan, arm_name, claimed, keep_plan
from .records import Report, cell_of, curve_of, entries_of, spend_of
from .tables import markdown
from .tasks import DataSet, Task, open_task
from .text import counted

__all__ = ["Refused", "run"]


class Refused(Exception):
    """The experiment was not begun: it would cost more than was allowed."""


class _Ended(Exception):
    """The experiment ended before it was complete; says why."""


def run(plan: Plan, limits: Limits, out: Path, say: Callable[[str], object] = print) -> Report:
    """Run an experiment and write `report.md` and `report.json` into its directory.

    Args:
        plan: What is measured.
        limits: What may be different when the experiment goes on.
        out: Directory of the experiment.
        say: Where a line on what goes on is told.

    Returns:
        The report; `partial` is empty if it is complete.

    Raises:
        Refused: The estimate is above the limit and nobody agreed.
        FatalError: A wrong key, no credit, an unknown model; the report says what there is.
        JournalError: The directory is in use or holds another experiment.
        FileNotFoundError: The data can't be loaded.
    """
    with claimed(out, plan), models(plan) as lms:
        say("Loading the data ...")
        with open_task(plan, lms.judge) as task, dspy.context(lm=lms.program):
            titles = {found.name: found.title for found in task.sets}
            report = Report(plan, titles, task.measures, task.differs)
            experiment = _Experiment(plan, limits, out, task, lms, report, say)
            try:
                experiment.agree()
                experiment.go()
                report.partial = ""
            except (_Ended, KeyboardInterrupt) as end:
                report.partial = str(end) or "interrupted"
            except Refused:
                raise
            except Exception as error:
                report.partial = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
                raise
            finally:
                if experiment.agreed:
                    report.pictures = draw(out, report)
                    experiment.write()
                    if not report.pictures and report.cells:
                        say("No pictures: they need matplotlib, pip install 'trgrpo-dspy[report]'")
        return report


@dataclass
class _Experiment:
    """One run of an experiment."""

    plan: Plan
    limits: Limits
    out: Path
    task: Task
    lms: Models
    report: Report
    say: Callable[[str], object]
    agreed: bool = False
    """Whether it may begin; before that nothing is written."""
    spent: float = 0.0
    """US dollars, as far as known."""
    entries: int = 0
    """Experiences that the full method learned."""
    before: dict[str, Evaluation] = field(default_factory=dict)
    """The input program's evaluation of each data set."""

    def agree(self) -> None:
        """Estimate, and ask above the limit; what was agreed once is not asked about again."""
        parts = self._expected()
        self.report.expected = told(parts)
        self.say(self.report.expected)
        cost, limit = total(parts).cost, self.limits.max_cost
        if cost is None:
            raise Refused(
                f"the price of {' or '.join(map(repr, self.plan.models))} is unknown, so its cost can't be kept below "
                "--max-cost. Give it: --price MODEL=PROMPT,COMPLETION in US dollars per million tokens (0,0 if it "
                "costs nothing)"
            )
        begun = (self.out / "plan.json").exists()
        if not begun and cost > limit and not self.limits.yes and not self._asked(cost):
            raise Refused(
                f"the estimate is ${cost:.2f}, above --max-cost {limit:g}. Raise --max-cost, or give --yes to begin "
                "anyway and stop at that limit; smaller: --k, --train, --epochs"
            )
        if begun:
            self.say(f"Going on in {self.out}: what is done there is read back, not asked for again.")
        keep_plan(self.out, self.plan)
        self.agreed = True

    def _asked(self, cost: float) -> bool:
        if not sys.stdin.isatty():
            return False
        question = (
            f"The estimate is ${cost:.2f}, above --max-cost {self.limits.max_cost:g}, at which it would stop with a "
            "partial report. Begin anyway? [y/N] "
        )
        return input(question).strip().lower() in ("y", "yes")

    def _expected(self) -> list[Expected]:
        """The estimate; trial calls are made once for a plan and its prices."""
        path, basis = self.out / "estimate.json", [vars(self.plan), {k: list(v) for k, v in self._prices.items()}]
        with contextlib.suppress(OSError, ValueError, TypeError, LookupError):  # none yet, or damaged: tried again
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["basis"] == basis:
                return [Expected(**row) for row in known["parts"]]
        self.say(f"Trying {TRIALS + 1} attempts to see what it will take ...")
        optimizer = optimizer_of(
            self.task, self.plan, self.limits, reflection_lm=self.lms.reflection, budget=Budget(prices=self._prices)
        )
        trial = optimizer.estimate(self.task.program, trainset=self.task.trainset, sample=TRIALS)
        parts = expect(self.plan, self.task, trial)
        write_atomically(path, json.dumps({"basis": basis, "parts": [vars(part) for part in parts]}, indent=2))
        return parts

    @property
    def _prices(self) -> dict[str, tuple[float, float]]:
        return {**({OFFLINE_MODEL: (0.0, 0.0)} if self.plan.offline else {}), **self.limits.prices}

    def _budget(self) -> Budget:
        left = self.limits.max_cost - self.spent
        if left <= 0:
            raise _Ended(f"${self.spent:.2f} were spent, --max-cost {self.limits.max_cost:g} is reached; raise it")
        return Budget(max_cost=left, prices=self._prices)

    # -- the parts -------------------------------------------------------------------------------------------------

    def go(self) -> None:
        """Measure every program, taught before where it is to be."""
        for arm in self.plan.arms:
            taught = None if arm == "input" else self._teach(arm)
            program = self.task.program if taught is None else attach(self.task.program, taught.library)
            for data_set in self.task.sets:
                self._measure(arm, program, data_set)
            if taught is not None and self.plan.curve and arm == "full":
                self._follow(arm, taught)

    def _teach(self, arm: str) -> Taught:
        how = "" if arm == "written" else " (no valset, as in the paper: what is learned is measured next)"
        self.say(f"{arm_name(arm)}: learning ...{how}")
        taught = teach(
            arm, self.task, self.plan, self.limits,
            count=max(1, self.entries), budget=self._budget(), log_dir=self._folder(arm) / "learning",
            reflection_lm=self.lms.reflection,
        )  # fmt: skip
        self.report.curve += curve_of(arm, taught.steps, self._folder(arm) / "learning" / "events.jsonl")
        self.report.libraries[arm] = entries_of(taught.library)
        self.report.warnings[arm] = list(taught.warnings)
        self._note_spend(arm, taught.spend)
        self._go_on(taught.stop_reason, f"{arm_name(arm)}: learning")
        if arm == "full":
            self.entries = len(taught.library)
        return taught

    def _folder(self, arm: str) -> Path:
        return self.out / arm.replace("#", "-")

    def _follow(self, arm: str, taught: Taught) -> None:
        """Measure the libraries before the last one: the learning curve on problems that were not learned from."""
        for step in taught.steps[:-1]:
            for data_set in self.task.sets:
                self._measure(arm, attach(self.task.program, step.library), data_set, step.step)

    def _measure(self, arm: str, program: dspy.Module, data_set: DataSet, step: int | None = None) -> None:
        """Measure a program on a data set, k attempts at each problem, at the paper's temperature."""
        when = "" if step is None else f" step {step}"
        self.say(f"{arm_name(arm)}{when}: {counted(self.plan.k, 'attempt')} at each of {data_set.title} ...")
        found = evaluate(
            program, data_set.examples, self.task.metric, self.plan.k, temperature=EVALUATION_TEMPERATURE,
            num_threads=self.limits.threads, rollout_timeout=self.limits.timeout, seed=self.plan.seed,
            budget=self._budget(), log_dir=self._folder(arm) / f"{data_set.slug}{when}".replace(" ", "-"),
        )  # fmt: skip
        before = self.before.setdefault(data_set.name, found)  # the input program comes first
        cell = cell_of(arm, data_set.name, found, None if arm == "input" else before, step)
        (self.report.cells if step is None else self.report.along).append(cell)
        self._note_spend(arm, found.spend, self.plan.label(data_set.name) + when)
        self._go_on(found.stop_reason, f"{arm_name(arm)}: the evaluation on {data_set.title}{when}")

    def _note_spend(self, arm: str, spend: tuple[Spend, ...], where: str = "") -> None:
        self.report.spend += spend_of(arm, spend, where)
        self.spent += total_spend(spend).cost or 0.0
        self.write()

    def _go_on(self, stop_reason: str, what: str) -> None:
        """End the experiment if a part of it did not come to its end."""
        if stop_reason == "completed":
            return
        why = f"--max-cost {self.limits.max_cost:g} is reached; raise it" if stop_reason == "max_cost" else stop_reason
        raise _Ended(f"{what} was ended: {why}")

    def write(self) -> None:
        """Write the report as it stands."""
        write_atomically(self.out / "report.json", json.dumps(self.report.record(), indent=2, ensure_ascii=False))
        write_atomically(self.out / "report.md", markdown(self.report))
        article.write(self.out, [self.report])
