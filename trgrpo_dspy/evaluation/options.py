"""The options of `evaluate` and `compare`: those of every run, and what concerns measuring alone."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from trgrpo_dspy.engine.options import DECIDES, RunOptions, number, whole

__all__ = ["EvaluationOptions"]


@dataclass(kw_only=True, eq=False, repr=False)
class EvaluationOptions(RunOptions):
    """How a program is measured."""

    k: Annotated[int, whole(1), DECIDES] = 1
    """Attempts at each example. The first is made exactly as `dspy.Evaluate` would; each further one has its own
    `rollout_id`, and its own seed where the LM carries one. With a `log_dir`, `k` may grow."""
    temperature: Annotated[float | None, number(above=0, most=2, why="; None keeps the program's own"), DECIDES] = None
    """Sampling temperature (the paper evaluates at 0.3), of the first attempt too; a predictor's own and models that
    accept none keep theirs. None is the program's own."""

    @classmethod
    def of(cls, function: str, k: int, options: Mapping[str, Any]) -> EvaluationOptions:
        """Make the options that a function was called with.

        Raises:
            TypeError: There is no such option; the message names the nearest.
        """
        for name in options:
            if name not in cls.names():
                near = difflib.get_close_matches(name, cls.names(), 1)
                hint = f"; did you mean {near[0]}=?" if near else f"; its options are {', '.join(cls.names())}"
                raise TypeError(f"{function}() has no option {name!r}{hint}")
        return cls(k=k, **options)
