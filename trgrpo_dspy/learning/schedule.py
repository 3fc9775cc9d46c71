"""Which examples make which step, by seed.

Pure functions of the seed: epoch 2 of a three-epoch schedule is epoch 2 of a ten-epoch schedule, so a run may be
continued with more epochs. Every example occurs exactly once an epoch; a tail shorter than a batch is a batch.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from trgrpo_dspy.engine.seeds import derive_seed

__all__ = ["Step", "make_schedule"]

MAX_BATCH = 100
"""Batch size when none is given: the whole trainset, up to this many (the paper's 100)."""


@dataclass(frozen=True)
class Step:
    """One update of the library: a batch of examples of one epoch."""

    index: int
    """From 1, over all epochs."""
    epoch: int
    """From 1."""
    examples: tuple[int, ...]
    """Indices into the trainset, in the order the groups are merged."""


def make_schedule(size: int, *, batch_size: int | None, num_epochs: int, seed: int) -> tuple[Step, ...]:
    """Cut every epoch's own shuffle of ``range(size)`` into batches.

    Args:
        size: Number of training examples, at least 1.
        batch_size: Examples a step; None is the whole trainset up to 100.
        num_epochs: Passes over the trainset, at least 1.
        seed: Seed of the run; each epoch has its own stream derived from it.

    Returns:
        The steps in order, numbered from 1 over all epochs.
    """
    width = min(size, MAX_BATCH) if batch_size is None else min(batch_size, size)
    steps: list[Step] = []
    for epoch in range(1, num_epochs + 1):
        order = list(range(size))
        random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
        for start in range(0, size, width):
            steps.append(Step(len(steps) + 1, epoch, tuple(order[start : start + width])))
    return tuple(steps)
