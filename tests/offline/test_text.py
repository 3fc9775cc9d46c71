"""Words, n-grams, similarity."""

from __future__ import annotations

from trgrpo_dspy.offline.text import (
    FUNCTION_WORDS,
    content_words,
    noun_phrase,
    numbers,
    sentences,
    similarity,
    tokens,
    word_similarity,
)


def test_tokens_fold_case_and_possessives() -> None:
    assert tokens("The Butcher\u2019s I'm \u00c9t\u00e9") == ("the", "butcher", "i'm", "\u00e9t\u00e9")


def test_content_words() -> None:
    assert content_words("I was charged twice for the return label in 2024") == ["charged", "return", "label"]
    assert content_words("needs things don't A1") == []


def test_forms_of_a_word_are_alike_and_others_are_not() -> None:
    assert word_similarity("charge", "charged") > 0.9
    assert word_similarity("refund", "refunding") > 0.9
    assert word_similarity("charge", "change") == 0.0
    assert word_similarity("", "x") == 0.0


def test_similarity_is_between_0_and_1() -> None:
    assert similarity("broken pump", "broken pump") == 1.0
    assert similarity("broken pump", "") == 0.0


def test_small_readers() -> None:
    assert numbers("1,234.5 and -3") == ["1234.5", "-3"]
    assert sentences("One. Two?\nThree") == ["One.", "Two?", "Three"]
    assert noun_phrase("What is the weather in New York?") == "New York"
    assert noun_phrase("show pictures") == "pictures"
    assert noun_phrase("a") == "a"


def test_function_words_are_general() -> None:
    assert {"the", "would", "please", "because"} <= FUNCTION_WORDS
    assert not {"refund", "card", "invoice", "password"} & FUNCTION_WORDS
