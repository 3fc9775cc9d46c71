"""Answers to any signature: a value for every output field, from its type and the prompt; and the steps of an agent.

Guarantees: never raises on a prompt that was read; a value of a closed type is one of those allowed. An agent calls
tools that the prompt offers, opens at most one address, and finishes after a useful observation or two calls.
"""

import ast
import contextlib
import json
import math
import re
from typing import Any

from .advice import judge
from .formats import Prompt, Schema, choices, is_text
from .text import Chance, content_words, coverage, noun_phrase, numbers, sentences, similarity, tokens

_PAGE = 400
"""Characters from which an observation is a page to pick a statement from, not an answer."""
_THINKING = re.compile(r"reason|thought|rational|explan|justif|analy|why|comment|feedback|critique", re.IGNORECASE)
_QUESTION = re.compile(r"question|query|request|task|instruction")
_WHOLE = re.compile(r"question|text|query|input|request|message|prompt|search|goal", re.IGNORECASE)
_FORMULA = re.compile(r"\(?-?\d[\d.,]*\)?(?:\s*[-+*/x%^]\s*\(?-?\d[\d.,]*\)?)+")
_TOOL = re.compile(r"\b(\w+)(?:, whose description is <desc>(.*?)</desc>)?\. It takes arguments (\{.*?\})\.(?=\s|\Z)")
_OPENS = re.compile(r"url|link|address|href|page", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://[^\s<>\"'()\[\]]+")
_ARGS = re.compile(r"tool_args_\d+(?: ## \]\]|>|:)\s*(\{.*\})")
_OBSERVATION = re.compile(
    r"(?sm)(?:\[\[ ## observation_\d+ ## \]\]\n|<observation_\d+>\n?|^observation_\d+: )"
    r"(.*?)(?=\n\n\[\[ ## |\n?</observation_|\n\n\w+_\d+: |\Z)"
)
_FAILURE = re.compile(r"Execution error|^(?:\w+\.)*\w*(?:Error|Exception): .*\Z", re.MULTILINE)


def answer(prompt: Prompt, chance: Chance) -> dict[str, Any]:
    """A value for every output field, in the prompt's order."""
    outputs, writer = prompt.outputs, _Writer(prompt, chance)
    values: dict[str, Any] = {}
    if {"next_tool_name", "next_tool_args"} <= set(outputs) and writer.stated("next_tool_name") is None:
        values = writer.next_step()
    for name in sorted(outputs, key=lambda name: is_text(outputs[name])):  # reasons follow what is chosen
        if name not in values:
            values[name] = writer.value(name, outputs[name])
    return {name: values[name] for name in outputs}


class _Writer:
    """Makes the values of one reply, and keeps notes of why."""

    def __init__(self, prompt: Prompt, chance: Chance) -> None:
        self.prompt, self.inputs, self.chance = prompt, prompt.inputs, chance
        self.notes: list[str] = []

    def value(self, name: str, schema: Schema) -> Any:
        stated, kind = self.stated(name), schema.get("type")
        if allowed := choices(schema):
            return self.choice(name, allowed, stated)
        if kind in ("integer", "number"):
            found = numbers(self.prompt.text if stated is None else stated) or ["0"]
            number = float(found[self.chance.pick([1.0, *([0.0] * (len(found) - 1))], name)])
            return int(number) if kind == "integer" else number
        if kind in ("array", "object"):
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(given := json.loads(stated or ""), (list, dict)):
                    return given
            return self.data(name, schema)
        return None if kind == "null" else self.text(name) if stated is None else stated

    def stated(self, name: str) -> str | None:
        """The value an input gives under the field's own name ('name: x' on a line), up to the next such line."""
        names = "|".join(map(re.escape, self.prompt.outputs))
        pattern = re.compile(rf"^{re.escape(name)}: ?(.*?)(?=\n\s*\n?(?:{names}): |\Z)", re.MULTILINE | re.DOTALL)
        found = (pattern.search(value) for value in self.inputs.values() if f"{name}:" in value)
        return next((match[1].strip() for match in found if match), None)

    def choice(self, name: str, allowed: list[Any], stated: str | None) -> Any:
        """The value the input states outright, else one drawn by score."""
        labels, prompt, text = tuple(map(str, allowed)), self.prompt, self.prompt.text
        for value, label in zip(allowed, labels, strict=True):
            if stated is not None and stated.casefold() == label.casefold():
                return value
        if allowed == [True, False] and (compared := _agreement(name, self.inputs)) is not None:
            self.notes.append(compared[1])
            return allowed[self.chance.pick([compared[0], 0.0], name)]
        found = judge(text, prompt.instructions, labels, name, tuple(prompt.outputs))
        leanings = [0.1 * self.chance.leaning(text, name, label) for label in labels]
        index = self.chance.pick([score + x for (score, _), x in zip(found, leanings, strict=True)], name)
        words = sorted(found[index][1], key=lambda e: (-e[0], e[1]))[:3]
        why = ", ".join(f"'{word}' ({id})" if id else f"'{word}'" for _, word, id in words)
        self.notes.append(f"For {name} '{labels[index]}' speaks: {why or 'no advice, only the input'}.")
        return allowed[index]

    def data(self, name: str, schema: Schema) -> Any:
        """A record of values; a list of one such record, or of as many statements as an input asks for."""
        if schema["type"] == "object":
            return {key: self.value(key, part) for key, part in schema.get("properties", {}).items()}
        item = schema.get("items", {"type": "string"})
        if is_text(item):
            return sorted(content_words(self.prompt.text), key=lambda word: (-len(word), word))[:3]
        value = self.value(name, item)
        texts = [key for key, part in item.get("properties", {}).items() if is_text(part)]
        counts = [int(v) for v in self.inputs.values() if re.fullmatch(r"\s*[0-9]{1,3}\s*", v)]
        if not texts or len(counts) != 1:
            return [value]
        made = dict.fromkeys(s for s in sentences(self.prompt.text) if s[-1] == "." and len(tokens(s)) >= 4)
        return [{**value, **dict.fromkeys(texts, statement)} for statement in list(made)[: counts[0]]]

    def text(self, name: str) -> str:
        """The notes, for an output that asks for reasons; else what is most like the question."""
        if _THINKING.search(name):
            words = ", ".join(f"'{word}'" for word in content_words(self.prompt.text)[:3])
            return " ".join(self.notes) or f"The input is about {words or 'nothing I can read'}."
        asked = next((v for k, v in self.inputs.items() if _QUESTION.search(k)), next(iter(self.inputs.values()), ""))
        candidates = self.candidates(asked)
        weight = max(3.0, 1.5 * math.log(len(candidates) or 1))  # among many, a sharper choice
        scores = [weight * similarity(asked, text) - 0.01 * i for i, text in enumerate(candidates)]
        return candidates[self.chance.pick(scores, name)]

    def candidates(self, asked: str) -> list[str]:
        """Texts an open answer may be taken from: observations, the other inputs' sentences, or the input's."""
        seen = _OBSERVATION.findall(self.inputs.get("trajectory", ""))
        useful = [text.strip() for text in seen if text.strip() != "Completed." and not _FAILURE.search(text)]
        if useful:
            return [part for text in useful[::-1] for part in _statements(text, asked)]
        if re.search(r"\bhow (?:many|much)\b", asked, re.IGNORECASE) and (found := numbers(self.prompt.text)):
            return found[::-1]
        others = [value for name, value in self.inputs.items() if name != "trajectory" and value != asked]
        return [s for value in others for s in sentences(value)] or [noun_phrase(asked), *sentences(asked)]

    # -- agents

    def next_step(self) -> dict[str, Any]:
        """Values for `next_thought`, `next_tool_name` and `next_tool_args`."""
        prompt, trajectory = self.prompt, self.inputs.get("trajectory", "")
        tools, asked = _tools(prompt.instructions), "\n".join(v for k, v in self.inputs.items() if k != "trajectory")
        seen = _OBSERVATION.findall(trajectory)
        opened = _ADDRESS.findall("\n".join(_ARGS.findall(trajectory)))
        address = "" if opened else self.address(asked, seen)
        openers = [name for name, (_, args) in tools.items() if any(map(_OPENS.fullmatch, args))]
        others = [
            name for name in prompt.outputs["next_tool_name"].get("enum", tools) if name not in ("finish", *openers)
        ]
        if openers and address:
            name = openers[0]
        elif len(seen) >= 2 or not all(map(_FAILURE.search, seen)) or not others:
            name = "finish"
        else:
            scores = [4 * similarity(asked, tools.get(name, (name,))[0]) for name in others]
            name = others[self.chance.pick(scores, "tool")]
        args = {key: self.argument(key, part, asked) for key, part in tools.get(name, ("", {}))[1].items()}
        args |= {key: address for key in args if name in openers and _OPENS.fullmatch(key)}
        words = ", ".join(f"'{word}'" for word in content_words(asked)[:3])
        thought = f"The task mentions {words or 'nothing I know'}; {name} comes next."
        return {"next_thought": thought, "next_tool_name": name, "next_tool_args": args}

    def address(self, asked: str, seen: list[str]) -> str:
        """An address that observations show, by what stands around it; empty if there is none."""
        found: dict[str, str] = {}
        for lines in (text.split("\n") for text in seen[::-1]):
            for at, address in ((at, a.rstrip(".,;")) for at, line in enumerate(lines) for a in _ADDRESS.findall(line)):
                found.setdefault(address, "\n".join(lines[max(0, at - 1) : at + 2]))
        scores = [8 * similarity(asked, around) - 0.1 * i for i, around in enumerate(found.values())]
        return list(found)[self.chance.pick(scores, "address")] if found else ""

    def argument(self, name: str, schema: Schema, asked: str) -> Any:
        """A value for an argument of a tool: a formula, the whole question or what it names, where it is a text."""
        if schema.get("enum") or schema.get("type", "string") != "string":
            return self.value(name, schema)
        formula = _FORMULA.search(asked)
        if re.search(r"expr|formula|calc|equation", name) or (name == "code" and formula):
            return formula[0] if formula else "+*"[self.chance.pick([0.5, 0.5], name)].join(numbers(asked)[:2]) or "0"
        return asked.strip() if _WHOLE.search(name) else noun_phrase(asked)


def _statements(text: str, asked: str) -> list[str]:
    """Statements of a page, each with the one after it, that say more than the question does; a short text whole."""
    if len(text) <= _PAGE:
        return [text]
    known = set(tokens(asked))
    found = [s for s in sentences(text) if "://" not in s and not s.startswith("<<<") and len(tokens(s)) > 4]
    found = [s for s in found if set(tokens(s)) - known]
    return [" ".join(found[i : i + 2]) for i in range(len(found))] or [text]


def _agreement(name: str, inputs: dict[str, str]) -> tuple[float, str] | None:
    """How far a given input says what another expects, with the words; None if the prompt does not ask for that."""
    expected = next((key for key in inputs if re.search(r"expected|reference|gold|truth|label", key)), "")
    given = next((key for key in inputs if re.search(r"predict|given|candidate|response", key)), "")
    if not expected or not given or not re.search(r"correct|right|same|match|equal|agree", name, re.IGNORECASE):
        return None
    found = coverage(inputs[expected], inputs[given])
    missing = [word for word, there in found.items() if not there]
    note = f"{len(found)} words of '{expected}' count in '{given}'; missing: {', '.join(missing[:5]) or 'none'}."
    # Two texts say the same from four fifths of the expected words on.
    return 10 * ((1 - len(missing) / len(found) if found else 0.0) - 0.8), note


def _tools(text: str) -> dict[str, tuple[str, dict[str, Schema]]]:
    """Tools described in a text, by name: what they are for, and the schema of each argument without a default."""
    found = {}
    for name, description, arguments in _TOOL.findall(text):
        parsed: dict[str, Any] = {}
        with contextlib.suppress(ValueError, SyntaxError):
            parsed = ast.literal_eval(arguments)
        schemas = {key: part if isinstance(part, dict) else {} for key, part in parsed.items()}
        wanted = {key: part for key, part in schemas.items() if "default" not in part}
        found[name] = f"{name.replace('_', ' ')} {description}", wanted
    return found
