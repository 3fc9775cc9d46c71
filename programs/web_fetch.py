"""Fetches web pages for an agent: within limits, and from addresses it may see.

Guarantees:

- **Public addresses only.** Private, loopback, link-local, multicast and reserved addresses are refused, whatever form
  they come in: a name, a decimal or octal number, IPv6 with an IPv4 address in it. A name is resolved once for each
  connection, and the connection goes to the address that was checked, so a name that changes its address in between
  gains nothing. Every redirect is checked like the first address. Only http and https, and no user name in the address.
- **Limits** on bytes (compressed and not), on time from the first connection to the last byte, and on redirects.
- **Two kinds of failure.** What can't be reached (no connection, a timeout, a server's error, a rate limit, a resolver
  that does not answer) is an `InfrastructureError`; what may not be visited, does not exist or will be refused again (a
  false certificate, a wall against programs, a status that is no outage) is `Refused` or a status, which a tool tells
  its agent. That a host does not exist, as one that a model made up, is believed of a resolver that knows
  another name at the same time: cut off from the network, some say it of every name.

Proxies of the environment are not used: they would connect on their own. Name resolution takes as long as the system's
resolver takes.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from programs.web_body import read_body
from programs.web_transport import FalseCertificate, GuardedTransport, httpcore, httpx
from trgrpo_dspy import InfrastructureError

__all__ = ["Fetched", "Fetcher", "Limits", "Refused"]

_HEADERS = {
    "user-agent": "trgrpo-dspy/0.1 (research agent)",
    "accept": "text/html,application/xhtml+xml,text/*;q=0.9,*/*;q=0.1",
    "accept-encoding": "gzip",
}
_OUTAGES = frozenset(
    {408, 425, 429, 500, 502, 503, 504, 507, 509, 511, 520, 521, 522, 523, 524, 525, 527, 529, 530, 598, 599}
)
"""Statuses that pass, Cloudflare's and those of proxies among them; 501, 505, 508, 526 or 999 don't."""
_WALLS = ("cf-mitigated", "x-amzn-waf-action")
"""Headers with which a wall asks for a browser, whatever the status."""
_TEXTS = frozenset({"", "xml", "json", "javascript", "yaml"})
"""Of `application/`, beside what ends in +xml or +json; a server that names no type is believed to send text."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_RESERVED = tuple(map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "fec0::/10", "3fff::/20")))
"""Taken for public ones by some versions of Python."""
_BARE = re.compile(r"[\w-]+(\.[\w-]+)+(:\d+)?(/.*)?", re.DOTALL)
_HOST = re.compile(r"[\w.:-]+")
_MOST_ADDRESSES = 4
"""Addresses of one name that are tried."""
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
"""What a resolver says of a name that does not exist, or has no address."""


class Refused(Exception):
    """The page may not be visited, can't be read or has a host that does not exist; no outage."""


@dataclass(frozen=True)
class Limits:
    """What one visit may use."""

    seconds: float = 20.0
    """Time from the first connection to the last byte, redirects included."""
    max_bytes: int = 4_000_000
    """Bytes of a page that are read, after decompression; the rest is left."""
    redirects: int = 5
    """Redirects that are followed."""

    def __post_init__(self) -> None:
        """Check the values."""
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"Limits({name}={value!r}) must be above 0")


@dataclass(frozen=True)
class Fetched:
    """What a server answered."""

    url: str
    """Address of the page, after redirects."""
    status: int
    """HTTP status: 200, or one of 400 and above that is no outage."""
    content_type: str
    """Media type without parameters, in lower case; empty if the server named none."""
    charset: str | None
    """Character set the server named."""
    body: bytes
    """The page, decompressed; empty if the status is not 200 or the page is no text."""
    cut: bool
    """Whether the page was longer than the limit, or its compression ends too early."""
    refresh: str = ""
    """The header `Refresh`."""

    @property
    def is_text(self) -> bool:
        """Whether the page is text, by its media type."""
        return _is_text(self.content_type)


@dataclass(frozen=True)
class Fetcher:
    """Fetches pages; a value, safe in any number of threads."""

    limits: Limits = field(default_factory=Limits)
    """What one visit may use."""
    allow: tuple[str, ...] = ()
    """Networks that are not public and may be visited all the same, such as "10.1.0.0/16"."""
    hosts: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Names with an address and port of their own, as in a hosts file; they may be visited wherever they lead."""
    landmark: str = "www.iana.org"
    """A name that a resolver knows whenever it knows any."""

    def __post_init__(self) -> None:
        """Check the networks."""
        for network in self.allow:
            ipaddress.ip_network(network)

    def get(self, url: str, deadline: float | None = None) -> Fetched:
        """Fetch a page.

        Args:
            url: Its address.
            deadline: When everything ends, as `time.monotonic()` tells it; None for the limit of a visit from now on.

        Raises:
            InfrastructureError: It can't be reached: no connection, a timeout, a status that passes.
            Refused: It may not be visited, has no host, redirects too often, or is sent in a form that can't be read.
        """
        deadline = time.monotonic() + self.limits.seconds if deadline is None else deadline
        transport = GuardedTransport(self.addresses, deadline)
        with httpx.Client(
            transport=transport, trust_env=False, headers=_HEADERS, timeout=self.limits.seconds
        ) as client:
            try:
                return self._follow(client, url, deadline)
            except FalseCertificate as error:
                raise Refused(f"its certificate is not valid: {error}") from None
            except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise InfrastructureError(f"{url[:200]} can't be reached: {reason[:200]}") from error

    def _follow(self, client: httpx.Client, url: str, deadline: float) -> Fetched:
        for _ in range(self.limits.redirects + 1):
            try:
                with client.stream("GET", _checked(url)) as response:
                    if response.next_request is None:
                        return self._read(response, deadline)
                    url = str(response.next_request.url)
            except (
                httpx.RemoteProtocolError,
                httpx.UnsupportedProtocol,
                httpx.InvalidURL,
            ) as error:  # what it redirects to is no address
                raise Refused(f"it redirects to what is no address of a web page ({error})") from None
            except httpx.DecodingError as error:
                raise Refused(f"it can't be decompressed: {error}") from None
        raise Refused(f"it redirects more than {self.limits.redirects} times")

    def _read(self, response: httpx.Response, deadline: float) -> Fetched:
        status = response.status_code
        if any(header in response.headers for header in _WALLS):
            raise Refused("it is only given to browsers, not to programs")
        if status in _OUTAGES:
            raise InfrastructureError(f"{response.url} answered with HTTP status {status}")
        kind = response.headers.get("content-type", "").split(";")[0].strip().lower()
        body, cut = b"", False
        if status < 300 and _is_text(kind):
            body, cut = read_body(response, self.limits.max_bytes, deadline)
        refresh = response.headers.get("refresh", "")
        return Fetched(str(response.url), status, kind, response.charset_encoding, body, cut, refresh)

    def addresses(self, host: str, port: int) -> list[tuple[str, int]]:
        """Addresses and ports a connection to a host may go to, all checked.

        Raises:
            httpcore.ConnectError: The name can't be resolved at the moment.
            Refused: One of them may not be visited, or no host has this name.
        """
        if host in self.hosts:
            return [self.hosts[host]]
        try:
            found = _resolved(host, port)
        except UnicodeError:  # too long, or with an empty part
            raise Refused("it is no address of a web page: there can be no such name") from None
        except OSError as error:
            if _unknown(error) and self._does_not_exist(host, port):
                raise Refused(f"there is no host with the name {host[:100]}") from None
            raise httpcore.ConnectError(f"the name {host[:100]} can't be resolved ({error})") from None
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for address in addresses:
            if not self._may_visit(address):
                raise Refused(f"{host[:100]} is a private, local or reserved address")
        return [(address, port) for address in addresses[:_MOST_ADDRESSES]]

    def _does_not_exist(self, host: str, port: int) -> bool:
        """Whether a name that was not found is not found again, after one that was."""
        try:
            _resolved(self.landmark, port)
        except OSError:
            return False
        try:
            _resolved(host, port)
        except OSError as error:
            return _unknown(error)
        return False

    def _may_visit(self, address: str) -> bool:
        ip = _innermost(ipaddress.ip_address(address))
        if any(ip in ipaddress.ip_network(network) for network in self.allow):
            return True
        reserved = any(ip in network for network in _RESERVED) or ip.is_multicast or ip.is_reserved
        return ip.is_global and not (reserved or _tunnels(ip))


def _resolved(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _unknown(error: OSError) -> bool:
    return isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME


def _innermost(ip: Any) -> Any:
    """The IPv4 address inside an IPv6 one that is a way to write it, else the address itself."""
    if ip.version == 6 and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.version == 6 and ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


def _tunnels(ip: Any) -> bool:
    """Whether packets to this IPv6 address end at an IPv4 address written into it (6to4, Teredo)."""
    return ip.version == 6 and (ip.sixtofour is not None or ip.teredo is not None)


def _checked(url: str) -> httpx.URL:
    """The address, if it is one of a web page."""
    text = url.strip()
    text = f"https://{text}" if _BARE.fullmatch(text) else text
    try:
        parsed = httpx.URL(text)
        host = parsed.host  # decoded here, and not every name can be
    except (httpx.InvalidURL, ValueError) as error:
        raise Refused(f"it is no address of a web page ({str(error)[:100]})") from None
    if parsed.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        raise Refused("it is no address of a web page: give one that begins with http:// or https://")
    if host.rstrip(".").endswith(".invalid"):  # reserved for names that never exist: no outage
        raise Refused("there is no such page")
    if parsed.port is not None and not 0 < parsed.port <= 65535:
        raise Refused("it is no address of a web page: there is no such port")
    if parsed.userinfo:
        raise Refused("addresses with a user name in them are not visited")
    return parsed


def _is_text(content_type: str) -> bool:
    subtype = content_type.removeprefix("application/")
    return content_type.startswith("text/") or subtype in _TEXTS or subtype.endswith(("+xml", "+json"))
