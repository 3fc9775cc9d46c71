"""What two runs differ in: named by its place, in words, and never by a hash."""

from __future__ import annotations

from typing import Any

import pytest

from trgrpo_dspy.engine.journal.differences import differences

A, B, C, D = (f"#{letter * 16}" for letter in "abcd")
LONG = "Read the ticket with care, think about who has to act, and say which queue it belongs to. " * 3


@pytest.mark.parametrize(
    ("was", "now", "told"),
    [
        (1, 2, ["x: was 1, is 2"]),
        (None, 2, ["x: was None, is 2"]),
        ("a", "b", ["x: was 'a', is 'b'"]),
        (f"told {A}", f"told {B}", ["x (told) was changed"]),
        (f"told {A}", f"exact {B}", ["x: was 'told', is 'exact'"]),
        (A, B, ["x was changed"]),
        ([A, B], [A, B], []),
        ([A, B], [B, A], ["x: the same examples in another order"]),
        ([A, B], [A, B, C], ["x: was 2 examples, is 3, the first 2 the same"]),
        ([A, B], [C], ["x: was 2 examples, is 1"]),
        ([A], [], ["x: was 1 example, is 0"]),
        ([A, B], [A, C], ["x: 1 of 2 examples differs: [1]"]),
        ([A] * 9, [A, *[B] * 8], ["x: 8 of 9 examples differ: [1], [2], [3] and 5 more"]),
        (["self"], ["other"], ["x: was ['self'], is ['other']"]),
        ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}, ["x b c: was 2, is 3"]),
        ({"a": {"c": 2}}, {"b": 3}, ["x a is gone", "x b (3) is new"]),
        ({"a": [A]}, {"b": A}, ["x a is gone", "x b is new"]),
        ({"a": 1}, 1, ["x: was {'a': 1}, is 1"]),
    ],
)
def test_a_difference(was: Any, now: Any, told: list[str]) -> None:
    assert differences({"x": was}, {"x": now}) == told


def test_long_texts_are_shown_from_where_they_part() -> None:
    (told,) = differences({"x": LONG + "Be brief. " + LONG}, {"x": LONG + "Be thorough. " + LONG})
    assert told.startswith("x: was …")
    assert "Be brief." in told.split(", is …")[0] and "Be thorough." in told.split(", is …")[1]
    assert len(told) < 150


def test_what_may_grow() -> None:
    assert differences({"k": 2}, {"k": 3}, ("k",)) == []
    assert differences({"k": 3}, {"k": 2}, ("k",)) == ["k: was 3, is 2"]
    assert differences({"k": 2}, {"k": None}, ("k",)) == ["k: was 2, is None"]
    assert differences({"k": 2}, {"k": 3}) == ["k: was 2, is 3"]
