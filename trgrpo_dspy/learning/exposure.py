"""Exposure: which entries of the library an attempt is shown.

An exposure is a function `select(library, example, rng) -> library`. It returns a sub-library, made with
`ExperienceLibrary.only`, so that ids and order stay. `rng` is the attempt's own, derived from the run's seed: the same
attempt sees the same entries in every run, with any number of threads. `Rollout.shown` records the ids.

To add one, write such a function and pass it as `TrainingFreeGRPO(expose=...)`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import dspy

from trgrpo_dspy.library.library import ExperienceLibrary

__all__ = ["Exposure", "everything"]

Exposure = Callable[[ExperienceLibrary, dspy.Example, random.Random], ExperienceLibrary]
"""Chooses what an attempt at an example is shown."""


def everything(library: ExperienceLibrary, example: dspy.Example, rng: random.Random) -> ExperienceLibrary:
    """Show the whole library: the paper's form, and what ships."""
    return library
