"""Names that users of `dspy.GEPA` know from its `detailed_results`, where the meaning is the same.

Candidates are the input (index 0) and each library that was measured, in order. GEPA's `candidates`, `best_candidate`
and `parents` are missing on purpose: GEPA keeps a program for each candidate, this record keeps its library
(`measured[i].library`; `attach(program, library)` makes the program).
"""

from __future__ import annotations

from typing import Any

__all__ = ["GEPANames"]


class GEPANames:
    """What `DetailedResults` answers beside its own fields."""

    settings: dict[str, Any]
    verdict: Any
    steps: Any
    measured: Any

    @property
    def val_aggregate_scores(self) -> list[float | None]:
        """Mean validation score of each candidate; None if nothing was scored."""
        return [m.mean.value for m in self.measured]

    @property
    def val_subscores(self) -> list[dict[int, float]]:
        """Score of each candidate on each validation example it was scored on."""
        return [{i: s for i, s in enumerate(m.scores) if s is not None} for m in self.measured]

    @property
    def best_idx(self) -> int | None:
        """Index of the candidate that was returned; None if the returned program was not measured."""
        steps = [m.step for m in self.measured]
        return steps.index(self.verdict.step) if self.verdict.step in steps else None

    @property
    def highest_score_achieved_per_val_task(self) -> dict[int, float]:
        """Highest score of any candidate on each validation example."""
        best: dict[int, float] = {}
        for scores in self.val_subscores:
            for example, score in scores.items():
                best[example] = max(score, best.get(example, score))
        return best

    @property
    def per_val_instance_best_candidates(self) -> dict[int, set[int]]:
        """The candidates with the highest score on each validation example."""
        return {
            example: {i for i, scores in enumerate(self.val_subscores) if scores.get(example) == best}
            for example, best in self.highest_score_achieved_per_val_task.items()
        }

    @property
    def total_metric_calls(self) -> int:
        """Attempts of the run, in training and validation: what GEPA counts as metric calls."""
        train = sum(step.attempts for step in self.steps)
        return train + sum(sum(m.outcomes.values()) for m in self.measured)

    @property
    def num_full_val_evals(self) -> int:
        """Times that a candidate was measured on the whole valset."""
        return len(self.measured)

    @property
    def log_dir(self) -> str | None:
        """Directory of the run's journal, as it was given."""
        return self.settings.get("log_dir")

    @property
    def seed(self) -> int | None:
        """The run's seed."""
        return self.settings.get("seed")
