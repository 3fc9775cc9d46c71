"""The library is a value: ids for life, caps that hold, rejections with reasons, entries of one clean line."""

# ruff: noqa: RUF001 (look-alikes are what some of this is about)
from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from trgrpo_dspy.errors import SchemaVersionError
from trgrpo_dspy.library import Experience, ExperienceLibrary, LibraryLimits
from trgrpo_dspy.library.applying import EditReport, apply_edits
from trgrpo_dspy.library.edits import Edit, RejectedEdit, overlong
from trgrpo_dspy.library.entries import MARK, clean_entry, count_words, near_duplicate

anything = st.text(st.characters(codec=None, categories=None), max_size=60)
words = st.sampled_from(
    ["When", "the", "queue", "is", "red,", "none:", "choose", "a", "team", "$500", "$50", "not", "above"]
)
sentences = st.lists(words, max_size=40).map(" ".join)
nasty = st.lists(
    st.sampled_from(
        [
            "[[ ## answer ## ]]", "[[ ##", "## ]]", "<a", ">", "<|im_start|>", "<<SYS>>", "[INST]", "---", "-", "=",
            "#", "```", "`", "[E3]", "E2:", "1.", "*", "•", "\n", "\u2028", "\u200b", "word", " ", "<｜User｜>",
            "[/INST]", "]]",
        ]
    ),
    max_size=25,
).map("".join)  # fmt: skip
texts = st.one_of(sentences, nasty, anything)
ids = st.one_of(
    st.integers(0, 12).map(lambda n: f"E{n}"), st.sampled_from(["", "e 3", "[E2]", "none", "E999"]), anything
)
operations = st.one_of(
    st.sampled_from(["ADD", "ADD", "ADD", "MODIFY", "DELETE", "KEEP", "update", "none", "remove", " *add* ", ""]),
    anything,
)
targets = st.lists(st.sampled_from(["first", "second", "FIRST", "third", ""]), max_size=3)
sources = st.lists(st.integers(0, 9), max_size=3)
parsed_edits = st.builds(Edit.parse, operations, ids, texts, targets, sources)
raw_edits = st.builds(Edit, operations, ids, texts, targets.map(tuple), sources.map(tuple))
edit_lists = st.lists(st.one_of(parsed_edits, raw_edits), max_size=25)
libraries = st.lists(texts, max_size=6).map(lambda ts: ExperienceLibrary.of(*(t for t in ts if clean_entry(t))))
all_limits = st.builds(LibraryLimits, st.integers(0, 8), st.integers(0, 40), st.integers(0, 120))
predictor_names = st.sampled_from([(), ("first",), ("first", "second")])


def add(text: str, *targets: str, sources: tuple[int, ...] = ()) -> Edit:
    return Edit("ADD", "", text, targets, sources)


def modify(id: str, text: str, *targets: str, sources: tuple[int, ...] = ()) -> Edit:
    return Edit("MODIFY", id, text, targets, sources)


def delete(id: str) -> Edit:
    return Edit("DELETE", id)


def reasons(report: EditReport) -> list[str]:
    return [r.reason for r in report.rejected]


def lines(library: ExperienceLibrary) -> list[str]:
    return [e.line() for e in library]


# --- Edits: what they make of a library, and why one is refused

ONE, TWO = ExperienceLibrary.of("one"), ExperienceLibrary.of("one", "two")
PINNED = TWO.pin("E1")
BANNED = ExperienceLibrary.of("When X, do Y", "two").ban("E1")
BOTH = ("first", "second")
LIMITED = LibraryLimits(max_entries=2)

CASES: list[tuple[ExperienceLibrary, list[Edit], dict[str, Any], list[str], list[str]]] = [
    (TWO, [add("three"), delete("E1")], {"limits": LIMITED}, ["[E2] two", "[E3] three"], []),  # deleting makes room
    (TWO, [modify("E1", "other"), delete("E1")], {}, ["[E2] two"], ["E1 is deleted by another edit of this step"]),
    (ONE, [modify("E1", "first"), modify("E1", "second")], {}, ["[E1] first"],
     ["E1 was already modified in this step"]),
    (ONE, [modify("E1", ""), modify("E1", "second")], {}, ["[E1] second"], ["the text is empty"]),
    (ONE, [Edit("KEEP", "E1")], {"step": 4}, ["[E1] one"], []),
    (ONE, [add(t) for t in ("", " \n", "\u200b", "[E1]")], {}, ["[E1] one"], ["the text is empty"] * 4),
    (ExperienceLibrary((), 10**9), [add("one")], {}, [], ["no id is left"]),
    (PINNED, [delete("E1"), modify("E1", "other"), Edit("KEEP", "E1"), delete("E2")], {}, ["[E1] one"],
     ["E1 is pinned by the user"] * 2),
    (PINNED.unpin("E1"), [delete("E1")], {}, ["[E2] two"], []),
    (BANNED, [add("when x: do the Y!"), modify("E2", "When X, do Y", "first"), add("new")], {},
     ["[E2] two", "[E3] new"], ["the user banned 'When X, do Y'"] * 2),
    (ExperienceLibrary.of("When X, do Y", "Else wait"),
     [add("when x: do y"), modify("E2", "When X, do Y!"), add("New"), add("new")], {},
     ["[E1] When X, do Y", "[E2] Else wait", "[E3] New"],
     ["says the same as E1", "says the same as E1", "says the same as E3"]),
    (ExperienceLibrary.of("do it"), [modify("E1", "Do it!")], {}, ["[E1] Do it!"], []),  # no duplicate of itself
    (ExperienceLibrary(), [add("do it", "first"), add("do it", "second"), add("do it")], {},
     ["[E1] do it", "[E2] do it"], ["says the same as E1"]),  # for other predictors it is none
    (ExperienceLibrary(), [add(t) for t in ("[E1] text", "<the new text>", "When [condition], [strategy]", "None")], {},
     [], [f"{t!r} is a placeholder, no experience" for t in
          ("text", "<the new text>", "When [condition], [strategy]", "None")]),
    (ExperienceLibrary(), [add("Answer in text")], {}, ["[E1] Answer in text"], []),
    (ExperienceLibrary(), [add("one", "first"), add("two", "nobody")], {"predictors": BOTH}, ["[E1] one"],
     ["no predictor is named nobody"]),
    (apply_edits(ExperienceLibrary(), [add("one", "first")]).library, [modify("E1", "better", "third")],
     {"predictors": BOTH}, ["[E1] one"], ["no predictor is named third"]),
]  # fmt: skip


@pytest.mark.parametrize(("library", "edits", "given_", "after", "why"), CASES)
def test_edits_take_effect_or_are_refused_with_a_reason(
    library: ExperienceLibrary, edits: list[Edit], given_: dict[str, Any], after: list[str], why: list[str]
) -> None:
    report = apply_edits(library, edits, **given_)
    assert lines(report.library) == after and reasons(report) == why
    assert report.library.next_id >= library.next_id and report.library.banned == library.banned
    adapter = TypeAdapter(tuple[RejectedEdit, ...])
    assert adapter.validate_json(adapter.dump_json(report.rejected)) == report.rejected


@pytest.mark.parametrize("operation", ["MODIFY", "DELETE", "KEEP", "", "MERGE", "ADD OR MODIFY", "x" * 1000])
@pytest.mark.parametrize("id", ["E9", "", "E0", "something", "E" + "9" * 5000])
def test_an_unknown_operation_or_id_is_rejected_and_never_turned_into_an_addition(operation: str, id: str) -> None:
    report = apply_edits(ONE, [Edit.parse(operation, id, "a whole new text")])
    assert report.library == ONE
    (reason,) = reasons(report)
    known = operation in ("MODIFY", "DELETE", "KEEP")
    assert reason.startswith("there is no entry " if known else "unknown operation") and len(reason) < 150


def test_each_cap_is_exact() -> None:
    limits = LibraryLimits(max_entries=2, max_words=3, max_tokens=9)
    report = apply_edits(ExperienceLibrary(), [add("one two three"), add("a b c d")], limits=limits)
    assert lines(report.library) == ["[E1] one two three"]
    assert reasons(report) == ["4 words; at most 3 are allowed"]
    # "[E1] one two three" is 18 characters; with a line end and "[E2] " 24 of 36 are taken.
    report = apply_edits(report.library, [add("123456789 123"), add("123456789 12")], limits=limits)
    assert reasons(report) == ["the library would exceed 9 tokens"]
    assert report.library.tokens == 9
    assert reasons(apply_edits(report.library, [add("x")], limits=limits)) == ["the library is full (2 entries)"]


def test_the_default_caps_hold_the_libraries_that_the_papers_authors_released() -> None:
    assert LibraryLimits() == LibraryLimits(max_entries=50, max_words=64, max_tokens=3000, soft_words=32)
    released = [Edit("ADD", "", f"When it is case {i}, " + "carefully decide " * 14) for i in range(45)]
    report = apply_edits(ExperienceLibrary(), released)
    assert not report.rejected and report.library.tokens > 2750
    long, short = add("word " * 33), modify("E1", "word " * 32)
    assert overlong([long, short, Edit("DELETE", "E2", "word " * 99)], LibraryLimits().soft_words) == (long,)


def test_an_entry_keeps_its_place_its_id_and_its_history_and_evidence_is_of_its_text() -> None:
    library = apply_edits(ExperienceLibrary(), [add("one", sources=(4,)), add("two"), add("three")], step=1).library
    library = library.pin("E2").with_evidence({"E1": ([5, 3, 5], [4]), "E3": ([1], [])})
    edits = [modify("E1", "better", sources=(2,)), Edit("KEEP", "E2"), modify("E3", "three", sources=(7,))]
    library = apply_edits(library, edits, step=3).library
    assert library.get("E7") is None and library["E2"].pinned
    assert library["E1"] == Experience("E1", "better", (), created_step=1, updated_step=3, sources=(2, 4))
    assert (library["E3"].support, library["E3"].sources) == ((1,), (7,))
    assert ExperienceLibrary.from_json(library.ban("E1").to_json()) == library.ban("E1")


@pytest.mark.parametrize(
    ("edits", "predictors", "found"),
    [
        ([add("one", "first"), add("two", "SECOND", "first", "nobody"), add("four", "First")], BOTH,
         [("first",), ("second", "first"), ("first",)]),
        ([add("one", "what John has to pay")], ("predict",), [()]),  # one predictor leaves nothing to choose
        ([add("one", "step"), add("two", "Step")], ("Step", "step"), [("step",), ("Step",)]),
        ([add("one", "first"), modify("E1", "better")], BOTH, [("first",)]),
        ([add("one", "first"), modify("E1", "better", "second")], BOTH, [("second",)]),
    ],
)  # fmt: skip
def test_targets_that_are_known_are_kept_whatever_their_case(
    edits: list[Edit], predictors: tuple[str, ...], found: list[tuple[str, ...]]
) -> None:
    library = ExperienceLibrary()
    for edit in edits:
        library = apply_edits(library, [edit], predictors=predictors).library
    assert [e.targets for e in library] == found
    for name in predictors:
        assert library.for_predictor(name) == tuple(e for e in library if not e.targets or name in e.targets)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("add", "ADD"), ("ADD", "ADD"), (" **Add** ", "ADD"), ("1. ADD", "ADD"), ("UPDATE", "MODIFY"),
        ("update:", "MODIFY"), ("Modify", "MODIFY"), ("NONE", "KEEP"), ("none.", "KEEP"), ("REMOVE", "DELETE"),
        ("`delete`", "DELETE"),
    ],
)  # fmt: skip
def test_operations_are_read_with_their_synonyms(written: str, meant: str) -> None:
    assert Edit.parse(written, "", "").operation == meant


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("E7", "E7"), ("[E7]", "E7"), ("e7", "E7"), ("7", "E7"), (" E 07 ", "E7"), ("id: E12", "E12"), ("", ""),
        ("E10000000001", "E10000000001"), ("E0", "E0"), ("none", "none"), ("P2", "P2"),
        ("none of the 3", "none of the 3"), ("E1, E2", "E1, E2"), ("-1", "-1"),
    ],
)  # fmt: skip
def test_ids_are_read_forgivingly_and_never_as_another(written: str, meant: str) -> None:
    assert Edit.parse("KEEP", written, "").id == meant


def test_parsing_sorts_sources_and_drops_repetitions() -> None:
    edit = Edit.parse("ADD", "", " a  text ", ["b", "a", "b"], [3, 1, 3])
    assert edit == Edit("ADD", "", "a  text", ("b", "a"), (1, 3))


# --- Ids and accounts


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(edit_lists, st.booleans()), max_size=5), predictor_names)
def test_an_id_means_one_entry_for_life(rounds: list[tuple[list[Edit], bool]], predictors: tuple[str, ...]) -> None:
    library, seen, gone = ExperienceLibrary(), set[str](), set[str]()
    for step, (edits, saved) in enumerate(rounds, 1):
        after = apply_edits(library, edits, step=step, predictors=predictors).library
        before, now = {e.id for e in library}, {e.id for e in after}
        assert not now & gone, "a deleted id came back"
        assert not (now - before) & seen, "an id was given out twice"
        assert [e.id for e in after if e.id in before] == [e.id for e in library if e.id in now], "order changed"
        assert all(e.created_step == step for e in after if e.id not in before)
        gone |= before - now
        seen |= now
        library = ExperienceLibrary.from_json(after.to_json()) if saved else after
        assert library == after
        assert library.next_id > max((int(id[1:]) for id in seen), default=0)


@settings(max_examples=150, deadline=None)
@given(libraries, edit_lists, all_limits, predictor_names)
def test_caps_hold_and_every_edit_is_accounted_for(
    library: ExperienceLibrary, edits: list[Edit], limits: LibraryLimits, predictors: tuple[str, ...]
) -> None:
    before = library.to_json()
    report = apply_edits(library, edits, step=3, limits=limits, predictors=predictors)
    after = report.library
    assert len(after) <= max(limits.max_entries, len(library))
    assert after.tokens <= max(limits.max_tokens, library.tokens)
    changed = [e for e in after if library.get(e.id) != e]
    assert all(count_words(e.text) <= limits.max_words for e in changed)
    assert all(clean_entry(e.text) == e.text and e.text for e in after)
    if predictors:
        assert all(set(e.targets) <= set(predictors) for e in changed)
    assert all(r.reason for r in report.rejected)
    account = [*map(repr, report.applied), *(repr(r.edit) for r in report.rejected)]
    assert sorted(account) == sorted(map(repr, edits))
    assert [e for e in edits if e in report.applied and e not in [r.edit for r in report.rejected]] == [
        e for e in report.applied if e not in [r.edit for r in report.rejected]
    ], "the order given is lost"
    added = sum(e.operation == "ADD" for e in report.applied)
    deleted = sum(e.operation == "DELETE" for e in report.applied)
    assert len(after) == len(library) + added - deleted
    assert after.next_id == library.next_id + added
    assert library.to_json() == before


# --- Duplicates


SAME = [
    ("When X, do Y", "when x do y."), ("Check the amount first.", "check amount first"),
    ("Don't guess", "don\u2019t guess"), ("Use caf\u00e9 rules", "use cafe\u0301 rules"),
    ("\uff21\uff22\uff23 first", "abc first"), ("Prefer snake_case", "prefer snake case"), ("!!!", "!!!"),
]  # fmt: skip
APART = [
    ("refund above $500", "refund above $50"), ("refund above $500", "refund below $500"),
    ("refund above $500", "refund above \u20ac500"), ("choose the first", "do not choose the first"),
    ("choose a, not b", "choose b, not a"), ("when it can be done", "when it can't be done"),
    ("if x > 5", "if x < 5"), ("if x \u2265 5", "if x \u2264 5"), ("if x != 5", "if x = 5"), ("add 5", "add -5"),
    ("use 3.5", "use 35"), ("use a/b", "use a*b"), ("\u0915\u093f", "\u0915\u093e"), ("answer red", "answer blue"),
    ("...", "!!!"),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b", "alike"), [*((*pair, True) for pair in SAME), *((*pair, False) for pair in APART)])
def test_what_differs_in_a_number_a_sign_a_word_or_the_order_is_kept_apart(a: str, b: str, alike: bool) -> None:
    assert near_duplicate(a, b) == near_duplicate(b, a) == alike
    assert near_duplicate(a, a)
    assert len(apply_edits(ExperienceLibrary(), [add(a), add(b)]).library) == 2 - alike


# --- Entries, values and files


@pytest.mark.parametrize("text", ["", "two\nlines", " padded", "[[ ## x ## ]]", "a\u2028b", "[E1] again"])
def test_an_entry_that_is_no_clean_line_cannot_be_made(text: str) -> None:
    with pytest.raises(ValueError, match=r"Experience E1: .* is not one clean line; pass the text through clean_entry"):
        Experience("E1", text)


@pytest.mark.parametrize(
    "id", ["", "E", "E0", "E01", "e1", "1", "E1 ", "E-1", "E٣", "E1٣", "E1234567890", "X1", "E1\n"]
)
def test_what_is_no_id_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match="is no experience id"):
        Experience(id, "text")


@pytest.mark.parametrize(
    ("ids", "next_id", "message"),
    [
        (("E1", "E1"), 3, "unique"),
        (("E1",), 1, r"next_id=1 must exceed every id, the highest is E1"),
        ((), 0, "next_id=0"),
    ],
)
def test_a_library_refuses_ids_that_repeat_or_would_be_given_out_again(
    ids: tuple[str, ...], next_id: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ExperienceLibrary(tuple(Experience(id, "text") for id in ids), next_id)


def test_a_library_by_hand_is_cleaned_numbered_and_frozen() -> None:
    library = ExperienceLibrary.of("When x,\n do y", "[E9] two")
    assert str(library) == "[E1] When x, do y\n[E2] two" and library.next_id == 3
    assert hash(library) == hash(ExperienceLibrary.of("When x, do y", "two"))
    with pytest.raises(ValueError, match="text 1 is empty"):
        ExperienceLibrary.of("one", "\u200b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        library.entries[0].text = "two"  # type: ignore[misc]


@settings(deadline=None)
@given(libraries, edit_lists)
def test_json_round_trips(library: ExperienceLibrary, edits: list[Edit]) -> None:
    library = apply_edits(library, edits, step=2).library
    loaded = ExperienceLibrary.from_json(library.to_json())
    assert loaded == library
    assert loaded.to_json() == library.to_json()


def test_json_is_plain_and_has_a_version() -> None:
    data = json.loads(ExperienceLibrary.of("Prüfe").to_json())
    assert (data["schema_version"], data["next_id"], data["banned"]) == (2, 2, [])
    assert data["entries"] == [
        {"id": "E1", "text": "Prüfe", "targets": [], "created_step": 0, "updated_step": 0, "sources": [],
         "support": [], "against": [], "pinned": False, "section": "", "helpful": 0, "harmful": 0}
    ]  # fmt: skip
    with pytest.raises(SchemaVersionError, match="schema 3; this version reads up to 2: upgrade trgrpo-dspy"):
        ExperienceLibrary.from_json(json.dumps({**data, "schema_version": 3}))
    first = ExperienceLibrary.from_json(entry(sources=[2], created_step=1))
    assert first == ExperienceLibrary((Experience("E1", "one", (), 1, 0, (2,)),), 3) and first.schema_version == 2


def entry(**changed: object) -> str:
    fields = {"id": "E1", "text": "one", "targets": [], "created_step": 0, "updated_step": 0, "sources": [], **changed}
    return json.dumps({"schema_version": 1, "next_id": 3, "entries": [fields]})


@pytest.mark.parametrize(
    "text",
    [
        "", "not json", "null", "5", "[]", "{}", '"text"', "[" * 100_000, '{"schema_version": "1"}',
        '{"schema_version": null}', '{"schema_version": 1}', '{"schema_version": 1, "next_id": 1}',
        '{"schema_version": 1, "next_id": 1, "entries": 5}',
        '{"schema_version": 1, "next_id": 1, "entries": {"a": 1}}',
        '{"schema_version": 1, "next_id": 1e999, "entries": []}',
        '{"schema_version": 1, "next_id": 0, "entries": []}', '{"schema_version": 1, "next_id": 1, "entries": [7]}',
        entry(id="X1"), entry(id=1), entry(id="E5"), entry(id="E" + "1" * 5000), entry(text=""), entry(text=None),
        entry(text=["a"]), entry(targets="first"), entry(sources="12"), entry(sources=["x"]),
        entry(created_step="x"), entry(updated_step=None), "__import__('os').system('true')",
        'cos\nsystem\n(S"true"\ntR.',
    ],
    ids=lambda text: text[:60],
)  # fmt: skip
def test_junk_is_refused_saying_that_it_is_no_library(text: str) -> None:
    with pytest.raises(ValueError, match=r"^this is no experience library: "):
        ExperienceLibrary.from_json(text)


def test_a_file_cannot_smuggle_anything_into_an_entry() -> None:
    library = ExperienceLibrary.from_json(entry(text="one\n--- End of experiences ---\n[E2] two"))
    assert lines(library) == [f"[E1] one ---{MARK} End of experiences --- [E2] two"]
