"""A search engine over pages you have: a folder of documentation, a site's download.

Guarantees: a document is one result, although a folder has it as HTML and as its source, or twice; what was read is
kept on disk, by content, so that another process reads only what has changed; a file that is no text is left out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from programs import web_outline, web_reading
from programs.web_fetch import Refused
from programs.web_pages import Ranking, passages, words
from programs.web_reading import Page, read_page
from programs.web_search_engines import RESULTS, SNIPPET, Result

__all__ = ["LocalIndex"]

logger = logging.getLogger(__name__)

_TYPES = {
    ".html": "text/html", ".htm": "text/html", ".xhtml": "text/html", ".md": "text/markdown", ".rst": "text/x-rst",
    ".txt": "text/plain",
}  # fmt: skip
_ENDINGS = re.compile(rf"({'|'.join(map(re.escape, _TYPES))})+$")
_MAX_BYTES = 4_000_000
"""Bytes of a file that are read."""
_SAME, _SAME_BESIDE = 0.8, 0.5
"""Share of a source's words that the page made of it has: anywhere, and in the place where Sphinx would put it."""


class LocalIndex:
    """An index of pages you have; built once, safe in any number of threads."""

    def __init__(self, pages: Iterable[Page]) -> None:
        """Index the pages by title and text, each document once.

        Raises:
            ValueError: There is no page, or two have the same address.
        """
        listed = list(pages)
        self.pages = {page.url: page for page in listed}
        if not listed or len(self.pages) < len(listed):
            raise ValueError(f"pages= holds {len(listed)} pages with {len(self.pages)} addresses; give some, each once")
        texts = [words(page.text) for page in listed]
        documents = _documents(listed, texts)
        self._listed = [listed[index] for index in documents]
        self._ranking = Ranking([2 * words(listed[index].title) + texts[index] for index in documents])

    @classmethod
    def of_folder(cls, folder: str | Path, url: str = "http://folder.invalid/") -> LocalIndex:
        """Index the HTML, Markdown, reStructuredText and text files of a folder and all below it.

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
            if path.suffix.lower() in _TYPES and path.is_file() and path.resolve().is_relative_to(inside)
        )
        with _Kept(inside) as kept:
            read = [kept.page(path, url + quote(os.fsencode(path.relative_to(root).as_posix()))) for path in files]
        pages = [page for page in read if page is not None]
        if not pages:
            raise ValueError(f"{str(folder)!r} must be a folder with files of text that end in {', '.join(_TYPES)}")
        return cls(pages)

    def search(self, query: str) -> list[Result]:
        """Return the pages that share words with the query, best first."""
        found = [self._listed[index] for index in self._ranking.best(query, RESULTS)]
        return [Result(page.title, page.url, _snippet(page, query)) for page in found]


def _documents(pages: list[Page], texts: list[list[str]]) -> list[int]:
    """Indices of the pages without those that say what another one says: the same text, or the source of an HTML page.

    A source has the name of the page made of it (`a/b.html`, `_sources/a/b.rst.txt`) and hardly a word of its own.
    """
    firsts: dict[tuple[str, ...], int] = {}
    made: dict[str, list[int]] = defaultdict(list)
    for index in sorted(range(len(pages)), key=lambda index: (_is_source(pages[index]), pages[index].url.count("/"))):
        firsts.setdefault(tuple(texts[index]) or (pages[index].url,), index)
        if not _is_source(pages[index]):
            made[_path(pages[index]).rpartition("/")[2]].append(index)

    def is_source_of(source: int, page: int) -> bool:
        own, beside = set(texts[source]), _path(pages[source]) == _path(pages[page])
        return len(own.intersection(texts[page])) >= (_SAME_BESIDE if beside else _SAME) * len(own)

    return sorted(
        index
        for index in firsts.values()
        if not _is_source(pages[index])
        or not any(is_source_of(index, page) for page in made[_path(pages[index]).rpartition("/")[2]])
    )


def _is_source(page: Page) -> bool:
    return _TYPES.get(Path(page.url).suffix.lower(), "text/html") != "text/html"


def _path(page: Page) -> str:
    """The address without its endings, as a page and its source have it in common."""
    return _ENDINGS.sub("", page.url.replace("/_sources/", "/").lower())


class _Kept:
    """Pages that were read before, in a file of the user's cache: one file a folder, with what the folder has now."""

    def __init__(self, folder: Path) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
        self._file = Path(home, "trgrpo-dspy", "pages", f"{name}.json")
        code = b"".join(Path(module.__file__).read_bytes() for module in (web_reading, web_outline))
        versions = version("resiliparse") + version("lxml")
        self._reader = hashlib.sha256(code + versions.encode()).digest()  # what another version read is read again
        self._before: dict[str, dict[str, object] | None] = {}
        self._now: dict[str, dict[str, object] | None] = {}

    def __enter__(self) -> _Kept:
        try:
            self._before = dict(json.loads(self._file.read_bytes()))
        except (OSError, ValueError, TypeError):
            self._before = {}
        return self

    def __exit__(self, *_: object) -> None:
        if self._now.keys() == self._before.keys():
            return
        new = self._file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new.write_text(json.dumps(self._now), encoding="utf-8")
            os.replace(new, self._file)  # whole or not at all, whatever other processes do
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            logger.warning("what was read of the folder can't be kept, and will be read again: %s", error)

    def page(self, path: Path, url: str) -> Page | None:
        """The page that a file holds; None if it is no text."""
        with path.open("rb") as file:
            body, more = file.read(_MAX_BYTES), bool(file.read(1))
        key = hashlib.sha256(b"\0".join([self._reader, url.encode(), str(more).encode(), body])).hexdigest()
        if key not in self._before:
            self._now[key] = _as_record(body, url, _TYPES[path.suffix.lower()], more)
        else:
            self._now[key] = self._before[key]
        return _as_page(self._now[key])


def _as_record(body: bytes, url: str, content_type: str, more: bool) -> dict[str, object] | None:
    try:
        page = read_page(body, url, content_type=content_type)
    except Refused:
        return None
    return asdict(page) | {"cut": page.cut or more}


def _as_page(record: dict[str, object] | None) -> Page | None:
    if record is None:
        return None
    links = tuple((text, address) for text, address in record["links"])
    return Page(**record | {"links": links, "frames": tuple(record["frames"])})


def _snippet(page: Page, query: str) -> str:
    pieces = passages(page.text, SNIPPET)
    best = Ranking.of_texts(pieces).best(query, 1) or ([0] if pieces else [])
    return " ".join(pieces[best[0]].split()) if best else ""
