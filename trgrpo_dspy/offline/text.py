"""Words, character n-grams and similarity: all this model knows about text.

Guarantees: pure functions of their arguments, caches included. General knowledge of English is the list of function
words below and a few endings; there is none of any task.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

__all__ = [
    "FUNCTION_WORDS",
    "WordIndex",
    "content_words",
    "is_content",
    "noun_phrase",
    "numbers",
    "phrases",
    "root",
    "sentences",
    "similarity",
    "tokens",
    "word_similarity",
]

_LISTED = """
a able about above according across actually after again against ago all almost alone along already also although
always am among an and another any anybody anymore anyone anything anyway anywhere apart are aren't around as asap
ask asked asking asks assist at away back basically be became because become been before behind being believe below
besides best better between both but by came can can't cannot certain clearly come comes coming completely could
couldn't currently dear definitely did didn't different do does doesn't doing don't done down due during each either
else enough entirely especially etc even ever every everybody everyone everything everywhere exactly except explain
fact far few fine first for from further gave get gets getting give given gives giving go goes going gone gonna good
got gotten great guess had hadn't half happen happened happening happens hardly has hasn't have haven't having he
he'd he'll he's hello help helped helping hence her here here's hers herself hey hi him himself his hope hoping how
how's however i i'd i'll i'm i've idea if immediately in indeed inside instead into is isn't issue issues it it'd
it'll it's its itself just keep keeps kept kind kindly knew know known knows last lately later least less let let's
like likely little long look looked looking looks lot lots made mainly make makes making many may maybe me mean
means meant might mine more most mostly much must my myself near nearly need needed needing needs neither never
nevertheless next nice no nobody none nor not nothing now nowhere of off often oh ok okay on once one one's ones
only onto or other others otherwise ought our ours ourselves out outside over own per perhaps please possible
possibly probably problem problems put question questions quite rather really reason reasons recently regarding
regards said same saw say saying says second see seem seems seen several shall she she'd she'll she's should
shouldn't show showed shown since so some somebody somehow someone something sometimes somewhere soon sorry still
stuff such sure take taken takes taking tell than thank thanks that that's the their theirs them themselves then
there there's therefore these they they'd they'll they're they've thing things think this those though thought three
through thus till to together told too took toward towards tried trouble try trying twice two under understand
unless unlike until up upon us use used using usually very via want wanted wanting wants was wasn't way we we'd
we'll we're we've well went were weren't what what's whatever when when's where where's whether which while who
who's whoever whole whom whose why will wish with within without won't wonder wondering would wouldn't yes yet you
you'd you'll you're you've your yours yourself yourselves
"""
FUNCTION_WORDS = frozenset(_LISTED.split())
"""Words that say little about a subject: articles, pronouns, auxiliaries, prepositions, light verbs, manners."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_ENDINGS = ("ing", "ies", "ed", "es", "ly", "s", "e", "y")
ALIKE = 0.6
"""Similarity from which two words count as forms of one word."""


@lru_cache(maxsize=4096)
def tokens(text: str) -> tuple[str, ...]:
    """Words of a text in order, case-folded, possessives cut."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return tuple(w[:-2] if w.endswith("'s") and w not in FUNCTION_WORDS else w for w in _WORD.findall(folded))


def is_content(word: str) -> bool:
    """Whether a word may say what a text is about."""
    return len(word) > 2 and word not in FUNCTION_WORDS and not word[0].isdigit()


def content_words(text: str) -> list[str]:
    """Content words in order of first appearance, once each."""
    return list(dict.fromkeys(w for w in tokens(text) if is_content(w)))


def phrases(text: str) -> list[str]:
    """Pairs of content words that stand next to each other within a sentence."""
    found: dict[str, None] = {}
    for part in re.split(r"[.!?;:,()\n]+", text):
        words = tokens(part)
        for a, b in pairwise(words):
            if is_content(a) and is_content(b) and a != b:
                found[f"{a} {b}"] = None
    return list(found)


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text."""
    return [s.strip() for s in _SENTENCE.split(text) if s.strip()]


def numbers(text: str) -> list[str]:
    """Numbers of a text as written, thousands separators removed."""
    return [n.replace(",", "") for n in _NUMBER.findall(text)]


def noun_phrase(text: str) -> str:
    """What a text seems to name: a quoted part, capitalised words inside a sentence, or its longest content word."""
    if quoted := re.search(r"[\"'`]([^\"'`\n]{2,60})[\"'`]", text):
        return quoted.group(1)
    if names := re.search(r"(?<=[a-z,] )[A-Z][\w-]*(?: [A-Z][\w-]*)*", text):
        return names.group()
    return max(content_words(text), key=len, default=text.strip()[:60])


@lru_cache(maxsize=16384)
def root(word: str) -> str:
    """A word without a common ending: 'charged' and 'charges' share one."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


@lru_cache(maxsize=16384)
def trigrams(word: str) -> frozenset[str]:
    """Character trigrams of a word with its boundaries."""
    padded = f"^{word}$"
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


def word_similarity(a: str, b: str) -> float:
    """1 for the same word, near 1 for forms of it, else the Dice overlap of trigrams; 0 below `ALIKE`."""
    if a == b:
        return 1.0
    if not a or not b or a[0] != b[0]:
        return 0.0
    if root(a) == root(b):
        return 0.95
    first, second = trigrams(a), trigrams(b)
    dice = 2 * len(first & second) / (len(first) + len(second))
    return dice if dice >= ALIKE else 0.0


def similarity(a: str, b: str) -> float:
    """Cosine of the sets of content-word trigrams of two texts, between 0 and 1."""
    first, second = _grams(a), _grams(b)
    return len(first & second) / (len(first) * len(second)) ** 0.5 if first and second else 0.0


@lru_cache(maxsize=4096)
def _grams(text: str) -> frozenset[str]:
    return frozenset(gram for word in content_words(text) for gram in trigrams(word))


class WordIndex:
    """The words of a vocabulary by first letter, to find those like a given word. Results never depend on order."""

    def __init__(self, words: Iterable[str]) -> None:
        """Index distinct words."""
        self._by_letter: dict[str, list[str]] = {}
        for word in sorted(set(words)):
            self._by_letter.setdefault(word[:1], []).append(word)
        self._found: dict[str, tuple[tuple[str, float], ...]] = {}

    def like(self, word: str) -> tuple[tuple[str, float], ...]:
        """Words of the vocabulary similar to this one, with similarities."""
        found = self._found.get(word)
        if found is None:
            pairs = ((w, word_similarity(word, w)) for w in self._by_letter.get(word[:1], ()))
            found = tuple((w, s) for w, s in pairs if s > 0)
            if len(self._found) < 20_000:
                self._found[word] = found
        return found
