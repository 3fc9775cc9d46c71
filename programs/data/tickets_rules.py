"""House rules of Ploverhall for customer tickets: facts in, queue and urgency out.

The rules are described for people in ``tickets_rules.md``; this module is the only place where
they are executed. It is pure Python and does not depend on the rest of the project.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

Queue = Literal["harbor", "falcon", "gypsum", "juniper", "anvil", "bramble", "zephyr", "cobalt", "walnut"]
Urgency = Literal["today", "this_week", "whenever"]
Topic = Literal[
    "refund",
    "invoice",
    "cancel",
    "quote",
    "login",
    "delivery",
    "return",
    "gateway",
    "api",
    "calibration",
    "export",
    "alerts",
    "display",
    "privacy",
]

QUEUES: tuple[Queue, ...] = get_args(Queue)
URGENCIES: tuple[Urgency, ...] = get_args(Urgency)
TOPICS: tuple[Topic, ...] = get_args(Topic)

RULES: dict[str, Queue] = {
    "R01": "walnut",
    "R02": "juniper",
    "R03": "harbor",
    "R04": "harbor",
    "R05": "falcon",
    "R06": "juniper",
    "R07": "juniper",
    "R08": "falcon",
    "R09": "cobalt",
    "R10": "gypsum",
    "R11": "anvil",
    "R12": "anvil",
    "R13": "cobalt",
    "R14": "bramble",
    "R15": "bramble",
    "R16": "zephyr",
    "R17": "zephyr",
    "R18": "walnut",
}
"""The queue of each rule, in order of precedence."""

CONDITIONAL_RULES = frozenset({"R01", "R02", "R05", "R09", "R12"})
"""The rules that send a ticket elsewhere than its topic alone would."""

LARGE_REFUND = 500
SMALL_REFUND = 100
NEW_ACCOUNT_DAYS = 90

_TOPIC_RULES: dict[str, str] = {
    "refund": "R03",
    "invoice": "R04",
    "cancel": "R06",
    "quote": "R07",
    "login": "R08",
    "delivery": "R10",
    "return": "R10",
    "gateway": "R11",
    "api": "R13",
    "calibration": "R14",
    "export": "R15",
    "alerts": "R16",
    "display": "R17",
    "privacy": "R18",
}

_TOPIC_URGENCIES: dict[str, Urgency] = {
    "refund": "this_week",
    "invoice": "whenever",
    "cancel": "today",
    "quote": "this_week",
    "login": "this_week",
    "delivery": "this_week",
    "return": "whenever",
    "gateway": "this_week",
    "api": "this_week",
    "calibration": "this_week",
    "export": "whenever",
    "alerts": "whenever",
    "display": "whenever",
    "privacy": "today",
}


def label(facts: Mapping[str, Any]) -> tuple[Queue, Urgency, str]:
    """Apply the house rules to the facts of one ticket.

    Args:
        facts: The topic of the ticket and the facts its rules need: ``amount`` (dollars) for refunds,
            ``account_days`` for cancellations, ``scope`` for logins, ``region`` for deliveries,
            ``goods`` for gateways, ``inspection`` for calibration and exports, ``missed`` for
            alerts, and ``plan`` where the ticket names one.

    Returns:
        The queue, the urgency and the number of the rule that decided the queue.

    Raises:
        KeyError: If the topic is unknown or a fact that its rules need is missing.
    """
    rule = _queue_rule(facts)
    return RULES[rule], _urgency(facts), rule


def _queue_rule(facts: Mapping[str, Any]) -> str:
    """Return the first rule that fits."""
    topic = facts["topic"]
    plan = facts.get("plan")
    if topic == "refund" and plan == "enterprise":
        return "R01"
    if topic == "refund" and facts["amount"] > LARGE_REFUND:
        return "R02"
    if topic == "cancel" and facts["account_days"] < NEW_ACCOUNT_DAYS:
        return "R05"
    if topic == "delivery" and facts["region"] == "apac":
        return "R09"
    if topic == "api" and plan == "free":
        return "R12"
    return _TOPIC_RULES[topic]


def _urgency(facts: Mapping[str, Any]) -> Urgency:
    """Return how soon the ticket must be looked at."""
    topic = facts["topic"]
    if _must_be_today(facts):
        return "today"
    if topic == "refund" and facts["amount"] < SMALL_REFUND:
        return "whenever"
    if topic == "api" and facts.get("plan") == "free":
        return "whenever"
    return _TOPIC_URGENCIES[topic]


def _must_be_today(facts: Mapping[str, Any]) -> bool:
    """Tell whether a circumstance raises the ticket to today, whatever its topic usually gets."""
    topic = facts["topic"]
    if topic == "login":
        return bool(facts["scope"] == "team")
    if topic == "gateway":
        return bool(facts["goods"] == "medical")
    if topic == "alerts":
        return bool(facts["missed"])
    if topic in ("calibration", "export"):
        return bool(facts["inspection"])
    return False
