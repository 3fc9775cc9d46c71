"""Reads what a server sent as a page: its encoding as a browser finds it, then title, main text, links and frames.

Guarantees:

- **Linear work**, and nothing that a browser does not show costs text (see `web_outline`).
- **No garbage.** The encoding is the first that fits the bytes, of those a browser looks at. Bytes that are no text in
  any of them, and files of another kind under the name of a page, are `Refused`.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from urllib.parse import urldefrag, urljoin

from programs.web_fetch import Refused
from programs.web_outline import Outline, require

__all__ = ["Page", "read_page"]

MAX_TEXT = 400_000
"""Characters of a page's text that are kept."""
_MENUS = (
    "nav", "footer:not(article footer)", "#footer", "[role=navigation]", "[role=contentinfo]", "[role=search]",
)  # fmt: skip
"""What is no part of a page's text, where there is another."""
_HIDDEN = ("[hidden]", "[style*='display:none']", "[style*='display: none']")
_CELLS = re.compile(r"(?<=[^\s])\t\t+(?=[^\s])")
"""What stands between the cells of a table."""
_SURE = 10
"""Characters in the form of UTF-8 from which on a text is tried in it, whatever it is called: they fit nothing else."""
_SHORT = 1_000
"""Characters of a main text that may have missed the page's content."""
_SOON = 10.0
"""Seconds up to which a page that leads on to another one is taken for a redirect."""
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_XML = re.compile(rb"\s*<\?xml[^>]{0,200}encoding\s*=\s*[\"']([\w.:-]+)")
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_LABEL = re.compile(r"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_REFRESH = re.compile(r"\s*([\d.]+)\s*[;,\s]\s*(?:url\s*=)?\s*[\"']?([^\"']+)", re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffd]")
_MARKUP = re.compile(r"\s*(<!--.*?-->\s*|<\?xml[^>]*>\s*)*<(!doctype html|html|head|body)\b", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """A page as an agent may read it."""

    url: str
    """Its address."""
    title: str
    """Its title; empty if it has none."""
    text: str
    """What it says, a paragraph or table row a line."""
    links: tuple[tuple[str, str], ...] = ()
    """Text and address of the pages it links to, in order, each once."""
    frames: tuple[str, ...] = ()
    """Addresses of the pages that are shown inside of it; they are among the links too."""
    refresh: str = ""
    """Address of the page it leads on to within seconds; empty if it stays."""
    cut: bool = False
    """Whether only the beginning was read."""


def read_page(
    body: bytes, url: str, *, content_type: str = "text/html", charset: str | None = None, refresh: str = ""
) -> Page:
    """Read a page.

    Args:
        body: What the server sent.
        url: Its address, which relative links start from.
        content_type: Media type; what is not HTML is taken as text.
        charset: Character set the server named.
        refresh: The header `Refresh`.

    Raises:
        Refused: It is no text.
    """
    kind = require("resiliparse.parse.encoding").detect_mime(body)
    if not kind.startswith("text/") and kind not in ("application/octet-stream", "application/xml"):
        raise Refused(f"it is no text but {kind}, whatever the server calls it")
    text = _decoded(body, charset)
    if "html" not in content_type and (content_type or not _MARKUP.match(text)):
        lines = [line for line in text[:MAX_TEXT].splitlines() if line.strip()]
        title = lines[0].strip("# ")[:200] if lines else ""
        return Page(url, title, text[:MAX_TEXT], refresh=_leads_to([refresh], url), cut=len(text) > MAX_TEXT)
    return _page(Outline.of(text.encode(errors="replace"), "utf-8"), url, refresh)


def _page(outline: Outline, url: str, refresh: str) -> Page:
    base = _joined(url, outline.base) or url
    links: dict[str, str] = {}
    for target, pieces in outline.links.items():
        if text := " ".join("".join(pieces).split())[:100]:
            links.setdefault(_joined(base, target), text)
    frames = {_joined(base, target): f"frame {title[:100]}".strip() for target, title in outline.frames.items()}
    itself = ("", urldefrag(url)[0])
    text = _main_text(outline.markup)
    return Page(
        url,
        " ".join(outline.title.split())[:200],
        text[:MAX_TEXT],
        tuple((text, address) for address, text in (links | frames).items() if address not in itself),
        tuple(address for address in frames if address not in itself),
        _leads_to([refresh, *(value for name, value in outline.headers if name == "refresh")], url, base),
        outline.too_deep or len(text) > MAX_TEXT,
    )


def _decoded(body: bytes, charset: str | None) -> str:
    """The text in the first encoding that fits: byte order mark, header, declaration in the text, detection.

    Raises:
        Refused: None fits.
    """
    for encoding in _encodings(body, charset):
        text = body.decode(encoding, "replace").removeprefix("\ufeff")
        if _fits(text):
            return text.replace("\0", "")
    raise Refused("it is no text, or in an encoding that can't be told")


def _encodings(body: bytes, charset: str | None) -> Iterator[str]:
    """Names of Python's codecs in the order in which they are tried; labels mean what they mean to browsers."""
    encoding = require("resiliparse.parse.encoding")
    yield from (name for mark, name in _BOMS if body.startswith(mark))
    even, odd = body[:2000:2].count(0), body[1:2000:2].count(0)
    if max(even, odd) >= 8 and min(even, odd) * 10 <= max(even, odd) and max(even, odd) * 10 > len(body[:2000]):
        yield "utf-16-be" if even > odd else "utf-16-le"  # markup is ASCII: every other byte of it is zero
    plain = body.isascii() and b"\x1b" not in body  # an escape begins the Japanese of ISO-2022-JP
    if plain or len(_UTF8.findall(body[:200_000])) >= _SURE:
        yield "utf-8"
    for label in chain([charset], _declared(body)):
        name = encoding.map_encoding_to_html5(label, fallback_utf8=False) if label else None
        if name in ("cp1252", "utf-16-le", "utf-16-be"):  # a server's default; or can't be: its markup is ASCII
            yield "utf-8"
        if name:
            yield name
    yield "utf-8"
    yield encoding.detect_encoding(body)
    yield "cp1252"


def _declared(body: bytes) -> Iterator[str]:
    """Labels of encodings in the XML declaration and the elements `meta`, wherever these are."""
    if found := _XML.match(body):
        yield found[1].decode("ascii")
    if b"charset" in body.lower():
        for name, value in Outline.of(body, "iso-8859-1").headers:
            yield from [value] if name == "charset" else _LABEL.findall(value) if name == "content-type" else []


def _fits(text: str) -> bool:
    """Whether most of what is not ASCII could be decoded, and hardly anything is a control character."""
    foreign = len(text) - len(text.encode("ascii", "ignore"))
    sample = text[:20_000]
    return text.count("\ufffd") * 5 <= foreign and len(_UNPRINTABLE.findall(sample)) * 20 <= len(sample)


def _leads_to(headers: list[str], url: str, base: str = "") -> str:
    """The other page that one of the headers `Refresh` leads to soon."""
    for header in headers:
        found = _REFRESH.match(header)
        target = _joined(base or url, found[2].strip()) if found else ""
        if found and target not in ("", urldefrag(url)[0]) and found[1].count(".") < 2 and float(found[1]) <= _SOON:
            return target
    return ""


def _main_text(markup: str) -> str:
    """The text without menus and footers, or all of it where that is nearly nothing.

    `main_content=True` of resiliparse is no help: it takes every list for a menu.
    """
    extract = require("resiliparse.extract.html2text").extract_plain_text
    document = require("resiliparse.parse.html").HTMLTree.parse(markup)
    text = extract(document, alt_texts=False, noscript=True, skip_elements=[*_MENUS, *_HIDDEN])
    if len(text) < _SHORT:
        everything = extract(document, alt_texts=False, noscript=True, skip_elements=list(_HIDDEN))
        text = text if len(text) * 10 >= len(everything) else everything
    return _CELLS.sub(" | ", text)


def _joined(base: str, target: str) -> str:
    """The address a link leads to, without its fragment; empty if that is no web page."""
    try:
        address = urldefrag(urljoin(base, target.strip()))[0]
    except ValueError:
        return ""
    return address if address.startswith(("http://", "https://")) else ""
