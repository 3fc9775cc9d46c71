"""HTTP over connections that go to checked addresses only and end at a deadline.

Guarantees: a connection goes to an address that `addresses` gave for its host, and no single read or write, however
often it succeeds, carries a request past its deadline. What goes wrong is an exception of
`httpcore`, or a `FalseCertificate`.
"""

from __future__ import annotations

import functools
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

try:
    import httpcore
    import httpx
except ImportError:
    raise ImportError("The web tools are not installed: pip install 'trgrpo-dspy[web]'") from None

__all__ = ["FalseCertificate", "GuardedTransport", "httpcore", "httpx"]

Addresses = Callable[[str, int], list[tuple[str, int]]]
"""Addresses and ports for a host and port; raises for those that may not be visited."""


_FALSE_CERTIFICATES = frozenset({10, 18, 62, 64})
"""OpenSSL's numbers: expired, self-signed, of another host or address. An unknown issuer may be our own fault."""


class FalseCertificate(Exception):
    """The server shows a certificate that a browser refuses; trying again won't help."""


class GuardedTransport(httpx.BaseTransport):
    """A transport for `httpx.Client`."""

    def __init__(self, addresses: Addresses, deadline: float) -> None:
        """Prepare connections.

        Args:
            addresses: Gives the addresses for a host.
            deadline: When everything ends, as `time.monotonic()` tells it.
        """
        backend = _Guarded(addresses, deadline)
        self._pool = httpcore.ConnectionPool(ssl_context=_ssl_context(), network_backend=backend)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        url = request.url
        answer = self._pool.handle_request(
            httpcore.Request(
                request.method,
                httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=_Answer(answer))

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Answer(httpx.SyncByteStream):
    """The body of an answer."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer.iter_stream()

    def close(self) -> None:
        self._answer.close()


class _Guarded(httpcore.NetworkBackend):
    """Connects to checked addresses only, and lets no operation run past the deadline."""

    def __init__(self, addresses: Addresses, deadline: float) -> None:
        self._addresses, self._deadline = addresses, deadline
        self._network = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of the host that answers."""
        failure: Exception = httpcore.ConnectError("the name has no address")
        for address, its_port in self._addresses(host, port):
            try:
                left = _left(self._deadline, httpcore.ConnectTimeout)
                return _Stream(self._network.connect_tcp(address, its_port, left), self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def sleep(self, seconds: float) -> None:
        """Wait, as the connection pool asks for between its tries."""
        self._network.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    """A connection whose operations end at the deadline, however slowly the other side drips."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(self._deadline, httpcore.ConnectTimeout)
        try:
            return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)
        except httpcore.ConnectError as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _FALSE_CERTIFICATES:
                raise FalseCertificate(cause.verify_message) from None
            raise

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float, error: type[Exception]) -> float:
    """Seconds to the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise error("it took too long to answer")
    return left


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    return httpcore.default_ssl_context()
