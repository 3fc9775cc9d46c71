"""The tool `search`, over one of several engines: Serper (keyed), ddgs (keyless), or an index of pages (`web_index`).

An engine is anything with `search(query) -> list[Result]`. What an engine can't do at the moment (a timeout, a rate
limit, its own error) is an `InfrastructureError`; a key that is missing or refused is a `FatalError`; finding nothing
is a result.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from programs.web_outline import require
from programs.web_pages import as_data
from programs.web_transport import httpx
from trgrpo_dspy import FatalError, InfrastructureError

__all__ = ["Ddgs", "Engine", "Result", "Serper", "search_tool"]

RESULTS = 8
"""Results of a search."""
SNIPPET = 160
"""Characters of a snippet."""


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
                self.endpoint, json={"q": query, "num": RESULTS}, headers={"X-API-KEY": self.key}, timeout=self.seconds
            )
        except httpx.HTTPError as error:
            raise InfrastructureError(f"Serper can't be reached: {type(error).__name__} {error}"[:300]) from None
        reason = " ".join(answer.text.split())[:200]
        if answer.status_code in (401, 402, 403) or (answer.status_code == 400 and "credit" in reason.lower()):
            raise FatalError(
                f"Serper refused the key in SERPER_API_KEY or its credit is used up (HTTP status {answer.status_code}: "
                f"{reason}). Check both at serper.dev, or use TRGRPO_WEB_SEARCH=ddgs, which needs no key"
            )
        if answer.status_code == 400:  # it does not like the query
            return []
        try:
            answer.raise_for_status()
            found = (answer.json().get("organic") or [])[:RESULTS]
            return [Result(str(row.get("title") or ""), row["link"], str(row.get("snippet") or "")) for row in found]
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError, AttributeError):
            raise InfrastructureError(f"Serper answered with HTTP status {answer.status_code}: {reason}") from None


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
        ddgs, errors = require("ddgs"), require("ddgs.exceptions")
        try:
            return list(ddgs.DDGS(timeout=self.seconds).text(query, max_results=RESULTS))
        except errors.DDGSException as error:
            if "No results found" in str(error):
                return []
            raise InfrastructureError(f"the search engines behind ddgs failed: {error}"[:300]) from None


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
            f"{number}. {_line(r.title, 150)}\n{r.url[:300]}\n{_line(r.snippet, SNIPPET)}"
            for number, r in enumerate(found, 1)
        ]
        return as_data("results", "\n".join(lines))

    return search


def _line(text: str, most: int) -> str:
    """The text on one line, cut where it is too long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]} ..."
