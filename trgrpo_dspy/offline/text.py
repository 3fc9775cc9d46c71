"""Words, character trigrams, similarity and chance: all this model knows and rolls.

Guarantees: pure functions; call order, threads and processes never matter to a draw. General knowledge of English is
the list of function words and a few endings.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import accumulate

_LISTED = """
able about above after again against all almost already also although always among and another any anyone anything are
around ask away back because become before being best better between both but can come could did different does doing
don done down during each either else enough even ever every everything except find first for from further get give
going good got had happen has have having hello help her here him his hope how however instead into issue its itself
just keep kept kind know known last late less let like little long look lot made make many may mean might more most much
must myself near need never next not nothing now off often once one only other our out over own please possible problem
put question quite rather reason recent said same saw say see seem seen she should show since some something sometimes
still such sure take tell than thank that the their them themselves then there therefore these they thing think this
those though three through till together told too took trouble try trying twice two under understand until upon use used
using very want was way well went were what when where whether which while who why will wish with within without would
yet you your yours
"""
FUNCTION_WORDS = frozenset(_LISTED.split())
"""Words, also with a common ending, that say little about a subject: pronouns, auxiliaries, light verbs, manners."""
_ENDINGS = ("ing", "ies", "ed", "es", "ly", "s", "e", "y")


@lru_cache(maxsize=4096)
def tokens(text: str) -> tuple[str, ...]:
    """Words of a text in order, case-folded, possessives cut."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return tuple(word.removesuffix("'s") for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", folded))


@lru_cache(maxsize=16384)
def is_content(word: str) -> bool:
    """Whether a word may say what a text is about."""
    listed = word in FUNCTION_WORDS or (len(root(word)) > 3 and root(word) in FUNCTION_WORDS)
    return word.isalpha() and len(word) > 2 and not listed


def content_words(text: str) -> list[str]:
    """Content words in order of first appearance, once each."""
    return list(dict.fromkeys(word for word in tokens(text) if is_content(word)))


def sentences(text: str) -> list[str]:
    """Sentences and lines of a text."""
    return [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text) if part.strip()]


def numbers(text: str) -> list[str]:
    """Numbers of a text as written, thousands separators removed."""
    return [n.replace(",", "") for n in re.findall(r"-?\d+(?:,\d{3})*(?:\.\d+)?", text)]


def noun_phrase(text: str) -> str:
    """What a text seems to name: capitalised words inside a sentence, or its longest content word."""
    if names := re.search(r"(?<=[a-z,] )[A-Z][\w-]*(?: [A-Z][\w-]*)*", text):
        return names.group()
    return max(content_words(text), key=len, default=text.strip()[:60])


@lru_cache(maxsize=16384)
def root(word: str) -> str:
    """A word without a common ending: 'charged' and 'charges' share one."""
    ending = next((e for e in _ENDINGS if word.endswith(e) and len(word) - len(e) >= 3), "")
    return word.removesuffix(ending)


@lru_cache(maxsize=16384)
def _trigrams(word: str) -> frozenset[str]:
    padded = f"^{word}$"
    return frozenset(padded[i : i + 3] for i in range(len(padded) - 2))


@lru_cache(maxsize=2**17)
def word_similarity(a: str, b: str) -> float:
    """1 for the same word, near 1 for forms of it, else the Dice overlap of trigrams, 0 where it is small."""
    if a == b or root(a) == root(b):
        return 1.0 if a == b else 0.95
    if a[:1] != b[:1]:
        return 0.0
    dice = 2 * len(_trigrams(a) & _trigrams(b)) / (len(_trigrams(a)) + len(_trigrams(b)))
    return dice if dice >= 0.6 else 0.0


def coverage(wanted: str, given: str) -> dict[str, bool]:
    """The telling words of one text, with whether another has them or a form of them; numbers must be the same."""
    words, there = tokens(wanted), tokens(given)
    telling = [word for word in words if is_content(word) or not word.isalpha()] or words
    return {w: any(w == t or (w.isalpha() and word_similarity(w, t) > 0.9) for t in there) for w in telling}


def similarity(a: str, b: str) -> float:
    """Cosine of the sets of content-word trigrams of two texts, between 0 and 1."""
    first, second = ({gram for word in content_words(text) for gram in _trigrams(word)} for text in (a, b))
    return len(first & second) / (len(first) * len(second)) ** 0.5 if first and second else 0.0


class Chance:
    """Draws for one request; its own seed counts at temperatures above 0 only."""

    def __init__(self, model_seed: int, request: str, request_seed: int | None, temperature: float) -> None:
        self._temperature, self._model = temperature, str(model_seed)
        self._request = f"{model_seed}|{request_seed}|{temperature}|{request}"

    def leaning(self, *key: str) -> float:
        """What this model happens to favour, between 0 and 1: the same for every request seed."""
        return _unit(self._model, *key)

    def pick(self, scores: Sequence[float], *key: str) -> int:
        """An index: the best at temperature 0, else drawn from the softmax of the scores."""
        top = max(scores)
        if self._temperature <= 0 or len(scores) == 1:
            return list(scores).index(top)
        weights = [math.exp((score - top) / self._temperature) for score in scores]
        mark = _unit(self._request, *key) * sum(weights)
        return next((index for index, total in enumerate(accumulate(weights)) if mark < total), len(scores) - 1)


def _unit(*key: str) -> float:
    digest = blake2b("\x1f".join(key).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
