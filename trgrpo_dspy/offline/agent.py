"""Steps of an agent: which tool to call with what, from the tools' own descriptions.

Guarantees: a tool that is named is one of those the prompt offers; after one useful observation, or two calls, the
agent finishes. Where a tool opens addresses, it opens one that an observation showed, or two, before that.
"""

from __future__ import annotations

import ast
import contextlib
import re
from typing import Any

from .chance import Chance
from .formats import Prompt
from .text import content_words, noun_phrase, numbers, similarity

__all__ = ["is_failure", "next_step", "observations"]

_END = "finish"
_TOOL = re.compile(
    r"\b(\w{1,64})(?:, whose description is <desc>(.*?)</desc>)?\. It takes arguments (\{.*?\})\.(?=\s|\Z)"
)
_WHOLE = re.compile(r"question|text|query|input|request|message|prompt|search|goal", re.IGNORECASE)
_OPENS = re.compile(r"url|link|address|href|page", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://[^\s<>\"'()\[\]]+")
_ARGS = re.compile(r"tool_args_\d+(?: ## \]\]|>|:)\s*(\{.*\})")
_OBSERVATION = re.compile(
    r"(?:\[\[ ## observation_\d+ ## \]\]\n|<observation_\d+>\n?|^observation_\d+: )"
    r"(.*?)(?=\n\n\[\[ ## |\n?</observation_|\n\n\w+_\d+: |\Z)",
    re.DOTALL | re.MULTILINE,
)
_FAILURE = re.compile(r"Execution error|^(?:\w+\.)*\w*(?:Error|Exception): .*\Z", re.MULTILINE)
_FORMULA = re.compile(r"\(?-?\d[\d.,]*\)?(?:\s*[-+*/x%^]\s*\(?-?\d[\d.,]*\)?)+")
_COUNTS = re.compile(r"expr|formula|calc|equation")


def observations(trajectory: str) -> list[str]:
    """What an agent's tools returned so far, in order."""
    return [text.strip() for text in _OBSERVATION.findall(trajectory)]


def is_failure(observation: str) -> bool:
    """Whether an observation says that the tool failed: nothing an answer could be taken from."""
    return _FAILURE.search(observation) is not None


def next_step(prompt: Prompt, chance: Chance) -> dict[str, Any]:
    """Values for `next_thought`, `next_tool_name` and `next_tool_args`."""
    tools = _tools(prompt.layout.instructions)
    trajectory = prompt.inputs.get("trajectory", "")
    asked = "\n".join(value for key, value in prompt.inputs.items() if key != "trajectory")
    seen = observations(trajectory)
    opened = _ADDRESS.findall("\n".join(_ARGS.findall(trajectory)))
    address = _pick_address(asked, seen, opened, chance)
    openers = [name for name, tool in tools.items() if any(map(_OPENS.fullmatch, tool[1]))]
    others = [str(name) for name in prompt.layout.outputs["next_tool_name"].get("enum", tools) if name != _END]
    if openers and address and (not opened or (len(opened) == 1 and chance.pick([1.0, 0.0], "further"))):
        name = openers[0]  # the first address always, a second one by chance
    elif len(seen) >= 2 or not all(map(is_failure, seen)) or not (others := [n for n in others if n not in openers]):
        name = _END
    else:
        described = [tools.get(name, (name, {}))[0] for name in others]
        name = others[chance.pick([4 * similarity(asked, text) for text in described], "tool")]
    args = _arguments(tools.get(name, ("", {}))[1], asked, chance)
    args |= {key: address for key in args if name in openers and _OPENS.fullmatch(key)}
    words = ", ".join(f"'{word}'" for word in content_words(asked)[:3])
    thought = f"The task mentions {words or 'nothing I know'}; {name} comes next."
    return {"next_thought": thought, "next_tool_name": name, "next_tool_args": args}


def _tools(text: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Tools described in a text, by name: what they are for, and the JSON schema of each argument."""
    found = {}
    for name, description, arguments in _TOOL.findall(text):
        parsed: dict[str, Any] = {}
        with contextlib.suppress(ValueError, SyntaxError):
            parsed = ast.literal_eval(arguments)
        schemas = {key: part if isinstance(part, dict) else {} for key, part in parsed.items()}
        found[name] = f"{name.replace('_', ' ')} {description}", schemas
    return found


def _pick_address(asked: str, seen: list[str], opened: list[str], chance: Chance) -> str:
    """An address the observations show that was not opened yet, by what stands around it; empty if there is none."""
    found: dict[str, str] = {}
    for lines in (text.split("\n") for text in seen[::-1]):
        for at, line in enumerate(lines):
            for address in (a.rstrip(".,;") for a in _ADDRESS.findall(line)):
                if address not in opened:
                    found.setdefault(address, "\n".join(lines[max(0, at - 1) : at + 2]))
    scores = [8 * similarity(asked, around) - 0.1 * i for i, around in enumerate(found.values())]
    return list(found)[chance.pick(scores, "address")] if found else ""


def _arguments(stated: dict[str, Any], asked: str, chance: Chance) -> dict[str, Any]:
    left = numbers(asked)
    args: dict[str, Any] = {}
    for name, schema in stated.items():
        kind = schema.get("type")
        if "default" in schema:
            continue
        if allowed := schema.get("enum"):
            scores = [4 * similarity(asked, str(value).replace("_", " ")) for value in allowed]
            args[name] = allowed[chance.pick(scores, name)]
        elif kind in ("integer", "number"):
            number = float(left.pop(0)) if left else 0
            args[name] = int(number) if kind == "integer" else number
        elif kind in ("boolean", "array", "object"):
            args[name] = {"boolean": True, "array": content_words(asked)[:3], "object": {}}[kind]
        elif _COUNTS.search(name) or (name == "code" and _FORMULA.search(asked)):
            sign = ["+", "*", "-"][chance.pick([0.5, 0.5, 0.0], name)]
            formula = _FORMULA.search(asked)
            args[name] = formula.group() if formula else sign.join(left[:2]) or "0"
        else:
            args[name] = asked.strip() if _WHOLE.search(name) else noun_phrase(asked)
    return args
