"""Tests of the ticket target: the data against the house rules, the metric and the loaders."""

import itertools
import json
import re
from collections import Counter
from typing import Any

import dspy
import pytest

from programs import tickets
from programs.data.tickets_rules import CONDITIONAL_RULES, QUEUES, RULES, TOPICS, URGENCIES, label

ROWS: list[dict[str, Any]] = [json.loads(line) for line in tickets.DATA_FILE.read_text(encoding="utf-8").splitlines()]
PLANS = ("free", "team", "business", "enterprise")
APAC_PLACES = {
    "Singapore",
    "Auckland",
    "Osaka",
    "Melbourne",
    "Mumbai",
    "Seoul",
    "Manila",
    "Bangkok",
    "Taipei",
    "Perth",
    "Sydney",
    "Kuala Lumpur",
}
NUMBERS = dict(
    zip(
        ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
        range(1, 13),
        strict=True,
    )
)
UNIT_DAYS = {"day": 1, "week": 7, "month": 30, "year": 365}
AGE = re.compile(rf"\b(\d+|a|{'|'.join(NUMBERS)}) (day|week|month|year)s?\b", re.IGNORECASE)


def _used(split: str) -> list[dict[str, Any]]:
    rows = [row for row in ROWS if row["split"] == split]
    return rows[: tickets.TEST_SIZE] if split == "test" else rows


def _ages(text: str) -> set[int]:
    """Return every span of time in a text, in days."""
    ages = set()
    for count, unit in AGE.findall(text):
        number = int(count) if count.isdigit() else NUMBERS.get(count.lower(), 1)
        ages.add(number * UNIT_DAYS[unit.lower()])
    return ages


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_labels_follow_the_house_rules(row: dict[str, Any]) -> None:
    """The labels are what the house rules say."""
    assert (row["queue"], row["urgency"], row["rule"]) == label(row["facts"])


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_facts_agree_with_the_text(row: dict[str, Any]) -> None:
    """What the facts state can be read in the text."""
    facts, text = row["facts"], row["text"]
    named = re.findall(r"\b(free|team|business|enterprise) (?:plan|account|tier)\b", text)
    assert set(named) <= {facts.get("plan")}
    if "plan" in facts:
        assert facts["plan"] in PLANS
        assert facts["plan"] in text.lower()
    elif facts["topic"] in ("refund", "api"):
        assert not re.search(r"\b(enterprise|free)\b", text, re.IGNORECASE)
    if facts["topic"] == "refund":
        amounts = {int(amount.replace(",", "")) for amount in re.findall(r"\$(\d[\d,]*\d|\d)", text)}
        assert amounts == {facts["amount"]}
    if facts["topic"] == "cancel":
        assert _ages(text) == {facts["account_days"]}
    if facts["topic"] == "delivery":
        assert any(place in text for place in APAC_PLACES) == (facts["region"] == "apac")
    if facts["topic"] in ("calibration", "export"):
        assert bool(re.search(r"inspect|audit", text, re.IGNORECASE)) == facts["inspection"]


def test_fields_ids_and_lengths() -> None:
    """Every line has the same fields, an id of its own and a text of 20 to 90 words."""
    assert len(ROWS) >= 280
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert list(row) == ["id", "text", "queue", "urgency", "rule", "facts", "split"]
        assert 20 <= len(row["text"].split()) <= 90, row["id"]


def test_split_sizes() -> None:
    """The splits have the agreed sizes."""
    sizes = Counter(row["split"] for row in ROWS)
    assert set(sizes) == {"train", "val", "test"}
    assert (sizes["train"], sizes["val"]) == (80, 60)
    assert sizes["test"] >= tickets.TEST_SIZE == 120


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_label_rule_and_topic_is_in_every_split(split: str) -> None:
    """No split lacks a queue, an urgency, a rule or a topic."""
    rows = _used(split)
    assert {row["queue"] for row in rows} == set(QUEUES)
    assert {row["urgency"] for row in rows} == set(URGENCIES)
    assert {row["rule"] for row in rows} == set(RULES)
    assert {row["facts"]["topic"] for row in rows} == set(TOPICS)


def test_labels_are_balanced() -> None:
    """No label is rare or dominant, and conditional rules decide a fifth or so."""
    queues = Counter(row["queue"] for row in ROWS)
    assert min(queues.values()) >= 0.07 * len(ROWS)
    assert max(queues.values()) <= 0.18 * len(ROWS)
    assert max(Counter(row["urgency"] for row in ROWS).values()) <= 0.5 * len(ROWS)
    conditional = sum(row["rule"] in CONDITIONAL_RULES for row in ROWS)
    assert 0.15 <= conditional / len(ROWS) <= 0.25


def test_no_near_duplicates() -> None:
    """No two tickets share most of their words."""
    bags = [(row["id"], _words(row["text"])) for row in ROWS]
    for (first, one), (second, other) in itertools.combinations(bags, 2):
        assert len(one & other) < 0.4 * len(one | other), (first, second)


def test_tickets_share_no_four_letters_with_queue_names() -> None:
    """The names of the queues cannot be matched with the tickets."""
    for row, queue in itertools.product(ROWS, QUEUES):
        grams = {queue[start : start + 4] for start in range(len(queue) - 3)}
        assert not any(gram in row["text"].lower() for gram in grams), (row["id"], queue)


def test_labels_at_the_limits_of_the_rules() -> None:
    """Limits are exclusive as documented, and the order of the rules holds."""
    assert label({"topic": "refund", "amount": 500}) == ("harbor", "this_week", "R03")
    assert label({"topic": "refund", "amount": 501}) == ("juniper", "this_week", "R02")
    assert label({"topic": "refund", "amount": 501, "plan": "enterprise"}) == ("walnut", "this_week", "R01")
    assert label({"topic": "refund", "amount": 99, "plan": "enterprise"}) == ("walnut", "whenever", "R01")
    assert label({"topic": "cancel", "account_days": 89}) == ("falcon", "today", "R05")
    assert label({"topic": "cancel", "account_days": 90}) == ("juniper", "today", "R06")
    assert label({"topic": "api", "plan": "free"}) == ("anvil", "whenever", "R12")
    with pytest.raises(KeyError):
        label({"topic": "weather"})


def test_rules_are_documented() -> None:
    """The document lists the same rules as the code."""
    text = (tickets.DATA_FILE.parent / "tickets_rules.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| (R\d\d)(\*?) \|.*\| `(\w+)` \|$", text, re.MULTILINE)
    assert [(rule, queue) for rule, _, queue in documented] == list(RULES.items())
    assert {rule for rule, star, _ in documented if star} == CONDITIONAL_RULES


@pytest.mark.parametrize(
    ("split", "load"), [("train", tickets.trainset), ("val", tickets.valset), ("test", tickets.testset)]
)
def test_loaders(split: str, load: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """The loaders return the rows of their split in order and print nothing."""
    examples = load()
    assert [example.toDict() for example in examples] == [
        {"ticket": row["text"], "queue": row["queue"], "urgency": row["urgency"]} for row in _used(split)
    ]
    assert set(examples[0].inputs().keys()) == {"ticket"}
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_loader_notices_a_changed_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed file is read again."""
    path = tmp_path / "tickets.jsonl"
    monkeypatch.setattr(tickets, "DATA_FILE", path)
    for row in _used("train")[:2]:
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        assert [example.ticket for example in tickets.trainset()] == [row["text"]]


def test_program_predicts_both_fields() -> None:
    """The program returns queue and urgency."""
    answer = {"queue": "anvil", "urgency": "today"}
    with dspy.context(lm=dspy.utils.DummyLM([answer])):
        prediction = tickets.program()(ticket="The gateway is offline.")
    assert (prediction.queue, prediction.urgency) == ("anvil", "today")


def test_instruction_names_no_rules() -> None:
    """The instruction gives nothing away."""
    text = tickets.TriageTicket.instructions.lower()
    assert not any(word in text for word in (*QUEUES, *URGENCIES, *TOPICS))


@pytest.mark.parametrize(
    ("answer", "score", "feedback"),
    [
        (
            {"queue": "harbor", "urgency": "today"},
            1.0,
            "Queue 'harbor' is right. Urgency 'today' is right.",
        ),
        (
            {"queue": "gypsum", "urgency": "Today "},
            0.5,
            "Expected queue 'harbor', got 'gypsum'. Urgency 'today' is right.",
        ),
        (
            {"queue": "harbor", "urgency": None},
            0.5,
            "Queue 'harbor' is right. Expected urgency 'today', got nothing.",
        ),
        ({}, 0.0, "Expected queue 'harbor', got nothing. Expected urgency 'today', got nothing."),
    ],
)
def test_metric(answer: dict[str, Any], score: float, feedback: str) -> None:
    """The metric scores each field and says what was expected and given."""
    example = dspy.Example(ticket="...", queue="harbor", urgency="today").with_inputs("ticket")
    result = tickets.metric(example, dspy.Prediction(**answer))
    assert (result.score, result.feedback) == (score, feedback)


def test_metric_survives_a_failed_prediction() -> None:
    """A prediction that failed altogether scores zero."""
    example = dspy.Example(ticket="...", queue="harbor", urgency="today").with_inputs("ticket")
    assert tickets.metric(example, None).score == 0.0
