"""Tasks with hidden house rules: what a program can only learn from examples, in three families.

The rules have thresholds, exceptions with precedence and defaults, and stand nowhere in the program's instructions.
`desk` is one predictor; `refunds` is an agent with a look-up tool, whose facts decide; `alerts` has two predictors,
each with rules of its own. All tasks are made from a seed, so that train, val and test never share a request.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import dspy

__all__ = ["FAMILIES", "Family", "dataset"]

Action = Literal["refund", "replace", "repair", "escalate", "decline"]


@dataclass(frozen=True)
class Family:
    """One kind of task."""

    program: Callable[[], dspy.Module]
    """Makes the untaught program."""
    make: Callable[[random.Random, int], dspy.Example]
    """Makes one labelled example; the number tells examples of a set apart."""
    metric: Callable[..., Any]
    """Scores a prediction, with feedback."""
    rules: tuple[str, ...]
    """The hidden rules in words, the first that applies wins: for readers of results, never shown to a program."""


def dataset(family: str, split: str, size: int, seed: int = 0) -> list[dspy.Example]:
    """Labelled examples of a family; `split` is 'train', 'val' or 'test'."""
    rng = random.Random(f"house rules {family} {split} {seed}")
    found: dict[str, dspy.Example] = {}
    while len(found) < size:
        example = FAMILIES[family].make(rng, len(found))
        found.setdefault(str(sorted(example.inputs().items())), example)
    return list(found.values())


# -- desk: one predictor -----------------------------------------------------------------------------------------------

_ITEMS = {
    "kettle": "kitchen", "blender": "kitchen", "toaster": "kitchen", "headphones": "audio", "speaker": "audio",
    "turntable": "audio", "jacket": "clothing", "boots": "clothing", "raincoat": "clothing",
}  # fmt: skip
_FAULTS = {
    "broken": ("stopped working", "is broken", "does not switch on any more"),
    "damaged": ("arrived damaged", "was damaged when I unpacked it", "came with a cracked casing"),
    "unwanted": ("is not what I had in mind", "does not suit me after all", "I simply do not need it"),
}
_TIERS = ("standard", "plus", "gold")


class HandleRequest(dspy.Signature):
    """Decide what the service desk does about a customer's request."""

    request: str = dspy.InputField(desc="the customer's message, with the order's data")
    action: Action = dspy.OutputField(desc="what the desk does")


def _decide(price: int, days: int, tier: str, kind: str, fault: str, threatens: bool) -> str:
    if threatens:
        return "escalate"
    if fault == "damaged":
        return "replace" if price < 150 else "escalate"
    if fault == "unwanted":
        if kind == "clothing":
            return "refund" if days <= 60 else "decline"
        return "refund" if days <= (30 if tier == "gold" else 14) else "decline"
    if days <= 30:
        return "replace"
    if tier == "gold" and days <= 730:
        return "repair"
    return "repair" if days <= 365 else "decline"


def _desk(rng: random.Random, number: int) -> dspy.Example:
    item, tier = rng.choice(list(_ITEMS)), rng.choice(_TIERS)
    fault = rng.choice(list(_FAULTS))
    price = rng.choice([19, 35, 60, 89, 120, 140, 149, 150, 160, 210, 340, 480])
    days = rng.choice([3, 9, 13, 14, 15, 21, 29, 30, 31, 45, 59, 60, 61, 90, 200, 364, 366, 500, 729, 740])
    threatens = rng.random() < 0.12
    opening = rng.choice(["Hello,", "Good morning,", "Dear team,", "Hi,"])
    closing = rng.choice(["Please let me know what happens next.", "What can you do?", "Thank you."])
    if threatens:
        closing = rng.choice(["Otherwise my lawyer will be in touch.", "I have already told the consumer board."])
    text = (
        f"{opening} the {item} {rng.choice(_FAULTS[fault])}. {closing}\n"
        f"[order: {item}, {price} EUR, bought {days} days ago; customer: {tier}]"
    )
    label = _decide(price, days, tier, _ITEMS[item], fault, threatens)
    return dspy.Example(request=text, action=label).with_inputs("request")


def _action_metric(example: dspy.Example, prediction: Any, trace: Any = None, *more: Any) -> dspy.Prediction:
    right = getattr(prediction, "action", None) == example.action
    feedback = "right" if right else f"the desk would have chosen {example.action!r}"
    return dspy.Prediction(score=float(right), feedback=feedback)


# -- refunds: an agent with a tool -------------------------------------------------------------------------------------


def look_up(order: str) -> str:
    """Look an order up: item, price in EUR, days since delivery, number of earlier returns by this customer."""
    try:
        rng = random.Random(f"order {int(order.strip().lstrip('#'))}")
    except ValueError:
        return f"there is no order {order!r}; give its number"
    item = rng.choice(list(_ITEMS))
    price, days = rng.choice([25, 49, 51, 80, 120, 260]), rng.choice([5, 19, 20, 22, 40, 90])
    return f"{item}, {price} EUR, delivered {days} days ago, {rng.choice([0, 1, 2, 3, 4, 6])} earlier returns"


class AnswerReturn(dspy.Signature):
    """Decide on a customer's return. Look the order up first."""

    request: str = dspy.InputField(desc="the customer's message")
    action: Literal["accept", "voucher", "inspect", "refuse"] = dspy.OutputField(desc="what the desk does")


def _returns(rng: random.Random, number: int) -> dspy.Example:
    order = rng.randrange(1000, 9999)
    opened = rng.random() < 0.5
    facts = look_up(str(order)).replace(",", "").split()
    price, days, returns = int(facts[1]), int(facts[4]), int(facts[7])
    if returns > 3:
        label = "inspect"
    elif days > 20:
        label = "voucher" if price <= 50 else "refuse"
    elif opened:
        label = "inspect" if price > 100 else "voucher"
    else:
        label = "accept"
    state = "I opened it and tried it once" if opened else "It is still sealed"
    text = f"I would like to return order #{order}. {state}. {rng.choice(['Thanks!', 'Is that possible?', 'Best.'])}"
    return dspy.Example(request=text, action=label).with_inputs("request")


# -- alerts: two predictors --------------------------------------------------------------------------------------------


class RateAlert(dspy.Signature):
    """Rate how severe a monitoring alert is."""

    alert: str = dspy.InputField()
    severity: Literal["low", "medium", "high"] = dspy.OutputField()


class RouteAlert(dspy.Signature):
    """Say which team handles a monitoring alert."""

    alert: str = dspy.InputField()
    severity: str = dspy.InputField()
    team: Literal["network", "storage", "application", "duty manager"] = dspy.OutputField()


class Alerts(dspy.Module):
    """Rates an alert, then routes it."""

    def __init__(self) -> None:
        """Two predictors."""
        super().__init__()
        self.rate = dspy.Predict(RateAlert)
        self.route = dspy.Predict(RouteAlert)

    def forward(self, alert: str) -> dspy.Prediction:
        """Severity and team."""
        severity = self.rate(alert=alert).severity
        return dspy.Prediction(severity=severity, team=self.route(alert=alert, severity=severity).team)


_SIGNS = {"disk usage": "storage", "packet loss": "network", "error rate": "application", "queue length": "application"}


def _alert(rng: random.Random, number: int) -> dspy.Example:
    sign = rng.choice(list(_SIGNS))
    value, minutes = rng.choice([4, 8, 12, 35, 60, 79, 80, 85, 95]), rng.choice([1, 4, 5, 9, 10, 25, 60])
    customer, night = rng.random() < 0.4, rng.random() < 0.4
    severity = "high" if value >= 80 and minutes >= 5 else "low" if value < 10 and not customer else "medium"
    team = _SIGNS[sign]
    if sign == "queue length" and minutes >= 10:
        team = "storage"
    if severity == "high" and night:
        team = "duty manager"
    place = "customer-facing shop" if customer else "internal wiki"
    text = f"{sign} at {value}% for {minutes} minutes on the {place}, {'02:40' if night else '14:10'} local time"
    return dspy.Example(alert=text, severity=severity, team=team).with_inputs("alert")


def _alert_metric(example: dspy.Example, prediction: Any, trace: Any = None, *more: Any) -> dspy.Prediction:
    wrong = [f for f in ("severity", "team") if getattr(prediction, f, None) != example[f]]
    feedback = "; ".join(f"{field} should be {example[field]!r}" for field in wrong) or "right"
    return dspy.Prediction(score=1 - len(wrong) / 2, feedback=feedback)


FAMILIES = {
    "desk": Family(
        lambda: dspy.Predict(HandleRequest), _desk, _action_metric,
        (
            "escalate if the customer threatens with a lawyer or an authority",
            "damaged on arrival: replace below 150 EUR, else escalate",
            "unwanted: refund within 14 days (gold 30, clothing 60), else decline",
            "broken: replace within 30 days, repair within 365 days (gold 730), else decline",
        ),
    ),
    "refunds": Family(
        lambda: dspy.ReAct(AnswerReturn, tools=[look_up], max_iters=4), _returns, _action_metric,
        (
            "more than 3 earlier returns: inspect",
            "delivered more than 20 days ago: voucher up to 50 EUR, else refuse",
            "opened: inspect above 100 EUR, else voucher; sealed: accept",
        ),
    ),
    "alerts": Family(
        Alerts, _alert, _alert_metric,
        (
            "severity high from 80% for at least 5 minutes, low below 10% and not customer-facing, else medium",
            "team by sign, but queue length for 10 minutes or more goes to storage",
            "severity high at night goes to the duty manager",
        ),
    ),
}  # fmt: skip
"""The families by name."""
