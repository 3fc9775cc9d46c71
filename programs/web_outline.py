"""One pass over the markup of a page: what is left to read of it, its links, frames and declarations.

Guarantee: time grows with the length of the markup and nothing else. libxml2 tells its events in linear time while
nothing lies deep. Trees take quadratic time: libxml2's for attributes, those of HTML5 parsers for nested elements,
options and forms (minutes for 2 MB). What is left to read has few attributes, no form controls and nothing deep.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import suppress
from html import escape
from typing import Any

__all__ = ["Outline", "require"]

_MAX_LINKS = 5_000
"""Links and frames of a page that are looked at."""
_MAX_VALUE = 1_000
"""Characters of an attribute's value."""
_MAX_PIECES = 20
"""Pieces of a link's text."""
_KEPT = ("id", "class", "role", "style", "hidden", "aria-hidden", "start")
"""Attributes that tell the text of a page from menus and what is hidden."""
_UNREAD = frozenset(
    {"script", "style", "template", "svg", "select", "datalist", "textarea", "input", "title", "meta", "link"}
)
"""Elements without text of the page."""
_UNWRAPPED = frozenset(
    {"html", "head", "body", "a", "form", "fieldset", "frameset", "frame", "iframe", "object", "embed"}
)
"""Elements that are left out although their text is read, so that forms don't lie in each other."""
_MAX_DEPTH = 500
"""Elements in each other at which reading ends: each end of an element is looked for among all that are open."""
_CHUNK = 8_192
"""Bytes between two looks at the depth."""
_RENAMED = {"xmp": "pre", "plaintext": "pre", "listing": "pre", "summary": "p", "button": "div"}
"""Elements whose content would be taken for plain text when it is read again, or would run into what follows."""
_VOID = frozenset({"area", "base", "br", "col", "hr", "img", "param", "source", "track", "wbr"})
_FRAMES = {"frame": "src", "iframe": "src", "embed": "src", "object": "data"}
"""Elements that show another page, and the attribute with its address."""


def require(module: str) -> Any:
    """A package of the extra `web`, imported where it is first needed.

    Raises:
        ImportError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"The web tools need {module} ({error}): pip install 'trgrpo-dspy[web]'") from None


class Outline:
    """What a page says in its markup; also the target of the parser, which calls `start`, `end`, `data` and `close`."""

    def __init__(self) -> None:
        self.title = ""
        """The text of the element `title`."""
        self.base = ""
        """What its relative links start from; empty for its own address."""
        self.links: dict[str, list[str]] = {}
        """Pieces of text by target, as the links name it without its fragment."""
        self.frames: dict[str, str] = {}
        """Title by target of what is shown inside of the page."""
        self.headers: list[tuple[str, str]] = []
        """Name and value of what stands for a header, or ("charset", label)."""
        self.too_deep = False
        """Whether elements lie so deep that the rest of the page was not read."""
        self._left: list[str] = []
        self._depth = self._unread = 0
        self._link: list[str] | None = None
        self._in_title = False

    @classmethod
    def of(cls, body: bytes, encoding: str) -> Outline:
        """Go over the markup once."""
        etree = require("lxml.etree")
        outline = cls()
        parser = etree.HTMLParser(encoding=encoding, target=outline)
        for start in range(0, len(body), _CHUNK):
            parser.feed(body[start : start + _CHUNK])
            if outline._depth > _MAX_DEPTH:
                outline.too_deep = True
                return outline
        with suppress(etree.XMLSyntaxError):  # an empty document
            parser.close()
        return outline

    @property
    def markup(self) -> str:
        """The markup that is left to read."""
        return "".join(self._left)

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""
        if tag == "template" and "shadowrootmode" in attributes:  # which a browser shows, unlike other templates
            tag = "div"
        self._note(tag, attributes)
        self._depth += 1
        if self._unread or tag in _UNREAD:
            self._unread += 1
        elif tag not in _UNWRAPPED:
            kept = (f' {name}="{escape(attributes[name][:_MAX_VALUE])}"' for name in _KEPT if name in attributes)
            self._left.append(f"<{_RENAMED.get(tag, tag)}{''.join(kept)}>")

    def end(self, tag: str) -> None:
        """An element ends."""
        self._in_title = False
        if tag == "a":
            self._link = None
        if self._unread:
            self._unread -= 1
        elif tag not in _UNWRAPPED and tag not in _VOID:
            self._left.append(f"</{_RENAMED.get(tag, tag)}>")
        self._depth -= 1

    def data(self, text: str) -> None:
        """Text, in pieces."""
        if self._in_title:
            self.title = (self.title + text)[:_MAX_VALUE]
        if not self._unread:
            self._left.append(escape(text, quote=False))
            if self._link is not None and len(self._link) < _MAX_PIECES:
                self._link.append(text[:_MAX_VALUE])

    def close(self) -> None:
        """The document ends."""

    def _note(self, tag: str, attributes: Mapping[str, str]) -> None:
        """Note what an element says of the page."""
        if tag == "a" and len(self.links) < _MAX_LINKS:
            known = self.links.setdefault((attributes.get("href") or "").partition("#")[0].strip(), [])
            self._link = [] if "".join(known).strip() else known
        elif tag in _FRAMES and len(self.frames) < _MAX_LINKS:
            title = attributes.get("title") or attributes.get("name") or ""
            self.frames.setdefault((attributes.get(_FRAMES[tag]) or "").strip(), title)
        elif tag == "base":
            self.base = self.base or (attributes.get("href") or "").strip()
        elif tag == "title":
            self._in_title = not self.title and not self._unread
        elif tag == "meta" and len(self.headers) < _MAX_LINKS and not self._unread:
            name = (attributes.get("http-equiv") or "").strip().lower()
            self.headers += [(name, attributes.get("content") or "")] if name else []
            self.headers += [("charset", attributes["charset"].strip())] if "charset" in attributes else []
