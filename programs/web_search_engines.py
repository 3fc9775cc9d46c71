"""The tool `search`, over one of several engines: Serper (keyed), ddgs (keyless), an index of pages you have.

An engine is anything with `search(query) -> list[Result]`. What an engine can't do at the moment (a timeout, a rate
limit, its own error) is an `InfrastructureError`; a key that is missing or refused is a `FatalError`; finding nothing
is a result.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from programs.web_pages import MAX_TEXT, Page, Ranking, as_data, passages, read_page, require
from programs.web_transport import httpx
from trgrpo_dspy import FatalError, InfrastructureError

__all__ = ["Ddgs", "Engine", "LocalIndex", "Result", "Serper", "search_tool"]

_RESULTS = 8
"""Results of a search."""
_SNIPPET = 160
"""Characters of a snippet."""
_SUFFIXES = {".html": "text/html", ".htm": "text/html", ".md": "text/markdown", ".txt": "text/plain"}


@dataclass(frozen=True)
class Result:
    """One result of a search."""

    title: str
    """Title of the page."""
    url: str
    """Its address."""
    snippet: str
    """A few words of it."""


class Engine(Protocol):
    """Finds pages."""

    def search(self, query: str) -> list[Result]:
        """Return results, best first; none if nothing is found.

        Raises:
            InfrastructureError: The engine does not answer as it should.
            FatalError: It will never answer: a wrong key, no credit.
        """


@dataclass(frozen=True)
class Serper:
    """Google's results through serper.dev, or whatever speaks its protocol."""

    key: str = field(default_factory=lambda: os.environ.get("SERPER_API_KEY", ""), repr=False)
    """The key; by default what the environment's SERPER_API_KEY holds."""
    endpoint: str = "https://google.serper.dev/search"
    """Where it is asked."""
    seconds: float = 20.0
    """Longest wait for an answer."""

    def __post_init__(self) -> None:
        """Check the key."""
        if not self.key:
            raise FatalError("Serper needs a key: set SERPER_API_KEY, or use TRGRPO_WEB_SEARCH=ddgs, which needs none")

    def search(self, query: str) -> list[Result]:
        """Ask Serper."""
        try:
            answer = _client().post(
                self.endpoint, json={"q": query, "num": _RESULTS}, headers={"X-API-KEY": self.key}, timeout=self.seconds
            )
        except httpx.HTTPError as error:
            raise InfrastructureError(f"Serper can't be reached: {type(error).__name__} {error}"[:300]) from None
        told = " ".join(answer.text.split())[:200]
        if answer.status_code in (401, 402, 403) or (answer.status_code == 400 and "credit" in told.lower()):
            raise FatalError(
                f"Serper refused the key in SERPER_API_KEY or its credit is used up (HTTP status {answer.status_code}: "
                f"{told}). Check both at serper.dev, or use TRGRPO_WEB_SEARCH=ddgs, which needs no key"
            )
        if answer.status_code == 400:  # it does not like the query
            return []
        try:
            answer.raise_for_status()
            found = (answer.json().get("organic") or [])[:_RESULTS]
            return [Result(str(row.get("title") or ""), row["link"], str(row.get("snippet") or "")) for row in found]
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError, AttributeError):
            raise InfrastructureError(f"Serper answered with HTTP status {answer.status_code}: {told}") from None


@functools.cache
def _client() -> httpx.Client:
    """The connections to Serper, kept for the life of the process."""
    return httpx.Client()


@dataclass(frozen=True)
class Ddgs:
    """Several public search engines through the package `ddgs`; no key.

    Such engines refuse programs that ask often, and `ddgs` can't tell that from finding nothing. So where it finds
    nothing, a query that has results everywhere is asked: if that finds nothing either, it is an outage.
    """

    seconds: int = 10
    """Longest wait for an answer."""
    known: str = "wikipedia"
    """The query that has results everywhere."""

    def __post_init__(self) -> None:
        """Check that the package is there."""
        require("ddgs")

    def search(self, query: str) -> list[Result]:
        """Ask the engines."""
        found = self._ask(query)
        if not found and not self._ask(self.known):
            raise InfrastructureError("the search engines behind ddgs give no results at all: they refuse or are down")
        return [
            Result(str(row.get("title") or ""), row["href"], str(row.get("body") or ""))
            for row in found
            if row.get("href")
        ]

    def _ask(self, query: str) -> list[dict[str, Any]]:
        ddgs = require("ddgs")
        try:
            return list(ddgs.DDGS(timeout=self.seconds).text(query, max_results=_RESULTS))
        except ddgs.exceptions.DDGSException as error:
            if "No results found" in str(error):
                return []
            raise InfrastructureError(f"the search engines behind ddgs failed: {error}"[:300]) from None


class LocalIndex:
    """An index of pages you have; built once, safe in any number of threads."""

    def __init__(self, pages: Iterable[Page]) -> None:
        """Index the pages by title and text.

        Raises:
            ValueError: There is no page, or two have the same address.
        """
        listed = list(pages)
        self.pages = {page.url: page for page in listed}
        if not listed or len(self.pages) < len(listed):
            raise ValueError(f"pages= holds {len(listed)} pages with {len(self.pages)} addresses; give some, each once")
        self._listed = listed
        self._ranking = Ranking([f"{page.title}\n{page.title}\n{page.text}" for page in listed])

    @classmethod
    def of_folder(cls, folder: str | Path, url: str = "http://folder.invalid/") -> LocalIndex:
        """Index the HTML, Markdown and text files of a folder and all below it.

        Args:
            folder: The folder. A link that leads out of it is left out.
            url: What the pages' addresses begin with; the path of the file follows. By default an address that leads
                nowhere, so that `visit` can only read the pages from here.

        Raises:
            ValueError: It is no folder, or holds no such file.
        """
        root = Path(folder)
        inside = root.resolve()
        files = sorted(
            path
            for path in root.rglob("*")
            if path.suffix.lower() in _SUFFIXES and path.is_file() and path.resolve().is_relative_to(inside)
        )
        if not files:
            raise ValueError(f"{str(folder)!r} must be a folder with files that end in {', '.join(_SUFFIXES)}")
        return cls(
            read_page(
                _beginning(path),
                url + quote(os.fsencode(path.relative_to(root).as_posix())),
                content_type=_SUFFIXES[path.suffix.lower()],
            )
            for path in files
        )

    def search(self, query: str) -> list[Result]:
        """Return the pages that share words with the query, best first."""
        found = [self._listed[index] for index in self._ranking.best(query, _RESULTS)]
        return [Result(page.title, page.url, _snippet(page, query)) for page in found]


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4 * MAX_TEXT)  # a character has at most four bytes


def _snippet(page: Page, query: str) -> str:
    pieces = passages(page.text, _SNIPPET)
    best = Ranking(pieces).best(query, 1) or ([0] if pieces else [])
    return " ".join(pieces[best[0]].split()) if best else ""


def search_tool(engine: Engine) -> Callable[[str], str]:
    """Make the function `search(query)`, for `dspy.Tool` or an agent's list of tools."""

    def search(query: str) -> str:
        """Search the web. Returns titles, addresses and a few words of the pages found."""
        if not query.strip():
            return "Give some words to search for."
        found = engine.search(query.strip()[:400])
        if not found:
            return "Nothing was found for this query. Try other words."
        lines = [
            f"{number}. {_line(r.title, 150)}\n{r.url[:300]}\n{_line(r.snippet, _SNIPPET)}"
            for number, r in enumerate(found, 1)
        ]
        return as_data("results", "\n".join(lines))

    return search


def _line(text: str, most: int) -> str:
    """The text on one line, cut where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]} ..."
