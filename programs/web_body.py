"""Reads the body of an answer: decompressed as browsers do it, and never more than the limit."""

from __future__ import annotations

import time
import zlib
from typing import Any

from programs.web_transport import httpcore, httpx

__all__ = ["read_body"]

_MAX_MEMBERS = 1_000
"""Members of one gzip stream: each takes time, also an empty one."""


def read_body(response: httpx.Response, limit: int, deadline: float) -> tuple[bytes, bool]:
    """The start of a body, decompressed, and whether there was more; never holds more than the limit.

    Raises:
        httpx.DecodingError: Its compression is broken or unknown.
        httpcore.ReadTimeout: It took too long to send.
    """
    decoder = _decoder(response.headers.get("content-encoding", ""))
    parts: list[bytes] = []
    size = sent = 0
    for chunk in response.iter_raw():
        if time.monotonic() > deadline:
            raise httpcore.ReadTimeout("it took too long to send")
        sent += len(chunk)
        try:
            parts.append(decoder.decode(chunk, limit + 1 - size))
        except zlib.error:
            raise httpx.DecodingError("its compression is broken") from None
        size += len(parts[-1])
        if size > limit or sent > limit:
            return b"".join(parts)[:limit], True
    return b"".join(parts), not decoder.complete


def _decoder(encoding: str) -> _Plain | _Zipped:
    """What decompresses a body, as its header says."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return _Plain()
    if name in ("gzip", "x-gzip", "deflate"):
        return _Zipped()
    raise httpx.DecodingError(f"it is compressed as {name[:20]!r}")


class _Plain:
    """A body that is not compressed."""

    complete = True

    def decode(self, chunk: bytes, most: int) -> bytes:
        return chunk[:most]


class _Zipped:
    """A body in gzip of any number of members, or in deflate with or without its header, as browsers read them."""

    def __init__(self) -> None:
        self._stream: Any = None
        self._head = b""
        self._members = 0

    @property
    def complete(self) -> bool:
        """Whether the compressed data came to its end."""
        return self._stream is None or self._stream.eof

    def decode(self, chunk: bytes, most: int) -> bytes:
        """Decompress the next chunk into at most so many bytes."""
        found = b""
        while chunk and len(found) < most:
            if self._stream is None or self._stream.eof:
                self._head += chunk
                if len(self._head) < 2:
                    return found
                chunk, self._head = self._head, b""
                if self._stream is not None and not chunk.startswith(b"\x1f\x8b"):
                    return found  # what follows the last member means nothing
                self._members += 1
                if self._members > _MAX_MEMBERS:
                    raise zlib.error("too many members")
                self._stream = zlib.decompressobj(_window_bits(chunk))
            found += self._stream.decompress(chunk, most - len(found))
            chunk = self._stream.unused_data
        return found


def _window_bits(start: bytes) -> int:
    """How zlib is told what begins like this: gzip or zlib by their headers, else deflate without one."""
    zlib_header = start[0] & 0x0F == 8 and int.from_bytes(start[:2], "big") % 31 == 0
    return zlib.MAX_WBITS + 32 if zlib_header or start.startswith(b"\x1f\x8b") else -zlib.MAX_WBITS
