"""Steps of an agent: which tool to call with what, from the tools' own descriptions.

Guarantees: a tool that is named is one of those the prompt offers; after one useful observation, or two calls, the
agent finishes. Where a tool opens addresses, it opens one that an observation showed, or two, before that.
"""

from __future__ import annotations

import re
from typing import Any

from .chance import Chance
from .prompt import Prompt, tool_signatures
from .text import content_words, noun_phrase, numbers, similarity

__all__ = ["is_failure", "next_step", "observations", "submit_or_call"]

_END = ("finish", "submit")
_WHOLE = re.compile(r"question|text|query|input|request|message|prompt|search|goal", re.IGNORECASE)
_OPENS = re.compile(r"\A(?:url|link|address|href|page)\Z", re.IGNORECASE)
_ADDRESS = re.compile(r"https?://[^\s<>\"'()\[\]]+")
_ARGS = re.compile(r"tool_args_\d+(?: ## \]\]|>|:)\s*(\{.*\})")
_OPENED = 2
"""Addresses that are opened at most."""
_OBSERVATION = re.compile(
    r"(?:\[\[ ## observation_\d+ ## \]\]\n|<observation_\d+>\n?|^observation_\d+: )"
    r"(.*?)(?=\n\n\[\[ ## |\n?</observation_|\n\n\w+_\d+: |\Z)",
    re.DOTALL | re.MULTILINE,
)
_FAILURE = re.compile(r"Execution error|^(?:\w+\.)*\w*(?:Error|Exception): .*\Z", re.MULTILINE)
_FORMULA = re.compile(r"\(?-?\d[\d.,]*\)?(?:\s*[-+*/x%^]\s*\(?-?\d[\d.,]*\)?)+")


def next_step(prompt: Prompt, chance: Chance) -> dict[str, Any]:
    """Values for `next_thought`, `next_tool_name` and `next_tool_args`."""
    tools = {name: (text, args) for name, text, args in tool_signatures(prompt.layout.instructions)}
    allowed = [str(v) for v in prompt.layout.outputs["next_tool_name"].get("enum", tools)]
    trajectory = prompt.inputs.get("trajectory", "")
    asked = "\n".join(v for k, v in prompt.inputs.items() if k != "trajectory")
    told = observations(trajectory)
    opened = _ADDRESS.findall("\n".join(_ARGS.findall(trajectory)))
    address = _pick_address(asked, told, opened, chance)
    openers = [name for name, (_, args) in tools.items() if any(map(_OPENS.search, args))]
    if openers and not address:
        allowed = [name for name in allowed if name not in openers]
    if openers and address and _goes_on(opened, chance):
        name = openers[0]
    else:
        name = _pick_tool(allowed, tools, asked, told, chance)
    args = _arguments(tools.get(name, ("", {}))[1], asked, chance)
    args |= {key: address for key in args if name in openers and _OPENS.search(key)}
    return {"next_thought": _thought(name, asked), "next_tool_name": name, "next_tool_args": args}


def _goes_on(opened: list[str], chance: Chance) -> bool:
    """Whether to open an address: the first one always, a second one by chance."""
    return not opened or (len(opened) < _OPENED and chance.pick([1.0, 0.0], "further") == 1)


def _pick_address(asked: str, told: list[str], opened: list[str], chance: Chance) -> str:
    """An address the observations show that was not opened yet, by what stands around it; empty if there is none."""
    found: dict[str, str] = {}
    for text in told[::-1]:
        lines = text.split("\n")
        for at, line in enumerate(lines):
            for address in _ADDRESS.findall(line):
                if address.rstrip(".,;") not in opened:
                    found.setdefault(address.rstrip(".,;"), "\n".join(lines[max(0, at - 1) : at + 2]))
    scores = [8 * similarity(asked, around) - 0.1 * i for i, around in enumerate(found.values())]
    return list(found)[chance.pick(scores, "address")] if found else ""


def submit_or_call(prompt: Prompt, chance: Chance) -> dict[str, Any]:
    """A value for `tool_calls`."""
    described = prompt.inputs.get("tools", "") or prompt.layout.instructions
    tools = {name: (text, args) for name, text, args in tool_signatures(described)}
    told = re.sub(r"\A.*\bquestion\b", "", prompt.turns) if not prompt.text else prompt.turns
    asked = "\n".join([v for k, v in prompt.inputs.items() if k not in ("tools", "history")] or [_first_turn(prompt)])
    observed = re.findall(r'"value": "?(.*?)"?, "is_error": (true|false)', told)
    calls = [text if error == "false" else "Execution error" for text, error in observed]
    name = _pick_tool(list(tools), tools, asked, calls, chance)
    args = _arguments(tools.get(name, ("", {}))[1], asked, chance)
    if name in _END and calls:
        args = {key: calls[-1] if isinstance(value, str) else value for key, value in args.items()}
    return {"tool_calls": [{"name": name, "args": args}] if name else []}


def _first_turn(prompt: Prompt) -> str:
    return next(("\n".join(given.values()) for given, _ in prompt.demos if given), prompt.turns[:500])


def observations(trajectory: str) -> list[str]:
    """What an agent's tools returned so far, in order."""
    return [text.strip() for text in _OBSERVATION.findall(trajectory)]


def is_failure(observation: str) -> bool:
    """Whether an observation says that the tool failed: nothing an answer could be taken from."""
    return _FAILURE.search(observation) is not None


def _pick_tool(
    allowed: list[str], tools: dict[str, tuple[str, dict[str, Any]]], asked: str, observed: list[str], chance: Chance
) -> str:
    """The tool to call next; ends after a useful observation or two calls."""
    ends = [name for name in allowed if name in _END]
    useful = [text for text in observed if not is_failure(text)]
    others = [name for name in allowed if name not in _END]
    if ends and (useful or len(observed) >= 2 or not others):
        return ends[0]
    if not others:
        return allowed[0] if allowed else ""
    described = [f"{name.replace('_', ' ')} {tools.get(name, ('', {}))[0]}" for name in others]
    return others[chance.pick([4 * similarity(asked, text) for text in described], "tool")]


def _arguments(stated: dict[str, Any], asked: str, chance: Chance) -> dict[str, Any]:
    found = list(numbers(asked))
    args: dict[str, Any] = {}
    for name, schema in stated.items():
        schema = schema if isinstance(schema, dict) else {}
        if "default" not in schema:
            args[name] = _argument(name, schema, asked, found, chance)
    return args


def _argument(name: str, schema: dict[str, Any], asked: str, found: list[str], chance: Chance) -> Any:
    kind = schema.get("type")
    if schema.get("enum"):
        scores = [4 * similarity(asked, str(v).replace("_", " ")) for v in schema["enum"]]
        return schema["enum"][chance.pick(scores, name)]
    if kind in ("integer", "number"):
        value = float(found.pop(0)) if found else 0
        return int(value) if kind == "integer" else value
    if kind == "boolean":
        return True
    if kind == "array":
        return content_words(asked)[:3]
    if kind == "object":
        return {}
    if formula := re.search(_FORMULA, asked) if re.search(r"expr|formula|code|calc|equation", name) else None:
        return formula.group()
    if re.search(r"expr|formula|calc|equation", name):
        return ["+", "*", "-"][chance.pick([0.5, 0.5, 0.0], name)].join(numbers(asked)[:2]) or "0"
    return asked.strip() if _WHOLE.search(name) else noun_phrase(asked)


def _thought(tool: str, asked: str) -> str:
    if tool in _END:
        return "The observations say what is needed, so I can finish."
    words = ", ".join(f"'{w}'" for w in content_words(asked)[:3])
    return f"The task mentions {words or 'nothing I know'}; {tool} may help with it."
