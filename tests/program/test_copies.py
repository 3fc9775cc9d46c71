"""Copies of a program: nothing that was handed in is changed, shared or closed by what its copies do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import dspy
import httpx
import pydantic
import pytest
from support.scripted import Triage, exact, examples, program_state, scripted_lm

from trgrpo_dspy import evaluate
from trgrpo_dspy.program.copies import Copier, own_copy, own_value


class Holder(dspy.Module):
    """A program with one thing beside its predictor."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.answer = dspy.Predict(Triage)
        self.held = held
        self.notes: list[str] = []

    def forward(self, ticket: str) -> Any:
        self.notes.append(ticket)
        return self.answer(ticket=ticket)


class Closes:
    """Says when it is closed; it can be copied."""

    def __init__(self) -> None:
        self.closed: list[bool] = []

    def __del__(self) -> None:
        self.closed.append(True)


class Owner:
    """Holds a loop and its own state."""

    def __init__(self) -> None:
        self.loop, self.state = asyncio.new_event_loop(), [1]


class Model(pydantic.BaseModel):
    """A pydantic model with a lock in it."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    lock: Any
    values: list[int] = [1]


def loop_of_lists() -> list[Any]:
    held: list[Any] = [{}]
    held.append(held)
    held[0]["all"] = held
    return held


HELD: dict[str, Callable[[], Any]] = {
    "a module": lambda: json,
    "modules deep inside": lambda: {"tools": [json, (threading, threading.Lock())]},
    "a list that holds itself": loop_of_lists,
    "a loop in an object": Owner,
    "a client": httpx.Client,
    "an async client": httpx.AsyncClient,
    "a pool": lambda: concurrent.futures.ThreadPoolExecutor(1),
    "a database": lambda: sqlite3.connect(":memory:"),
    "a generator": lambda: (i for i in range(3)),
    "a file": lambda: Path(__file__).open(),  # noqa: SIM115
    "what closes itself": Closes,
    "a pydantic model with a lock": lambda: Model(lock=threading.Lock()),
}


@pytest.fixture
def ignored(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Exceptions that Python ignores, as those of an object that is gone before it was ready."""
    found: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", found.append)
    gc.freeze()  # what other tests left is not looked through again and again
    yield found
    gc.collect()
    gc.unfreeze()
    assert [str(each.exc_value) for each in found] == []


@pytest.mark.parametrize("make", HELD.values(), ids=HELD)
def test_whatever_a_program_holds_it_is_copied_and_stays_as_it_is(make: Callable[[], Any], ignored: list[Any]) -> None:
    held = make()
    program = Holder(held)
    before = program_state(program)
    copies = [own_copy(program), Copier(program).copy(), own_copy(own_copy(program))]
    assert all(each.answer is not program.answer and each.notes is not program.notes for each in copies)
    with dspy.context(lm=scripted_lm()):
        assert evaluate(program, examples(4), exact, num_threads=2).outcomes == {"completed": 4}
    del copies
    gc.collect()
    assert program_state(program) == before
    assert program.held is held
    assert program.notes == []
    for name in ("is_closed", "closed"):
        closed = getattr(held, name, False)
        assert not (closed() if callable(closed) else closed), name
    if hasattr(held, "close"):
        held.close()
    elif isinstance(held, Owner):
        assert not held.loop.is_closed()
        held.loop.close()


def test_inputs_are_copied_as_far_as_they_can_be() -> None:
    """A client among the inputs must not have an agent append to the user's history."""
    lock = threading.Lock()
    inputs = {"lock": lock, "history": dspy.History(messages=[]), "model": Model(lock=lock)}
    copied = own_value(inputs)
    copied["history"].messages.append({"question": "q"})
    assert inputs["history"].messages == []
    assert copied["lock"] is copied["model"].lock is lock


def test_only_the_smallest_part_is_shared_and_a_mock_does_not_grow() -> None:
    """`hasattr` on the class of a mock makes a child mock each time, and the search would never end."""
    assert own_copy(Holder(MagicMock())).held is not None
    program = Holder({"lock": threading.Lock(), "values": [1], "owner": Model(lock=threading.Lock())})
    copied = own_copy(program)
    assert copied.held["lock"] is program.held["lock"]
    assert copied.held["values"] is not program.held["values"]
    assert copied.held["owner"].values is not program.held["owner"].values


def test_lms_are_shared_or_exchanged_wherever_a_module_holds_them() -> None:
    program, mine, other = Holder([scripted_lm()]), scripted_lm(), scripted_lm()
    program.answer.lm = mine
    copied = own_copy(program)
    assert copied.answer.lm is mine
    assert copied.held[0] is program.held[0]
    assert own_copy(program, lambda lm: other).held == [other]


def test_a_predictor_in_what_cannot_be_copied_is_refused() -> None:
    class Locked:
        def __init__(self) -> None:
            self.inner = dspy.Predict(Triage)

        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError

    program = Holder(None)
    program.held = [Locked()]
    own_copy(program)  # DSPy does not find that one
    program.more = [program.held[0].inner]
    copied = own_copy(program)
    assert copied.more[0] is not program.more[0]
