"""Files of the paper's reference, youtu-agent: the agent's YAML with lines `[G0]. text`, and `experiences.json`.

Guarantees: `G6` is `E7` both ways, since ids count from 0 there; what else is in the YAML file stays byte for byte;
YAML is read as plain data. The formats have no targets, counts, steps or pins.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import yaml

from trgrpo_dspy.library.entries import as_written
from trgrpo_dspy.library.experience import Experience
from trgrpo_dspy.library.library import ExperienceLibrary, numbered

__all__ = ["read_agent", "read_experiences", "write_agent", "write_experiences"]

_ENTRY = re.compile(r"^[ \t]*\[([A-Za-z]{0,3}\d{1,9})\]\.(?:[ \t]+|$)", re.MULTILINE)
_KEY = re.compile(r"\s*([A-Za-z]{0,3})(\d{1,9})\s*")
_LEAD = "Read these experiences from earlier attempts first, and apply those whose condition fits:"
_NEW = """\
# @package _global_
defaults:
  - _self_

type: simple
agent:
  name: agent
  instructions: ""
"""


def read_experiences(text: str) -> ExperienceLibrary:
    """The entries of an `experiences.json`: texts by id, or a list of texts."""
    try:
        data = json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is no library in JSON: {error}") from error
    if isinstance(data, _Pairs):
        inner = next((value for key, value in data if key == "experiences"), None)
        data = inner if isinstance(inner, _Pairs) else data
    elif isinstance(data, list):
        data = [("", value) for value in data]
    else:
        raise ValueError(f"this is no library in JSON: texts by id are wanted, got {type(data).__name__}")
    for index, (key, value) in enumerate(data):
        if not isinstance(value, str):
            raise ValueError(
                f"entry {key or index!r} is no text but {type(value).__name__}: a library in JSON has texts by id"
            )
    return _library(data)


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON, in which a key may stand twice."""


def write_experiences(library: ExperienceLibrary, base: str = "") -> str:
    """The texts by id; a file that holds them under 'experiences' keeps what stands beside them."""
    texts = {_key(e): as_written(e.text) for e in library}
    around = json.loads(base) if base.strip() else None
    data = {**around, "experiences": texts} if isinstance(around, dict) and "experiences" in around else texts
    return json.dumps(data, ensure_ascii=False, indent=2) + "\n"


def read_agent(text: str) -> ExperienceLibrary:
    """The entries in the instructions of an agent's YAML."""
    instructions = _instructions(text).value
    found = list(_ENTRY.finditer(instructions))
    ends = [*(m.start() for m in found[1:]), len(instructions)]
    return _library((m[1], instructions[m.end() : end]) for m, end in zip(found, ends, strict=bool(found)))


def write_agent(library: ExperienceLibrary, base: str = "") -> str:
    """The library in the instructions of an agent's YAML, in place of the entries that are there."""
    base = base if base.strip() else _NEW
    node = _instructions(base)
    start, end, before = node.start_mark.index, node.end_mark.index, node.value
    first = _ENTRY.search(before)
    lead = before[: first.start()].rstrip() if first else "\n\n".join(filter(None, (before.rstrip(), _LEAD)))
    entries = "".join(f"\n[{_key(e)}]. {as_written(e.text)}" for e in library)
    wanted = lead + entries if entries or first else before
    while base[end - 1] in " \n" and end > start:  # a block scalar ends after its empty lines
        end -= 1
    for scalar in (_literal(wanted, base.splitlines()[node.start_mark.line]), _quoted(wanted)):
        text = base[:start] + scalar + base[end:]
        try:
            if _instructions(text).value == wanted:
                return text
        except ValueError:
            continue
    raise ValueError("the instructions can't be written as YAML; remove control characters from the base file")


def _literal(text: str, key: str) -> str:
    """A block scalar, which people can read, indented below the line with its key."""
    indent = " " * (len(key) - len(key.lstrip()) + 2)
    return "|-\n" + "\n".join(indent + part if part else "" for part in text.split("\n"))


def _quoted(text: str) -> str:
    """A scalar in double quotes: JSON, with escapes for what YAML takes for a line's end or does not print."""
    escaped = json.dumps(text, ensure_ascii=False)
    return re.sub("[\x7f-\xa0\u2028\u2029\ufeff]", lambda m: f"\\u{ord(m[0]):04x}", escaped)


def _instructions(text: str) -> yaml.ScalarNode:
    """The node of `agent.instructions`."""
    try:
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"this is no agent's YAML: {' '.join(str(error).split())}") from error
    for name in ("agent", "instructions"):
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        node = next((value for key, value in pairs if key.value == name), None)
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("this is no agent's YAML: it has no text under agent: instructions:")
    return node


def _library(pairs: Iterable[tuple[str, str]]) -> ExperienceLibrary:
    """Numbers are ours under our own letter, one more under theirs; a key without one gets the next that is free."""
    keys = ((_KEY.fullmatch(key), text) for key, text in pairs)
    return numbered((int(found[2]) + (found[1] != "E") if found else 0, text, {}) for found, text in keys)


def _key(entry: Experience) -> str:
    return f"G{int(entry.id[1:]) - 1}"
