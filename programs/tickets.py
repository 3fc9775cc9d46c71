"""Triage of customer tickets: which queue a ticket belongs to, and how urgent it is.

The company and its house rules are made up (see ``data/tickets_rules.md``). The names of the queues
say nothing about the tickets they receive, so the rules must be learned from the labelled tickets.
"""

import json
from pathlib import Path
from typing import Any

import dspy

from programs.data.tickets_rules import Queue, Urgency

DATA_FILE = Path(__file__).parent / "data" / "tickets.jsonl"
TEST_SIZE = 120


class TriageTicket(dspy.Signature):
    """Decide which internal queue takes a customer ticket, and how urgent the ticket is."""

    ticket: str = dspy.InputField(desc="The customer's message.")
    queue: Queue = dspy.OutputField(desc="The internal queue that takes the ticket.")
    urgency: Urgency = dspy.OutputField(desc="How soon the ticket must be looked at.")


def program() -> dspy.Module:
    """Return a fresh, unoptimized triage program."""
    return dspy.Predict(TriageTicket)


def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> dspy.Prediction:
    """Score a prediction: half a point for the queue, half a point for the urgency.

    Args:
        example: The labelled ticket.
        prediction: The output of the program; missing fields count as wrong.
        trace: Ignored; part of the interface of metrics.

    Returns:
        A prediction with the ``score`` and with ``feedback`` that says what was expected and what
        was given, but not why.
    """
    queue_score, queue_feedback = _compare("queue", example, prediction)
    urgency_score, urgency_feedback = _compare("urgency", example, prediction)
    return dspy.Prediction(
        score=0.5 * queue_score + 0.5 * urgency_score,
        feedback=f"{queue_feedback} {urgency_feedback}",
    )


def trainset() -> list[dspy.Example]:
    """Return the 80 tickets to learn from."""
    return _examples("train")


def valset() -> list[dspy.Example]:
    """Return the 60 tickets to choose between candidates with."""
    return _examples("val")


def testset() -> list[dspy.Example]:
    """Return the first 120 test tickets, which are stratified; the file holds some more."""
    return _examples("test")[:TEST_SIZE]


def _compare(field: str, example: dspy.Example, prediction: Any) -> tuple[float, str]:
    """Score one output field and describe the result."""
    expected = example[field]
    given = _normalized(prediction, field)
    if given == expected:
        return 1.0, f"{field.capitalize()} '{expected}' is right."
    answer = f"'{given}'" if given else "nothing"
    return 0.0, f"Expected {field} '{expected}', got {answer}."


def _normalized(prediction: Any, field: str) -> str:
    """Return a field of the prediction in lower case without blanks around it, "" if it is missing."""
    value = prediction.get(field) if hasattr(prediction, "get") else getattr(prediction, field, None)
    return "" if value is None else str(value).strip().lower()


def _examples(split: str) -> list[dspy.Example]:
    """Return the tickets of a split in the order of the file."""
    rows = map(json.loads, DATA_FILE.read_text(encoding="utf-8").splitlines())
    return [
        dspy.Example(ticket=row["text"], queue=row["queue"], urgency=row["urgency"]).with_inputs("ticket")
        for row in rows
        if row["split"] == split
    ]
