"""Sentences of advice: what they say for and against, and how this model writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trgrpo_dspy.offline.advice import Rule, read_advice, read_rule

VALUES = ("north", "south", "deep south", "this_week")
FIELDS = ("crew", "urgency")


@pytest.mark.parametrize(
    ("sentence", "cues", "values"),
    [
        ("When the note mentions 'a b' or 'c', choose crew 'north'.", ("a b", "c"), {"north": True}),
        ("When the note mentions 'ice', choose 'north', not 'south'.", ("ice",), {"north": True, "south": False}),
        ("If the caller threatens to leave, pick south rather than north.",
         ("caller", "threatens", "leave"), {"south": True, "north": False}),
        ("If the parcel did not arrive, choose south.", ("parcel", "arrive"), {"south": True}),
        ("Notes about frozen pipes go to north.", ("notes", "frozen", "pipes"), {"north": True}),
        ("Never choose 'north' for burst pipes.", ("burst", "pipes"), {"north": False}),
        ("[E9 | a.b] If 'sand' appears, answer \"deep south\".", ("sand",), {"deep south": True}),
    ],
)  # fmt: skip
def test_advice_in_any_words_is_read(sentence: str, cues: tuple[str, ...], values: dict[str, bool]) -> None:
    (advice,) = read_advice(sentence, VALUES, "crew", FIELDS)
    assert (advice.cues, advice.values) == (cues, values)
    assert advice.id == ("E9" if sentence.startswith("[E9") else "")


def test_clauses_are_read_one_by_one_and_those_about_another_output_do_not_count() -> None:
    text = "If 'ice' appears, choose north; if 'mud' appears, choose south. When 'sun' is there, set urgency to north."
    assert [list(advice.values) for advice in read_advice(text, VALUES, "crew", FIELDS)] == [["north"], ["south"]]
    assert len(list(read_advice(text, VALUES, "urgency", FIELDS))) == 3


@pytest.mark.parametrize("sentence", ["Think twice.", "", "When in doubt, go on.", "'''", "When , choose ''."])
def test_what_names_no_answer_is_no_advice(sentence: str) -> None:
    assert not list(read_advice(sentence, VALUES, "crew", FIELDS))
    assert read_rule(sentence) is None


@given(st.lists(st.from_regex(r"[a-z]{3,12}", fullmatch=True), min_size=1, max_size=40, unique=True))
def test_written_rules_keep_the_bounds_and_read_back(cues: list[str]) -> None:
    rule = Rule("note", (), "crew", "north").fitted(cues)
    assert list(rule.cues) == cues[: len(rule.cues)] != []
    assert len(str(rule).split()) <= 32
    assert len(str(rule)) <= 190
    assert read_rule(str(rule)) == rule
    assert Rule("note", (), "", "north").fitted(["x" * 300]).cues == ()
