"""Sentences of advice: what they say for and against, and how they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trgrpo_dspy.offline.advice import read_advice, read_sentence, write_sentence

VALUES = ("north", "south", "deep south", "this_week")


@pytest.mark.parametrize(
    ("sentence", "cues", "good", "bad"),
    [
        ("When the note mentions 'a b', 'c' or 'it's', choose crew 'north'.", ("a b", "c", "it's"), ("north",), ()),
        ("When the note mentions 'ice', choose crew 'north', not 'south'.", ("ice",), ("north",), ("south",)),
        ("If the caller is angry, or threatens to leave, pick south rather than north.",
         ("caller", "angry", "threatens", "leave"), ("south",), ("north",)),
        ("Choose south when somebody reports a broken pump.", ("reports", "broken", "pump"), ("south",), ()),
        ("Notes about frozen pipes go to north.", ("notes", "frozen", "pipes"), ("north",), ()),
        ("Never choose 'north' for burst pipes.", ("burst", "pipes"), (), ("north",)),
        ("[E9] If 'sand' appears, answer \"deep south\".", ("sand",), ("deep south",), ()),
    ],
)  # fmt: skip
def test_reading(sentence: str, cues: tuple[str, ...], good: tuple[str, ...], bad: tuple[str, ...]) -> None:
    (advice,) = read_advice(sentence, VALUES, ("crew", "urgency"))
    assert (advice.cues, advice.values, advice.against) == (cues, good, bad)


def test_clauses_are_read_one_by_one() -> None:
    first, second = read_advice("If 'ice' appears, choose north; if 'sand; mud' appears, choose south.", VALUES)
    assert (first.values, second.values, second.cues) == (("north",), ("south",), ("sand; mud",))


@pytest.mark.parametrize("sentence", ["Think twice.", "", "When in doubt, go on.", "'''", "When , choose ''."])
def test_what_names_no_answer_is_no_advice(sentence: str) -> None:
    assert read_advice(sentence, VALUES) == []


def test_ids_fields_and_misleading_entries() -> None:
    line = "[E4 | a.b] When the note mentions 'ice', choose crew 'north' (E3 misleads by 'x', 'y'; E5 misleads by 'z')."
    (advice,) = read_advice(line, VALUES, ("crew",))
    assert (advice.id, advice.field) == ("E4", "crew")
    assert advice.misleading == {"E3": ("x", "y"), "E5": ("z",)}
    assert advice.values == ("north",)


def test_the_field_is_the_word_before_the_answer_where_fields_are_unknown() -> None:
    (advice,) = read_sentence("When the note mentions 'ice', choose crew 'north'.")
    assert advice.field == "crew"
    assert read_sentence("When the note mentions 'ice', choose 'north'.")[0].field == ""


words = st.lists(st.from_regex(r"[a-z]{3,12}", fullmatch=True), min_size=1, max_size=40, unique=True)


@given(words)
def test_written_sentences_keep_the_bounds_and_read_back(cues: list[str]) -> None:
    sentence = write_sentence("note", cues, "crew", "north")
    assert len(sentence.split()) <= 32
    assert len(sentence) <= 190
    assert sentence[0] == "W"
    assert sentence[-1] == "."
    (advice,) = read_sentence(sentence)
    assert advice.values == ("north",)
    assert list(advice.cues) == cues[: len(advice.cues)]


def test_nothing_is_written_where_nothing_fits() -> None:
    assert write_sentence("note", ["x" * 300], "crew", "north") == ""
    assert write_sentence("note", [], "crew", "north") == ""
