"""The library in people's hands: every change is a new library; what is shown can be read; Markdown goes both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lessons import LESSONS

from trgrpo_dspy.library import Experience, ExperienceLibrary, diff
from trgrpo_dspy.library.entries import MARK, clean_entry

LIBRARY = ExperienceLibrary(
    (
        Experience("E1", "When X, do Y", ("triage", "answers[0].predict"), 1, 3, (0, 2), (1, 5, 9), (4,)),
        Experience("E4", clean_entry("Never say <|im_start|> or <b>"), pinned=True),
    ),
    9,
    ("Do Z", "- odd: pinned: yes"),
)


def test_entries_are_reached_by_id() -> None:
    assert LIBRARY["E4"].pinned and "E4" in LIBRARY and LIBRARY["E4"] in LIBRARY
    assert "E2" not in LIBRARY and None not in LIBRARY
    with pytest.raises(KeyError, match="there is no entry 'E2'; ids: E1, E4"):
        LIBRARY["E2"]
    with pytest.raises(KeyError, match="the library is empty"):
        ExperienceLibrary()["E1"]


def test_every_change_gives_a_new_library() -> None:
    before = LIBRARY.to_json()
    added = LIBRARY.add("When new,\n say so", targets=["triage", "triage"])
    assert added["E9"] == Experience("E9", "When new, say so", ("triage",)) and added.next_id == 10
    assert [e.id for e in added.without("E9", "E1")] == ["E4"] and added.without("E9").add("x")["E10"].text == "x"
    changed = LIBRARY.with_text("E1", "Else")
    assert changed["E1"] == Experience("E1", "Else", ("triage", "answers[0].predict"), 1, 3, (0, 2))
    assert changed.banned == LIBRARY.banned
    assert LIBRARY.pin("E1")["E1"].pinned and not LIBRARY.unpin("E4")["E4"].pinned
    banned = LIBRARY.ban("E1")
    assert "E1" not in banned and banned.banned[-1] == "When X, do Y" and banned.next_id == 9
    assert LIBRARY.to_json() == before


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda lib: lib.without("E7"), KeyError, "no entry 'E7'"),
        (lambda lib: lib.with_text("E7", "x"), KeyError, "no entry 'E7'"),
        (lambda lib: lib.pin("E7"), KeyError, "no entry 'E7'"),
        (lambda lib: lib.ban("e1"), KeyError, "no entry 'e1'"),
        (lambda lib: lib.with_text("E1", " \n"), ValueError, "with_text E1: the text .* is empty"),
        (lambda lib: lib.add(""), ValueError, "add: the text '' is empty"),
        (lambda lib: lib.add(7), TypeError, "add: the text must be a string, got int"),
        (lambda lib: lib.add("x", targets="triage"), TypeError, r"write targets=\['triage'\]"),
    ],
)
def test_a_mistake_says_what_was_meant(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(LIBRARY)


def test_what_is_shown_can_be_read() -> None:
    assert str(ExperienceLibrary()) == "(no experiences)" and ExperienceLibrary().tokens == 0
    assert repr(ExperienceLibrary()) == "ExperienceLibrary of 0 entries, 0 tokens"
    assert repr(LIBRARY) == (
        f"ExperienceLibrary of 2 entries, {LIBRARY.tokens} tokens\n"
        "[E1] When X, do Y | for triage, answers[0].predict | right on 3, wrong on 1 | from examples 0, 2"
        " | added in step 1 | changed in step 3\n"
        "[E4] Never say <|im_start|> or <b> | pinned"
    )
    html = LIBRARY._repr_html_()
    assert "Never say &lt;|im_start|&gt; or &lt;b&gt;" in html and MARK not in html
    assert "<table>" not in ExperienceLibrary()._repr_html_()


def test_a_difference_reads_as_lines() -> None:
    other = LIBRARY.with_text("E1", "Else").unpin("E4").add("New").with_evidence({"E1": ([1], [])})
    found = diff(LIBRARY, other.without("E4"))
    assert bool(found) and not diff(LIBRARY, LIBRARY.with_evidence({"E4": ([1], [2])}))
    assert str(diff(LIBRARY, LIBRARY)) == "(no difference)"
    assert str(found).splitlines() == [
        "- [E4] Never say <|im_start|> or <b> (pinned)",
        "- [E1 | triage, answers[0].predict] When X, do Y",
        "+ [E1 | triage, answers[0].predict] Else",
        "+ [E9] New",
    ]
    assert [(c.before.pinned, c.after.pinned) for c in diff(LIBRARY, other).changed] == [(False, False), (True, False)]


# --- Markdown

numbers = st.lists(st.integers(0, 999), max_size=4).map(lambda ns: tuple(sorted(set(ns))))
advice = st.one_of(st.sampled_from(LESSONS), st.text(max_size=40)).map(clean_entry).filter(bool)
entries = st.builds(
    Experience, st.integers(1, 40).map(lambda n: f"E{n}"), advice, st.sampled_from([(), ("a",), ("a.b", "c[0]")]),
    st.integers(0, 9), st.integers(0, 9), numbers, numbers, numbers, st.booleans(),
    st.sampled_from(["", "Final answers", "A & B: c"]), st.integers(0, 9), st.integers(0, 9),
)  # fmt: skip
libraries = st.builds(
    ExperienceLibrary, st.lists(entries, max_size=5, unique_by=lambda e: e.id).map(tuple), st.integers(41, 99),
    st.lists(advice, max_size=3).map(tuple),
)  # fmt: skip


@settings(deadline=None)
@given(libraries)
def test_markdown_round_trips(library: ExperienceLibrary) -> None:
    assert ExperienceLibrary.from_markdown(library.to_markdown()) == library


def test_markdown_is_a_list_that_people_can_edit() -> None:
    assert LIBRARY.to_markdown() == (
        "# Experiences\n\n"
        "- [E1] When X, do Y\n"
        "  - for: `triage`, `answers[0].predict`\n"
        "  - sources: 0, 2\n  - support: 1, 5, 9\n  - against: 4\n"
        "  - added in step: 1\n  - changed in step: 3\n"
        "- [E4] Never say <|im_start|> or <b>\n  - pinned: yes\n"
        "\n## Banned\n\n- Do Z\n- - odd: pinned: yes\n\nNext id: E9\n"
    )


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("- one\n* two\n1. three\n2) four\n", ["[E1] one", "[E2] two", "[E3] three", "[E4] four"]),
        ("# Rules\n\nRead these.\n\n- one,\n  and more\n\n- two\n\nThe end.", ["[E1] one, and more", "[E2] two"]),
        ("- one\nwrapped\n- two", ["[E1] one wrapped", "[E2] two"]),
        ("- one\n  - part\n  - other\n- two", ["[E1] one - part - other", "[E2] two"]),
        ("- **E5**: five\n- E7. seven\n- new", ["[E5] five", "[E7] seven", "[E8] new"]),
        ("- code:\n```python\n- no item\n# no heading\n```\n- two", ["[E1] code: ```python - no item # no heading ```",
         "[E2] two"]),
        ("", []),
        ("Only prose.", []),
        ("  - indented\n  - again\n", ["[E1] indented", "[E2] again"]),
        ("- [E2] kept\n\nNext id: E7\n\n- late", ["[E2] kept", "[E7] late"]),
        ("- [E2] kept\nNext id: E7\n- late", ["[E2] kept", "[E7] late"]),
        ("- [x] done\n- [ ] open", ["[E1] [x] done", "[E2] [ ] open"]),
    ],
)  # fmt: skip
def test_any_list_is_read(text: str, lines: list[str]) -> None:
    assert [e.line() for e in ExperienceLibrary.from_markdown(text)] == lines


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- [E1] one\n\n- [E1] two", "line 3: the id E1 stands twice"),
        ("- one\n- ", "line 2: the entry has no text"),
        ("- [E1]\n", "line 1: the entry has no text"),
        ("- one\n  - support: 1, few\n", "line 2: 'support: 1, few' can't be read; write numbers"),
    ],
)
def test_an_error_names_the_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExperienceLibrary.from_markdown(text)
