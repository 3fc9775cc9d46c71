"""The experience library: a value, edited by a pure function.

Guarantees:

- A library is frozen and ordered. Ids (`E7`) are never reused and never renumbered; `next_id` outlives deletions.
- `apply_edits` never breaks a cap: entries, words an entry, tokens in all. What can't be applied is rejected with a
  reason and counted, never reinterpreted.
- Duplicates and near duplicates are caught here, in code, without an LM.
- An entry is one clean line (`clean_entry`), so no text can forge a second entry, close the block or open a field.
- Nothing that is loaded is executed: plain data with a version.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .errors import SchemaVersionError

__all__ = [
    "Edit",
    "EditReport",
    "Experience",
    "ExperienceLibrary",
    "LibraryLimits",
    "RejectedEdit",
    "apply_edits",
    "clean_entry",
    "count_tokens",
]

SCHEMA_VERSION = 1
OPERATIONS = ("ADD", "MODIFY", "DELETE", "KEEP")
_SYNONYMS = {"UPDATE": "MODIFY", "NONE": "KEEP", "REMOVE": "DELETE"}
ID_PATTERN = "E[1-9][0-9]{0,8}"
"""What an id looks like; numbers are below a thousand million, so that no text can make an absurd one."""
_ID_END = 10**9


def count_tokens(text: str) -> int:
    """Length in tokens as every limit here counts them: 4 characters each, rounded up."""
    return math.ceil(len(text) / 4)


@dataclass(frozen=True)
class LibraryLimits:
    """Hard caps of a library; `apply_edits` never exceeds them."""

    max_entries: int = 30
    """Entries at most."""
    max_words: int = 32
    """Words at most in one entry, as `str.split` counts them."""
    max_tokens: int = 1500
    """Tokens at most of all entries with their ids (`count_tokens`)."""


@dataclass(frozen=True)
class Experience:
    """One piece of advice, and where it comes from."""

    id: str
    """`E` and a number; unique among all entries this library ever held."""
    text: str
    """One clean line."""
    targets: tuple[str, ...] = ()
    """Names of the predictors it is for; empty means all."""
    created_step: int = 0
    """Step that added it; 0 when it was handed in."""
    updated_step: int = 0
    """Step that last changed it."""
    sources: tuple[int, ...] = ()
    """Indices of the training examples whose groups spoke for it, ascending."""

    def __post_init__(self) -> None:
        """Refuse what would not stand in a prompt as one entry."""
        _number(self.id)
        if not self.text or clean_entry(self.text) != self.text:
            raise ValueError(
                f"Experience {self.id}: {self.text[:80]!r} is not one clean line; pass the text through clean_entry, "
                "or build the library with ExperienceLibrary.of(...)"
            )

    def line(self) -> str:
        """The entry as it stands in a prompt."""
        return f"[{self.id}] {self.text}"

    def is_for(self, predictor: str) -> bool:
        """Whether the predictor of this name is to see it."""
        return not self.targets or predictor in self.targets


@dataclass(frozen=True)
class ExperienceLibrary:
    """A frozen, ordered library of experiences. Build one by hand with `ExperienceLibrary.of("advice", ...)`."""

    entries: tuple[Experience, ...] = ()
    """In the order they were added."""
    next_id: int = 1
    """Number the next added entry gets; grows only."""

    def __post_init__(self) -> None:
        """Refuse ids that repeat or that `next_id` would give out again."""
        if not 1 <= self.next_id <= _ID_END:
            raise ValueError(f"ExperienceLibrary: next_id={self.next_id} must be from 1 to {_ID_END}")
        numbers = [_number(e.id) for e in self.entries]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"ExperienceLibrary: ids must be unique, got {[e.id for e in self.entries]}")
        if numbers and max(numbers) >= self.next_id:
            raise ValueError(
                f"ExperienceLibrary: next_id={self.next_id} must exceed every id, the highest is E{max(numbers)}"
            )

    @classmethod
    def of(cls, *texts: str) -> ExperienceLibrary:
        """A library of hand-written advice, for every predictor."""
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise TypeError(
                f"ExperienceLibrary.of takes texts, one an argument, got {type(wrong[0]).__name__}; write of(*texts)"
            )
        cleaned = [clean_entry(text) for text in texts]
        if "" in cleaned:
            raise ValueError(f"ExperienceLibrary.of: text {cleaned.index('')} is empty; give it at least one word")
        return cls(tuple(Experience(f"E{i}", text) for i, text in enumerate(cleaned, 1)), len(cleaned) + 1)

    def __iter__(self) -> Iterator[Experience]:
        """Entries in order."""
        return iter(self.entries)

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.entries)

    def __str__(self) -> str:
        """The entries, a line each."""
        return "\n".join(e.line() for e in self.entries)

    @property
    def digest(self) -> str:
        """Hash of all that a program sees of it; empty if it sees nothing."""
        seen = json.dumps([[e.id, e.text, e.targets] for e in self.entries])
        return hashlib.sha256(seen.encode()).hexdigest()[:16] if self.entries else ""

    def get(self, id: str) -> Experience | None:
        """The entry with this id, or None."""
        return next((e for e in self.entries if e.id == id), None)

    def for_predictor(self, name: str) -> tuple[Experience, ...]:
        """The entries the predictor of this name is to see, in order."""
        return tuple(e for e in self.entries if e.is_for(name))

    @property
    def tokens(self) -> int:
        """Tokens of all entries with their ids."""
        return count_tokens(str(self))

    def to_json(self) -> str:
        """Serialise with a schema version; `from_json` is the inverse."""
        return json.dumps({"schema_version": SCHEMA_VERSION, **asdict(self)}, ensure_ascii=False, indent=2)

    @classmethod
    def from_json(cls, text: str) -> ExperienceLibrary:
        """Load what `to_json` wrote. Plain data: nothing is executed.

        Raises:
            SchemaVersionError: The text was written by a newer version.
            ValueError: The text is no library.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            version = data["schema_version"]
            if version > SCHEMA_VERSION:
                raise SchemaVersionError(
                    f"library of schema {version}; this version reads up to {SCHEMA_VERSION}: upgrade trgrpo-dspy"
                )
            return cls(tuple(map(_read_entry, data["entries"])), int(data["next_id"]))
        except SchemaVersionError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ValueError(f"not an experience library: {type(error).__name__}: {error}") from error


def _read_entry(data: dict[str, Any]) -> Experience:
    if not isinstance(data["text"], str) or not all(isinstance(data[key], list) for key in ("targets", "sources")):
        raise TypeError(f"entry {data['id']!r}: the text must be a string, targets and sources lists")
    return Experience(
        str(data["id"]),
        clean_entry(data["text"]),
        tuple(map(str, data["targets"])),
        int(data["created_step"]),
        int(data["updated_step"]),
        tuple(map(int, data["sources"])),
    )


_WRAP = r"[\s\[\](){}'\"`*#.:]*"
_WRITTEN_ID = re.compile(
    rf"{_WRAP}(?:id\W+)?(?:experience\s*)?E?\s*0*([1-9][0-9]{{0,8}}){_WRAP}", re.IGNORECASE | re.ASCII
)
"""One id and nothing else: 'P2' is a proposal, 'none of the 3' no id, 'E1, E2' two of them."""


@dataclass(frozen=True)
class Edit:
    """One operation on a library, as it was proposed. Build it with `Edit.parse` from anything a model wrote."""

    operation: str
    """ADD, MODIFY, DELETE or KEEP; anything else is rejected when applied."""
    id: str = ""
    """The entry it is about; empty for ADD."""
    text: str = ""
    """New text, for ADD and MODIFY."""
    targets: tuple[str, ...] = ()
    """Predictors the entry is for; empty means all (ADD) or as before (MODIFY)."""
    sources: tuple[int, ...] = ()
    """Indices of the training examples that speak for it."""

    @classmethod
    def parse(
        cls, operation: str, id: str, text: str, targets: Iterable[str] = (), sources: Iterable[int] = ()
    ) -> Edit:
        """Normalise what a model wrote: case, brackets round an id, UPDATE for MODIFY, NONE for KEEP."""
        name = re.sub(r"[^A-Z]", "", operation.upper())
        found = _WRITTEN_ID.fullmatch(id)
        return cls(
            _SYNONYMS.get(name, name) or operation.strip(),
            f"E{found.group(1)}" if found else id.strip(),
            clean_entry(text),
            tuple(dict.fromkeys(targets)),
            tuple(sorted(set(sources))),
        )


@dataclass(frozen=True)
class RejectedEdit:
    """An edit that was not applied, and why."""

    edit: Edit
    """The edit as proposed."""
    reason: str
    """One sentence."""


@dataclass(frozen=True)
class EditReport:
    """What came of a list of edits."""

    library: ExperienceLibrary
    """The library after them."""
    applied: tuple[Edit, ...] = ()
    """Edits that took effect, KEEP included."""
    rejected: tuple[RejectedEdit, ...] = field(default=())
    """Edits that did not, with reasons."""


def apply_edits(
    library: ExperienceLibrary,
    edits: Sequence[Edit],
    *,
    step: int = 0,
    limits: LibraryLimits | None = None,
    predictors: Sequence[str] = (),
) -> EditReport:
    """Apply edits to a library: a pure function, total, and never past a cap.

    Deletions come first (DELETE beats MODIFY of the same entry), then modifications, then additions, each kind in the
    order given; so a full library can be pruned and extended in one step.

    Args:
        library: The library before; it is not changed.
        edits: Proposals, in order of precedence.
        step: Recorded as the step that created or updated an entry.
        limits: Caps; the defaults of `LibraryLimits` if None.
        predictors: Names a target may have; empty accepts any. Unknown names are dropped; if none is left the edit
            is rejected.

    Returns:
        The new library, the edits that took effect and those that did not, with reasons.
    """
    state = _Draft(library, step, limits or LibraryLimits(), tuple(predictors))
    rank = {"DELETE": 0, "MODIFY": 1, "ADD": 2, "KEEP": 3}
    outcome: dict[int, str | None] = {}
    for index, edit in sorted(enumerate(edits), key=lambda pair: rank.get(pair[1].operation, 4)):
        outcome[index] = state.apply(edit)
    return EditReport(
        ExperienceLibrary(tuple(state.entries.values()), state.next_id),
        tuple(edit for i, edit in enumerate(edits) if outcome[i] is None),
        tuple(RejectedEdit(edit, reason) for i, edit in enumerate(edits) if (reason := outcome[i]) is not None),
    )


class _Draft:
    """A library being edited; `apply` returns None, or the reason for refusing."""

    def __init__(
        self, library: ExperienceLibrary, step: int, limits: LibraryLimits, predictors: tuple[str, ...]
    ) -> None:
        self.entries = {e.id: e for e in library}
        self.next_id = library.next_id
        self.step, self.limits, self.predictors = step, limits, predictors
        self.deleted: set[str] = set()
        self.modified: set[str] = set()

    def apply(self, edit: Edit) -> str | None:
        if edit.operation not in OPERATIONS:
            return f"unknown operation {edit.operation[:40]!r}; ADD, MODIFY, DELETE and KEEP are known"
        if edit.operation == "ADD":
            return self._add(edit)
        if edit.id in self.deleted:
            return f"{edit.id} is deleted by another edit of this step"
        if edit.id not in self.entries:
            return f"there is no entry {edit.id[:40] or '(empty id)'}"
        if edit.operation == "DELETE":
            del self.entries[edit.id]
            self.deleted.add(edit.id)
            return None
        return self._modify(edit) if edit.operation == "MODIFY" else None

    def _add(self, edit: Edit) -> str | None:
        if len(self.entries) >= self.limits.max_entries:
            return f"the library is full ({self.limits.max_entries} entries)"
        if self.next_id >= _ID_END:
            return "no id is left"
        text, targets = clean_entry(edit.text), self._known(edit.targets)
        if reason := self._unusable(text, targets, edit):
            return reason
        entry = Experience(f"E{self.next_id}", text, targets or (), self.step, self.step, edit.sources)
        if reason := self._unfitting(entry):
            return reason
        self.entries[entry.id] = entry
        self.next_id += 1
        return None

    def _modify(self, edit: Edit) -> str | None:
        if edit.id in self.modified:
            return f"{edit.id} was already modified in this step"
        old, text, targets = self.entries[edit.id], clean_entry(edit.text), self._known(edit.targets)
        if reason := self._unusable(text, targets, edit):
            return reason
        entry = replace(
            old,
            text=text,
            targets=targets or old.targets,
            updated_step=self.step,
            sources=tuple(sorted({*old.sources, *edit.sources})),
        )
        if reason := self._unfitting(entry):
            return reason
        self.entries[entry.id] = entry
        self.modified.add(entry.id)
        return None

    def _known(self, targets: tuple[str, ...]) -> tuple[str, ...] | None:
        """Targets that exist, whatever their case; None when some were named and none exists."""
        if not self.predictors or not targets:
            return targets
        names = {name.casefold(): name for name in self.predictors}
        found = (t if t in self.predictors else names.get(t.casefold()) for t in targets)
        return tuple(dict.fromkeys(name for name in found if name is not None)) or None

    def _unusable(self, text: str, targets: tuple[str, ...] | None, edit: Edit) -> str | None:
        """Why this text and these targets make no entry."""
        if not text:
            return "the text is empty"
        if targets is None:
            return f"no predictor is named {', '.join(edit.targets)[:80]}"
        if (words := len(text.split())) > self.limits.max_words:
            return f"{words} words; at most {self.limits.max_words} are allowed"
        return None

    def _unfitting(self, entry: Experience) -> str | None:
        """Why there is no place for this entry beside the others."""
        others = [e for e in self.entries.values() if e.id != entry.id]
        if twin := next((e for e in others if _overlap(e, entry) and near_duplicate(e.text, entry.text)), None):
            return f"says the same as {twin.id}"
        # The new entry may be an old one at its old place: joined length does not depend on the order.
        if count_tokens("\n".join(e.line() for e in [*others, entry])) > self.limits.max_tokens:
            return f"the library would exceed {self.limits.max_tokens} tokens"
        return None


def _overlap(a: Experience, b: Experience) -> bool:
    return not a.targets or not b.targets or bool(set(a.targets) & set(b.targets))


_FILLERS = frozenset(
    {"a", "an", "the", "this", "that", "these", "those", "then", "please", "is", "are", "be", "it", "its"}
)


def near_duplicate(a: str, b: str) -> bool:
    """Whether two texts say the same words: equal up to case, punctuation and small words.

    Deliberately narrow: 'above $500' and 'below $500' differ in a word, 'a, not b' and 'b, not a' in their order, and
    so in what they say. Closer meanings are the consolidation's business.
    """
    return _content(a) == _content(b)


_SYMBOLS = r"<>=$%+*/&@#^~|-"
_PUNCTUATION = r"""\s_.,;:?!'"`()\[\]{}\\«»¡¿·\u2010-\u2027\u2039-\u205e\u3001-\u3003\u3008-\u301f"""
# What is neither white space nor punctuation is part of a word: letters with their marks, digits, ≤, €.
_PART = f"[^{_PUNCTUATION}{_SYMBOLS}]+"
_WORD = re.compile(rf"!=|[{_SYMBOLS}]|{_PART}(?:[.']{_PART})*")


def _content(text: str) -> list[str]:
    """The words and symbols that carry the meaning, in order."""
    folded = unicodedata.normalize("NFKC", text.replace("\u2019", "'")).casefold()
    words = _WORD.findall(folded)
    return [w for w in words if w not in _FILLERS] or words or [folded]


# Unassigned characters stay: which they are depends on the version of Python.
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co"})
_ROLES = "INST|SYS|S|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS"
_DELIMITERS = (
    (re.compile(r"\[\[\s*#+\s*|(?<![#\s])\s*#+\s*\]\]"), " | "),  # the chat adapter's [[ ## field ## ]]
    (re.compile(rf"\[(/?(?:{_ROLES}))\]", re.IGNORECASE), r"(\1)"),  # role markers of chat templates
    (re.compile(r"-{3,}|`{3,}|#{2,}|={3,}"), "-"),  # our own rules, code fences, headings
    (re.compile(r"^(?:\s*(?:[-*•]|\[?E\d+[\].:)]+|\d+[.)])(?=\s|$))+\s*"), ""),  # a bullet or an id the model repeated
)
_TAG = re.compile(r"<[|\uff5c/!?_A-Za-z][^>]*>")  # XML, <|role|>, <<SYS>>


def clean_entry(text: str) -> str:
    """Make one line of any text: what can close a block, open a field or play a role is neutralised.

    All Unicode white space and line separators collapse to single spaces; control, format and surrogate characters
    go; delimiters of ours, of the adapters and of chat templates are replaced by look-alikes. Idempotent.
    """
    while (cleaned := _clean_once(text)) != text:
        text = cleaned
    return text


def _clean_once(text: str) -> str:
    text = " ".join(text.split())
    if not text.isprintable():
        text = "".join(ch for ch in text if unicodedata.category(ch) not in _INVISIBLE)
    # Only up to the last ">": past it there is no tag, and looking for its end at every "<" would take long.
    head, end, tail = text.rpartition(">")
    text = _TAG.sub(lambda tag: tag.group().replace("<", "\u2039").replace(">", "\u203a"), head + end) + tail
    for pattern, harmless in _DELIMITERS:
        text = pattern.sub(harmless, text)
    return " ".join(text.split())


def _number(id: str) -> int:
    if not re.fullmatch(ID_PATTERN, id):
        raise ValueError(f"{id[:40]!r} is no experience id; ids are E1, E2, ...")
    return int(id[1:])
