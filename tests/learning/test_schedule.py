"""Every example once an epoch, in an order that is the seed's alone."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trgrpo_dspy.engine.seeds import derive_seed
from trgrpo_dspy.learning.schedule import Step, make_schedule

sizes = st.integers(1, 130)
batches = st.one_of(st.none(), st.integers(1, 150))
epochs = st.integers(1, 4)
seeds = st.integers(-(2**70), 2**70)


def order(steps: tuple[Step, ...], epoch: int) -> list[int]:
    return [example for step in steps if step.epoch == epoch for example in step.examples]


@given(sizes, batches, epochs, seeds)
def test_every_example_comes_once_an_epoch(size: int, batch: int | None, num_epochs: int, seed: int) -> None:
    steps = make_schedule(size, batch_size=batch, num_epochs=num_epochs, seed=seed)
    assert [step.index for step in steps] == list(range(1, len(steps) + 1))
    assert sorted({step.epoch for step in steps}) == list(range(1, num_epochs + 1))
    assert [step.epoch for step in steps] == sorted(step.epoch for step in steps)
    for epoch in range(1, num_epochs + 1):
        assert sorted(order(steps, epoch)) == list(range(size))


@given(sizes, batches, epochs, seeds)
def test_batches_are_full_but_for_the_tail(size: int, batch: int | None, num_epochs: int, seed: int) -> None:
    width = min(size, batch or 100)
    full, tail = divmod(size, width)
    steps = make_schedule(size, batch_size=batch, num_epochs=num_epochs, seed=seed)
    assert [len(step.examples) for step in steps] == ([width] * full + [tail] * bool(tail)) * num_epochs


@given(sizes, batches, st.integers(1, 3), st.integers(0, 3), seeds)
def test_more_epochs_keep_the_earlier_ones(size: int, batch: int | None, few: int, more: int, seed: int) -> None:
    short = make_schedule(size, batch_size=batch, num_epochs=few, seed=seed)
    long = make_schedule(size, batch_size=batch, num_epochs=few + more, seed=seed)
    assert long[: len(short)] == short


def test_epochs_and_seeds_shuffle_differently() -> None:
    steps = make_schedule(50, batch_size=10, num_epochs=5, seed=0)
    other = make_schedule(50, batch_size=10, num_epochs=5, seed=1)
    orders = {tuple(order(s, epoch)) for s in (steps, other) for epoch in range(1, 6)} | {tuple(range(50))}
    assert len(orders) == 11


def test_the_batch_size_does_not_change_the_order() -> None:
    assert order(make_schedule(20, batch_size=3, num_epochs=2, seed=4), 2) == order(
        make_schedule(20, batch_size=7, num_epochs=2, seed=4), 2
    )


def test_a_schedule_is_the_same_everywhere() -> None:
    """Pinned: a run that is continued on another machine must find the same steps."""
    assert [step.examples for step in make_schedule(5, batch_size=2, num_epochs=2, seed=0)] == [
        (3, 4),
        (1, 2),
        (0,),
        (4, 3),
        (1, 2),
        (0,),
    ]


def test_derived_seeds_are_the_same_everywhere() -> None:
    assert derive_seed(0, "epoch", 1) == 2031624461621881089
    code = "from trgrpo_dspy.learning.schedule import derive_seed; print(derive_seed(0, 'épreuve\\ud800', 1))"
    prints = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert prints == {f"{derive_seed(0, 'épreuve' + chr(0xD800), 1)}\n"}


@given(st.lists(st.one_of(st.integers(), st.text(st.characters(codec=None, categories=None)))))
def test_derived_seeds_are_positive_63_bit_numbers(parts: list[int | str]) -> None:
    assert 0 < derive_seed(*parts) < 2**63


def test_neighbours_get_different_seeds_also_after_adding_small_numbers() -> None:
    """`BestOfN` and `Refine` use `rollout_id + 1, + 2, ...`."""
    seeds = [derive_seed(*parts) for parts in product(range(2), range(10), range(100), range(10))]
    assert len({seed + n for seed in seeds for n in range(10)}) == 10 * len(seeds)


PARTS: list[tuple[int | str, ...]] = [
    (),
    ("",),
    (0,),
    ("0",),
    (1, 2),
    (12,),
    ("1", 2),
    ("1", "2"),
    ("12",),
    ("1, 2",),
    ("1', '2",),
    ("1\x1fstr:2",),
    (1, 2, ""),
    (-1,),
    ("a", "b"),
    ("b", "a"),
]


def test_distinct_parts_make_distinct_seeds() -> None:
    assert len({derive_seed(*parts) for parts in PARTS}) == len(PARTS)


@pytest.mark.parametrize("parts", PARTS)
def test_the_same_parts_make_the_same_seed(parts: tuple[int | str, ...]) -> None:
    assert derive_seed(*parts) == derive_seed(*list(parts))
