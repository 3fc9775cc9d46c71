"""Advice in plain sentences, and how it scores the allowed values of an output against an input.

This model writes its own advice in one form, "When the note mentions 'a' or 'b', choose crew 'x'." (`Rule`). It follows
any advice in the instructions that names an answer, whoever wrote it. Beside advice the values' own names count.

Guarantees: pure functions of the prompt; a sentence that names no answer is no advice.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from .text import content_words, is_content, root, tokens, word_similarity

_MAX_CHARS, _MAX_CUES = 190, 22
_RULE = re.compile(r"When the ([\w ]+?) mentions ('.+?'), choose (?:(\w+) )?'([^']+)'\.")
_QUOTED = re.compile(r"(?<![\w'])'([^'\n]{1,80})'(?!\w)|\"([^\"\n]{1,160})\"|`([^`\n]{1,160})`")
_ID = re.compile(r"^\s*\[(\w+)(?: \| [^\]]*)?\]\s*")
_NEGATION = re.compile(r"\b(?:not|never|avoid|rather than|instead of|don't)\b[^'\"`;,]*$", re.IGNORECASE)
_FRAME = {"answer", "choose", "contain", "contains", "input", "mention", "mentioned", "mentions", "pick", "select"}
"""Words that hold a condition and a decision together and are neither."""


@dataclass(frozen=True)
class Rule:
    """Advice as this model writes it: with these cues (most telling first) the output field has this value."""

    subject: str
    """What the program is given, such as `note`."""
    cues: tuple[str, ...]
    field: str
    value: str

    def fitted(self, cues: Iterable[str]) -> "Rule":
        """The rule with as many of these cues as an entry may hold; maybe none."""
        rule = replace(self, cues=tuple(cues)[:_MAX_CUES])
        while rule.cues and len(str(rule)) > _MAX_CHARS:
            rule = replace(rule, cues=rule.cues[:-1])
        return rule

    def __str__(self) -> str:
        quoted = [f"'{cue}'" for cue in self.cues]
        listed = " or ".join(filter(None, [", ".join(quoted[:-1]), *quoted[-1:]]))
        return " ".join(f"When the {self.subject} mentions {listed}, choose {self.field} '{self.value}'.".split())


def read_rule(text: str) -> Rule | None:
    """A sentence that this model may have written; None for others."""
    found = _RULE.fullmatch(text.strip())
    return Rule(found[1], tuple(re.findall(r"'([^']+)'", found[2])), found[3] or "", found[4]) if found else None


@dataclass(frozen=True)
class Advice:
    """What one clause of any text says about answers, and the id its line begins with, if there is one."""

    cues: tuple[str, ...]
    """Words or phrases that make it apply, most telling first."""
    quoted: bool
    """Whether the cues stood in quotation marks; else they are the content words of the clause."""
    values: Mapping[str, bool]
    """Answers it names, with whether it speaks for them."""
    id: str


def read_advice(text: str, values: Sequence[str], name: str, fields: Sequence[str]) -> Iterator[Advice]:
    """All advice in a text about the allowed values of an output; advice that names another output does not count."""
    known = {value.casefold(): value for value in values}
    mention, output = _any_of(sorted(values, key=len, reverse=True)), _any_of(fields)
    for line in text.split("\n"):
        head = _ID.match(line)
        for clause in re.split(r"(?<=[.!?])\s+(?=[A-Z\[\"'])|;", line[head.end() if head else 0 :]):
            quotes = [next(filter(None, quote.groups())).casefold() for quote in _QUOTED.finditer(clause)]
            cues = [quote for quote in quotes if quote not in known]
            bare = _QUOTED.sub(lambda quote: quote[0] if quote[0][1:-1].casefold() in known else "", clause)
            found = [(known[m[0].casefold()], bare[: m.start()].rstrip("'\"`")) for m in mention.finditer(bare)]
            about = output.findall(bare)
            if found and (not about or name in about):
                named = {value: not _NEGATION.search(before) for value, before in found}
                skip = {*_FRAME, *content_words(" ".join([*named, *fields]).replace("_", " "))}
                words = cues or [word for word in content_words(bare) if word not in skip]
                yield Advice(tuple(dict.fromkeys(words)), bool(cues), named, head[1] if head else "")


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, texts)) or '(?!)'})(?![\w-])", re.IGNORECASE)


_Evidence = list[tuple[float, str, str]]
"""Strength, words of the input and id of the advice, of all that speaks for a value."""


def judge(
    text: str, instructions: str, values: tuple[str, ...], name: str, fields: tuple[str, ...]
) -> list[tuple[float, _Evidence]]:
    """Score the values of an output for an input; a difference of 1 is worth a factor of e at temperature 1."""
    names, cues, by_letter = _knowledge(instructions, values, name, fields)
    alike: dict[str, float] = defaultdict(float)
    for word in dict.fromkeys(tokens(text)):
        for known in by_letter.get(word[0], ()):
            alike[known] = max(alike[known], word_similarity(word, known))
    scores = [5.0 * sum(weight * alike[word] for word, weight in own.items()) for own in names]
    evidence: list[_Evidence] = [[] for _ in scores]
    for words, effects in cues.items():
        strength = min(alike[word] for word in words)
        for value, (weight, id) in effects.items() if strength else ():
            scores[value] += 2.0 * weight * strength
            if weight > 0:
                evidence[value].append((weight * strength, " ".join(words), id))
    return list(zip(scores, evidence, strict=True))


_Effects = dict[int, tuple[float, str]]
"""By index of a value: weight, negative where it speaks against the value, and id of the advice."""


@lru_cache(maxsize=256)
def _knowledge(instructions: str, values: tuple[str, ...], name: str, fields: tuple[str, ...]) -> tuple[
    list[dict[str, float]], dict[tuple[str, ...], _Effects], dict[str, dict[str, None]]
]:  # fmt: skip
    """Weights of the words in each value's name, effects of each cue, and the words of both by first letter."""
    spaced = [tokens(re.sub(r"(?<=[a-z])(?=[A-Z])|[_\-/.]+", " ", value)) for value in values]
    named = [dict.fromkeys(word for word in words if is_content(word)) or dict.fromkeys(words) for words in spaced]
    shared = Counter(known for words in named for known in {root(word) for word in words})
    rare = {known: math.log((len(values) + 1) / n) / math.log(len(values) + 1) for known, n in shared.items()}
    lengths = [math.sqrt(sum(rare[root(word)] for word in words) or 1) for words in named]
    names = [{w: rare[root(w)] / length for w in words} for words, length in zip(named, lengths, strict=True)]
    cues: dict[tuple[str, ...], _Effects] = defaultdict(dict)
    for item in read_advice(instructions, values, name, fields):
        for order, words in enumerate(map(tokens, item.cues)):
            weight = 1 - 0.5 * order / len(item.cues) if item.quoted else 1.5 / math.sqrt(len(item.cues) + 1)
            weight /= 1 + min((max(0, shared[root(word)] - 1) for word in words), default=0)
            for value, good in item.values.items() if words else ():
                index = values.index(value)
                if weight > abs(cues[words].get(index, (0.0, ""))[0]):
                    cues[words][index] = (weight if good else -weight, item.id)
    for effects in cues.values():  # a cue that speaks for several values is worth less for each
        shares = max(1, sum(weight > 0 for weight, _ in effects.values()))
        effects.update({value: (weight / shares, id) for value, (weight, id) in effects.items()})
    by_letter: dict[str, dict[str, None]] = defaultdict(dict)
    for word in (word for words in (*names, *cues) for word in words):
        by_letter[word[0]][word] = None
    return names, cues, by_letter
