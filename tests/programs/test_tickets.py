"""The ticket target: the data against the house rules, the metric and the loaders."""

from __future__ import annotations

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
    "Singapore", "Auckland", "Osaka", "Melbourne", "Mumbai", "Seoul", "Manila", "Bangkok", "Taipei", "Perth", "Sydney",
    "Kuala Lumpur",
}  # fmt: skip
COUNTED = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBERS = {word: number for number, word in enumerate(COUNTED, 1)}
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


def test_labels_follow_the_house_rules() -> None:
    assert [r["id"] for r in ROWS if (r["queue"], r["urgency"], r["rule"]) != label(r["facts"])] == []


def test_facts_agree_with_the_text() -> None:
    assert [row["id"] for row in ROWS if not _agrees(row["facts"], row["text"])] == []


def _agrees(facts: dict[str, Any], text: str) -> bool:
    """Whether what the facts state can be read in the text."""
    topic = facts["topic"]
    named = set(re.findall(r"\b(free|team|business|enterprise) (?:plan|account|tier)\b", text))
    found = [named <= {facts.get("plan")}]
    if "plan" in facts:
        found += [facts["plan"] in PLANS, facts["plan"] in text.lower()]
    elif topic in ("refund", "api"):
        found.append(not re.search(r"\b(enterprise|free)\b", text, re.IGNORECASE))
    if topic == "refund":
        found.append({int(a.replace(",", "")) for a in re.findall(r"\$(\d[\d,]*\d|\d)", text)} == {facts["amount"]})
    if topic == "cancel":
        found.append(_ages(text) == {facts["account_days"]})
    if topic == "delivery":
        found.append(any(place in text for place in APAC_PLACES) == (facts["region"] == "apac"))
    if topic in ("calibration", "export"):
        found.append(bool(re.search(r"inspect|audit", text, re.IGNORECASE)) == facts["inspection"])
    return all(found)


def test_fields_ids_and_lengths() -> None:
    assert len(ROWS) >= 280
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert list(row) == ["id", "text", "queue", "urgency", "rule", "facts", "split"]
        assert 20 <= len(row["text"].split()) <= 90, row["id"]


@pytest.mark.parametrize(("split", "size"), [("train", 80), ("val", 60), ("test", tickets.TEST_SIZE)])
def test_every_label_rule_and_topic_is_in_every_split(split: str, size: int) -> None:
    rows = _used(split)
    assert len(rows) == size and tickets.TEST_SIZE == 120
    assert {row["queue"] for row in rows} == set(QUEUES)
    assert {row["urgency"] for row in rows} == set(URGENCIES)
    assert {row["rule"] for row in rows} == set(RULES)
    assert {row["facts"]["topic"] for row in rows} == set(TOPICS)


def test_labels_are_balanced() -> None:
    queues = Counter(row["queue"] for row in ROWS)
    assert min(queues.values()) >= 0.07 * len(ROWS)
    assert max(queues.values()) <= 0.18 * len(ROWS)
    assert max(Counter(row["urgency"] for row in ROWS).values()) <= 0.5 * len(ROWS)
    conditional = sum(row["rule"] in CONDITIONAL_RULES for row in ROWS)
    assert 0.15 <= conditional / len(ROWS) <= 0.25


def test_no_near_duplicates() -> None:
    bags = [(row["id"], _words(row["text"])) for row in ROWS]
    for (first, one), (second, other) in itertools.combinations(bags, 2):
        assert len(one & other) < 0.4 * len(one | other), (first, second)


def test_tickets_share_no_four_letters_with_queue_names() -> None:
    for row, queue in itertools.product(ROWS, QUEUES):
        grams = {queue[start : start + 4] for start in range(len(queue) - 3)}
        assert not any(gram in row["text"].lower() for gram in grams), (row["id"], queue)


def test_labels_at_the_limits_of_the_rules() -> None:
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
    text = (tickets.DATA_FILE.parent / "tickets_rules.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| (R\d\d)(\*?) \|.*\| `(\w+)` \|$", text, re.MULTILINE)
    assert [(rule, queue) for rule, _, queue in documented] == list(RULES.items())
    assert {rule for rule, star, _ in documented if star} == CONDITIONAL_RULES


@pytest.mark.parametrize(
    ("split", "load"), [("train", tickets.trainset), ("val", tickets.valset), ("test", tickets.testset)]
)
def test_loaders(split: str, load: Any, capfd: pytest.CaptureFixture[str]) -> None:
    examples = load()
    assert [example.toDict() for example in examples] == [
        {"ticket": row["text"], "queue": row["queue"], "urgency": row["urgency"]} for row in _used(split)
    ]
    assert set(examples[0].inputs().keys()) == {"ticket"}
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_loader_notices_a_changed_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tickets.jsonl"
    monkeypatch.setattr(tickets, "DATA_FILE", path)
    for row in _used("train")[:2]:
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        assert [example.ticket for example in tickets.trainset()] == [row["text"]]


def test_program_predicts_both_fields() -> None:
    answer = {"queue": "anvil", "urgency": "today"}
    with dspy.context(lm=dspy.utils.DummyLM([answer])):
        prediction = tickets.program()(ticket="The gateway is offline.")
    assert (prediction.queue, prediction.urgency) == ("anvil", "today")


def test_instruction_names_no_rules() -> None:
    text = tickets.TriageTicket.instructions.lower()
    assert not any(word in text for word in (*QUEUES, *URGENCIES, *TOPICS))


@pytest.mark.parametrize(
    ("answer", "score", "feedback"),
    [
        (("harbor", "today"), 1.0, "Queue 'harbor' is right. Urgency 'today' is right."),
        (("gypsum", "Today "), 0.5, "Expected queue 'harbor', got 'gypsum'. Urgency 'today' is right."),
        (("harbor", None), 0.5, "Queue 'harbor' is right. Expected urgency 'today', got nothing."),
        ((), 0.0, "Expected queue 'harbor', got nothing. Expected urgency 'today', got nothing."),
        (None, 0.0, "Expected queue 'harbor', got nothing. Expected urgency 'today', got nothing."),
    ],
)
def test_metric(answer: tuple[Any, ...] | None, score: float, feedback: str) -> None:
    example = dspy.Example(ticket="...", queue="harbor", urgency="today").with_inputs("ticket")
    given = None if answer is None else dspy.Prediction(**dict(zip(("queue", "urgency"), answer, strict=False)))
    result = tickets.metric(example, given)
    assert (result.score, result.feedback) == (score, feedback)
