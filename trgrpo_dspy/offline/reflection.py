"""Summaries, comparisons and checks: what this model writes when it is shown attempts at tasks.

A reflection prompt is known by its input and output fields, never by its wording. Advice is written from the words of
the tasks and from the answers that the prompt shows.

Guarantees: pure functions of the prompt; no score or label is mentioned that the prompt does not give.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from . import plan
from .advice import Rule, judge
from .formats import Prompt
from .plan import Entry, Example, read_entries, read_examples, read_fields
from .text import content_words, root, tokens


def _summarize(inputs: Mapping[str, str]) -> dict[str, str]:
    """What the task mentions, what the attempt answered, and its score, if the prompt gives one."""
    shown = {name: value for name, value in read_fields(inputs["attempt"]).items() if value}
    names = [n for n in read_fields(inputs.get("expected", "")) if n in shown] or list(shown)[-3:] or ["attempt"]
    parts = {name: shown.get(name, inputs["attempt"]).split() for name in names}
    # Of a long answer the beginning and, where the answer stands, the end.
    short = {n: p if len(p) <= 24 else [*p[:8], "...", *p[-14:]] for n, p in parts.items()}
    answers = ", ".join(f"{name} '{' '.join(words)}'" for name, words in short.items())
    summary = f"{_about(inputs.get('task', ''))} The attempt answered {answers}."
    summary += f" It scored {inputs['score']}." if "score" in inputs else ""
    return {"summary": " ".join(summary.split()[:150])}


def _about(text: str) -> str:
    return f"The task mentions {', '.join(repr(w) for w in content_words(text)[:5]) or 'no words to quote'}."


def _compare(inputs: Mapping[str, str]) -> dict[str, Any]:
    shown = inputs.get("groups") or inputs["attempts"]
    limit = inputs.get("max_lessons", inputs.get("max_edits", ""))
    found: list[tuple[float, str, Entry]] = []
    for example in read_examples(shown, inputs.get("task", ""), inputs.get("expected", "")):
        for share, name, text, why in [*_rules(example)] or [*_prose(example)]:
            targets = plan.teachers_of(name, inputs.get("program", ""))
            found.append((share, why, Entry("", text, targets, sources=example.number)))
    found.sort(key=lambda item: -item[0])
    lessons = [lesson for _, _, lesson in found][: int(limit) if limit.isdecimal() else 2]
    comparison = " ".join([*(why for _, why, _ in found), _about(inputs.get("task", shown))])
    written = [{"text": lesson.text, "predictors": lesson.targets} for lesson in lessons]
    return {"comparison": comparison, "lessons": written, "edits": plan.additions(lessons, inputs)}


def _rules(example: Example) -> Iterator[tuple[float, str, str, str]]:
    """For each output that attempts got wrong: the share of wrong attempts, its name, a rule, and why."""
    best = max((score for score, _ in example.attempts if score is not None), default=None)
    for name in example.expected or dict.fromkeys(name for _, answer in example.attempts for name in answer):
        given = Counter(answer[name] for _, answer in example.attempts if name in answer)
        better = Counter(answer[name] for score, answer in example.attempts if name in answer and score == best)
        right = example.expected.get(name) or max(better, key=lambda v: better[v], default="")
        wrong = {value: n for value, n in given.items() if value.casefold() != right.casefold()}
        named = {root(word) for value in (right, *wrong) for word in tokens(value.replace("_", " "))}
        words = {root(word): word for word in reversed(content_words(example.text)) if root(word) not in named}
        cues = sorted(words.values(), key=lambda word: -len(word))
        fits = 0 < len(right.split()) <= 6 and not set("'\"`") & set(right)  # a rule can't prescribe prose
        if fits and cues and (wrong or not example.attempts):
            rule = Rule(example.subject, (), name, right).fitted(cues)
            why = f"For {name} the better answer is '{right}'{', not ' if wrong else ''}{' or '.join(wrong)}."
            if rule.cues:
                yield sum(wrong.values()) / (given.total() or 1), name, str(rule), why


def _prose(example: Example) -> Iterator[tuple[float, str, str, str]]:
    """Where answers are prose: what all better attempts bring in and no other does."""
    scored = [(score, set(content_words(" ".join(a.values())))) for score, a in example.attempts if score is not None]
    best = max((score for score, _ in scored), default=0.0)
    worse = [words for score, words in scored if score < best]
    better = set.intersection(*(words for score, words in scored if score == best)) if worse else set()
    fresh = sorted(better.difference(content_words(example.text), *worse), key=lambda word: (-len(word), word))[:4]
    about = content_words(example.text)[:3]
    if fresh and about:
        text = f"When a {example.subject} is about {' and '.join(about)}, bring in {', '.join(fresh)}."
        yield 0.5, "", text, f"The better attempts bring in {', '.join(fresh)}, which the others lack."


def _check(inputs: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    """What the entries decide for each example, as they would decide an input of the program.

    An example that shows its expected answer is held against it; else the decision is the answer itself.
    """
    text = inputs.get("experiences", "")
    rules = [rule for entry in read_entries(text) if (rule := entry.rule)]
    fields = tuple(dict.fromkeys(rule.field for rule in rules))
    found = []
    for example in read_examples(inputs["examples"]):
        for name in fields:
            values = tuple(dict.fromkeys(rule.value for rule in rules if rule.field == name))
            verdicts = judge(example.text, text, values, name, fields)
            decision, (_, evidence) = max(zip(values, verdicts, strict=True), key=lambda found: found[1][0])
            if example.expected:
                decision = "supports" if example.expected.get(name) == decision else "contradicts"
            ids = dict.fromkeys(id for _, _, id in evidence)
            found += [{"example": example.number, "entry": id, "decision": decision} for id in ids]
    return {"decisions": found}


_STEPS = {
    ("attempt", "summary"): _summarize, ("attempts", "comparison"): _compare, ("groups", "comparison"): _compare,
    ("lessons", "edits"): plan.propose, ("proposals", "edits"): plan.consolidate, ("problems", "edits"): plan.repair,
    ("examples", "decisions"): _check,
}  # fmt: skip
"""What answers a prompt, by an input and an output that it has."""
_OUTPUTS = {"summary", "comparison", "lessons", "edits", "reasoning", "dispositions", "decisions"}


def reflect(prompt: Prompt) -> dict[str, Any] | None:
    """The reply to a reflection prompt, by output field; None if the prompt is none."""
    for (given, asked), step in _STEPS.items():
        if given in prompt.inputs and asked in prompt.outputs and set(prompt.outputs) <= _OUTPUTS:
            values: dict[str, Any] = step(prompt.inputs)
            return {name: values.get(name, "") for name in prompt.outputs}
    return None
