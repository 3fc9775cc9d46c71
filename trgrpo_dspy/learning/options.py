"""The options of learning, each said once; `TrainingFreeGRPO` takes them as keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import dspy

from trgrpo_dspy.engine.options import DECIDES, RunOptions, choice, instance, names, number, whole
from trgrpo_dspy.library.edits import Edit
from trgrpo_dspy.program.scoring import Metric, adapt_metric
from trgrpo_dspy.report.tracking.trackers import check_report_to

from .exposure import Exposure, everything
from .reflector import Reflector
from .selection import SELECTIONS, Selection

__all__ = ["Allow", "LearningOptions"]

_AUTO = {"light": (3, 2), "medium": (5, 3), "heavy": (8, 4)}
"""`auto` presets: group size and epochs."""
_PAPER = (5, 3)
"""Group size and epochs of the paper."""

Allow = Collection[str] | Callable[[Edit, str], bool]
"""Held-back entries that may count: their ids (`H1.2`), or a function of edit and reason."""


def _metric(name: str, value: Any) -> None:
    adapt_metric(value)


def _function(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{name}={value!r} must be a function")


def _selection(name: str, value: Any) -> None:
    if not callable(value) and (not isinstance(value, str) or value not in SELECTIONS):
        known = " or ".join(map(repr, SELECTIONS))
        raise ValueError(f"{name}={value!r} must be {known}, or a function teaches(group, ceiling) -> str")


def _allow(name: str, value: Any) -> None:
    if not callable(value) and (isinstance(value, str) or not isinstance(value, Collection)):
        raise TypeError(f"{name}={value!r} must be a list of ids such as 'H1.2', or a function of edit and reason")


@dataclass(kw_only=True, eq=False, repr=False)
class LearningOptions(RunOptions):
    """What `TrainingFreeGRPO` takes beside what every run may be given."""

    metric: Annotated[Metric | None, _metric]
    """`metric(example, prediction, trace=None)` or GEPA's five arguments; returns a bool, a number of any range (higher
    is better) or `dspy.Prediction(score=, feedback=)`. None is the label-free mode."""
    objective: Annotated[str, instance(str, "'Route tickets as our desk does'"), DECIDES] = ""
    """What the program is for and what counts, in your words; the reflection is shown it beside the program itself."""
    auto: Annotated[Literal["light", "medium", "heavy"] | None, choice(*_AUTO)] = None
    """Sets `group_size` and `num_epochs` where those are not given, and caps LM calls at what the run can take at most:
    "light" 3 attempts and 2 epochs, "medium" 5 and 3 (the paper's), "heavy" 8 and 4."""
    group_size: Annotated[int | None, whole(1), DECIDES] = None
    """Attempts at each example (the paper's G); None is 5, or what `auto` says. With `learn_from="contrast"` at least
    2: one attempt can't be compared with anything."""
    batch_size: Annotated[int | None, whole(1), DECIDES] = None
    """Examples a step; None is the whole trainset, up to 100."""
    num_epochs: Annotated[int | None, whole(1), DECIDES] = None
    """Passes over the trainset; None is 3, or what `auto` says. May grow when a run is resumed."""
    rollout_temperature: Annotated[
        float, number(above=0, most=2, why="; at 0 all attempts of a group are alike"), DECIDES
    ] = 0.7
    """Temperature of the attempts. A predictor's own temperature and models that accept none keep theirs. Validation
    runs at the program's own temperature."""
    learn_from: Annotated[str | Selection, _selection, DECIDES] = "mistakes"
    """Which groups teach: "contrast" (some attempts beat others: the paper), "mistakes" (beside those the groups that
    all fell short where a label or feedback says of what), or a function as in `learning/selection.py`."""
    expose: Annotated[Exposure, _function, DECIDES] = everything
    """What an attempt is shown of the library, as in `learning/exposure.py`; validation and result show all of it."""
    evidence: Annotated[bool, instance(bool, "True"), DECIDES] = True
    """Whether consolidation reads the step's examples side by side; not in the paper's form."""
    check_entries: Annotated[bool, instance(bool, "True"), DECIDES] = True
    """Whether new and changed entries are held against labelled examples before they count; not in the paper's form."""
    memory: Annotated[bool, instance(bool, "True"), DECIDES] = True
    """Whether consolidation is shown how examples fared in earlier steps and what was refused."""
    build_on: Annotated[Literal["last", "best"], choice("last", "best"), DECIDES] = "last"
    """Where a step starts: "best" goes back to the best library measured so far where a later one measured credibly
    worse; needs a valset."""
    reflection_lm: Annotated[dspy.BaseLM | None, instance(dspy.BaseLM, "dspy.LM('...')")] = None
    """LM of the reflection steps; None is DSPy's configured LM, else the program's only one."""
    reflector: Annotated[Reflector | None, instance(Reflector, "Reflector(...)")] = None
    """The reflection steps; None is `Reflector()`, and `Reflector(form="paper", summarize="always")` is the paper's
    form. One of yours has its own `summarize` and `max_lessons`."""
    experiences_per_group: Annotated[int, whole(1), DECIDES] = 2
    """Proposals at most from one group; a `reflector` of yours has its own `max_lessons`."""
    max_experiences: Annotated[int, whole(1), DECIDES] = 45
    """Entries at most in the library."""
    predictors: Annotated[Sequence[str] | None, names, DECIDES] = None
    """Names of the predictors to teach, as in `program.named_predictors()`; None is all."""
    compare_fields: Annotated[Sequence[str] | None, names, DECIDES] = None
    """Output fields the label-free mode compares; None is all but reasoning and traces."""
    val_repeats: Annotated[int, whole(1), DECIDES] = 1
    """Attempts at each validation example."""
    evaluate_every: Annotated[int, whole(1), DECIDES] = 1
    """Measure the library on the valset after every so many steps, and after the last one. Each measurement keeps
    score, tool calls and tokens of an attempt: the paper's learning curve. A library that was not measured is not
    returned."""
    summarize: Annotated[Literal["auto", "always"], choice("auto", "always"), DECIDES] = "auto"
    """"auto" summarizes only attempts too long to be read whole in the comparison; "always" is the paper's. Attempts of
    a group that came back the same are summarized once either way."""
    allow: Annotated[Allow, _allow] = ()
    """Held-back entries that may count: entries that look like an instruction smuggled in by a tool's result are
    refused unless their id (`H1.2`, as shown in the result) is listed here or a function of edit and reason agrees."""
    report_to: Annotated[Literal["mlflow"] | None, check_report_to] = None
    """A tracker that is shown the run. "mlflow" (extra `mlflow`): parameters, metrics over steps, the library after
    each step, the program, and each attempt as a trace, in the active MLflow run, else in one of its own."""

    def check(self) -> None:
        """Fill in what `auto` says, check every option, and that no two contradict each other."""
        super().check()
        size, epochs = _AUTO.get(self.auto or "", _PAPER)
        self.group_size = size if self.group_size is None else self.group_size
        self.num_epochs = epochs if self.num_epochs is None else self.num_epochs
        if self.group_size == 1 and (self.learn_from == "contrast" or self.metric is None):
            raise ValueError("group_size=1 must be at least 2; one attempt can't be compared with anything")
        if self.metric is not None and self.compare_fields is not None:
            raise ValueError(
                f"compare_fields={self.compare_fields!r} is for metric=None: with a metric, scores are compared"
            )
        if self.reflector is not None and self.reflector.label_free != (self.metric is None):
            if self.metric is None:
                raise ValueError(
                    "metric=None is the label-free mode: pass reflector=Reflector(label_free=True), or none"
                )
            raise ValueError("reflector=Reflector(label_free=True) shows no label: it is for metric=None")

    @property
    def teaches(self) -> Selection:
        """The selection that `learn_from` names or is."""
        return self.learn_from if callable(self.learn_from) else SELECTIONS[self.learn_from]
