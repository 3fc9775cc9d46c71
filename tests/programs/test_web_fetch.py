"""Fetching pages over real HTTP: limits, failures, and which addresses may be visited."""

from __future__ import annotations

import gzip
import importlib
import socket
import sys
import tracemalloc
from typing import Any

import pytest

pytest.importorskip("resiliparse", reason="needs the extra: pip install 'trgrpo-dspy[web]'")

import httpcore
from support.loopback import Behaviour, drip, redirect, response, serve

from programs.web_fetch import Fetched, Fetcher, Limits, Refused
from trgrpo_dspy import InfrastructureError

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
PUBLIC = "93.184.215.14"


def fetch(behaviour: Behaviour, path: str = "/a", **limits: Any) -> Fetched:
    with serve(behaviour) as server:
        return Fetcher(limits=Limits(**{"seconds": 60, **limits}), hosts=server.hosts).get(f"http://site.example{path}")


class TestAnswers:
    def test_a_page(self) -> None:
        found = fetch(response("<p>caf\u00e9</p>", kind="Text/HTML; charset=UTF-8"))
        assert found == Fetched("http://site.example/a", 200, "text/html", "utf-8", "<p>caf\u00e9</p>".encode(), False)

    def test_what_the_server_is_told(self) -> None:
        with serve(response("x")) as server:
            Fetcher(hosts=server.hosts).get("http://site.example:8080/a?b=c#d")
        head = server.requests[0].lower()
        assert head.startswith("get /a?b=c http/1.1") and "host: site.example:8080" in head
        assert "trgrpo-dspy" in head and "accept-encoding: gzip\r\n" in head

    @pytest.mark.parametrize(
        ("kind", "text"),
        [
            ("text/plain", True), ("text/markdown", True), ("application/xhtml+xml", True), ("image/png", False),
            ("", True), ("application/pdf", False), ("application/ld+json", True), ("application/octet-stream", False),
        ],
    )  # fmt: skip
    def test_only_text_is_read(self, kind: str, text: bool) -> None:
        found = fetch(response("x", kind=kind))
        assert (found.is_text, found.body) == (text, b"x" if text else b"")


class TestDeadConnections:
    @pytest.mark.parametrize(
        ("answers", "outage"),
        [
            ({"nowhere.example": [socket.EAI_NONAME]}, False),
            ({"nowhere.example": [socket.EAI_NONAME], "www.iana.org": [socket.EAI_NONAME]}, True),
            ({"nowhere.example": [socket.EAI_NONAME], "www.iana.org": [socket.EAI_AGAIN]}, True),
            ({"nowhere.example": [socket.EAI_AGAIN]}, True),
            ({"nowhere.example": [socket.EAI_NONAME, socket.EAI_AGAIN]}, True),
            ({"nowhere.example": [socket.EAI_NONAME, 0]}, True),
        ],
        ids=["made up", "cut off", "cut off, and said so", "a resolver out of reach", "cut off for a while", "back"],
    )
    def test_a_name_that_is_not_found(
        self, answers: dict[str, list[int]], outage: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
            known = answers.get(host, [0])
            code = known.pop(0) if len(known) > 1 else known[0]
            if code:
                raise socket.gaierror(code, "not found")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, 80))]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        said = "the name {} can't be resolved" if outage else "there is no host with the name {}"
        with pytest.raises(InfrastructureError if outage else Refused, match=said.format(r"nowhere\.example")):
            Fetcher().get("http://nowhere.example/")

    def test_no_server_and_no_https(self) -> None:
        with serve(response("x")) as server:
            fetcher = Fetcher(limits=Limits(seconds=0.5), hosts=server.hosts)
            with pytest.raises(InfrastructureError, match=r"https://site\.example/ can't be reached"):
                fetcher.get("https://site.example/")
        with pytest.raises(InfrastructureError, match=r"http://site\.example/ can't be reached"):
            fetcher.get("http://site.example/")

    @pytest.mark.parametrize(
        "behaviour",
        [
            lambda connection, path: connection.recv(1),
            drip(b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n"),
            drip(OK + b"\r\n", b"x"),
        ],
        ids=["silent", "drips its headers", "drips its body"],
    )
    def test_one_time_limit_for_all(self, behaviour: Behaviour) -> None:
        """Each of these would go on for ever: every single read succeeds in time."""
        with pytest.raises(InfrastructureError, match="can't be reached"):
            fetch(behaviour, seconds=0.3)


class TestSize:
    def test_the_limit(self) -> None:
        found = fetch(drip(OK + b"\r\n", b"x" * 10_000, 0), max_bytes=50_000)
        assert found.cut and found.body == b"x" * 50_000
        assert [fetch(response(b"x" * size), max_bytes=1000).cut for size in (1000, 1001)] == [False, True]

    def test_a_bomb_never_unfolds(self) -> None:
        bomb = gzip.compress(bytes(30_000_000), 9)
        tracemalloc.start()
        try:
            found = fetch(response(bomb, Content_Encoding="gzip"), max_bytes=100_000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert found.cut and len(found.body) == 100_000
        assert peak < 3_000_000


class TestRedirects:
    def test_they_are_followed(self) -> None:
        def behave(connection: socket.socket, path: str) -> None:
            {"/a": redirect("/b/c"), "/b/c": redirect("d?e=f")}.get(path, response("here"))(connection, path)

        found = fetch(behave)
        assert (found.url, found.body) == ("http://site.example/b/d?e=f", b"here")

    @pytest.mark.parametrize(
        ("target", "reason"),
        [
            ("http://127.0.0.1:{port}/secret", "private, local or reserved"),
            ("http://[::ffff:127.0.0.1]:{port}/secret", "private, local or reserved"),
            ("http://localhost:{port}/secret", "private, local or reserved"),
            ("http://169.254.169.254/latest/meta-data", "private, local or reserved"),
            ("http://user@site.example/secret", "user name"),
            ("file:///etc/passwd", "no address of a web page"),
            ("ftp://site.example/secret", "no address of a web page"),
            ("http://:::/", "redirects to what is no address"),
            ("javascript:alert(1)", "redirects to what is no address"),
        ],
    )
    def test_every_hop_is_checked(self, target: str, reason: str) -> None:
        def behave(connection: socket.socket, path: str) -> None:
            redirect(target.format(port=server.port))(connection, path)

        with serve(behave) as server, pytest.raises(Refused, match=reason):
            Fetcher(hosts=server.hosts).get("http://site.example/a")
        assert server.asked == ["/a"]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Addresses that connections went to; none succeeds."""
    made: list[str] = []

    def connect(self: Any, host: str, *args: Any, **kwargs: Any) -> Any:
        made.append(host)
        raise httpcore.ConnectError("not in a test")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
    return made


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Let names resolve to these addresses, call after call; returns the names that were asked."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


REFUSED = [
    "http://127.0.0.1/", "http://127.8.9.10:8080/", "http://localhost/", "http://LOCALHOST/", "http://0.0.0.0/",
    "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://127.1/", "http://0/", "http://0177.0.0.1/",
    "http://017700000001/", "http://10.1.2.3/", "http://172.16.0.1/", "http://192.168.1.1/", "http://100.64.0.1/",
    "http://169.254.169.254/latest", "http://192.0.2.1/", "http://198.18.0.1/", "http://224.0.0.1/", "http://240.0.0.1/",
    "http://255.255.255.255/", "http://[::1]/", "http://[::]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:a00:1]/",
    "http://[0:0:0:0:0:ffff:c0a8:101]/", "http://[::127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "http://[64:ff9b::a00:1]/",
    "http://[2002:7f00:1::]/", "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/", "http://[fe80::1]/",
    "http://[fe80::1%25lo]/", "http://[fc00::1]/", "http://[ff02::1]/", "http://[2001:db8::1]/",
    "http://\uff11\uff12\uff17.0.0.1/", "http://user@example.org/", "http://user:pw@example.org/",
    "http://example.org@127.0.0.1/", "https://:@example.org/x@y", "file:///etc/passwd", "gopher://example.org/",
    "javascript:alert(1)", "data:text/html,x", "ftp://example.org/", "http://", "http:///path", "//example.org", "",
    "not an address", "http://exa mple.org/", "http://a\nb/", "http://example.org:99999/", "http://[::1/",
    f"http://{'a' * 70}.example/", "http://a..example/", "http://xn--/", "http://example.org:-1/", "http://example.org:0/",
    "http://192.0.0.8/", "http://192.88.99.1/", "http://[fec0::1]/", "http://[3fff::1]/",
    "http://folder.invalid/no-such-page.txt", "http://folder.invalid./x",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_addresses_that_are_refused(url: str, connections: list[str]) -> None:
    with pytest.raises(Refused):
        Fetcher().get(url)
    assert connections == []


class TestAddresses:
    @pytest.mark.parametrize(
        "url", ["http://8.8.8.8/", "https://8.8.8.8/", "http://[2606:4700::1111]/", "http://[64:ff9b::808:808]/"]
    )
    def test_public_ones_are_not(self, url: str, connections: list[str]) -> None:
        with pytest.raises(InfrastructureError, match="not in a test"):
            Fetcher().get(url)
        assert connections == [url.split("//")[1].strip("/[]")]

    @pytest.mark.parametrize("private", ["127.0.0.1", "10.0.0.7", "::1", "169.254.169.254"])
    @pytest.mark.parametrize("public", [[], [PUBLIC]])
    def test_a_name_of_a_private_address(
        self, private: str, public: list[str], connections: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolve_to(monkeypatch, [*public, private])
        with pytest.raises(Refused, match=r"innocent\.example is a private"):
            Fetcher().get("http://innocent.example/")
        assert connections == []

    def test_a_name_that_changes_its_address_gains_nothing(
        self, connections: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = resolve_to(monkeypatch, [PUBLIC], ["127.0.0.1"])
        with pytest.raises(InfrastructureError):
            Fetcher().get("http://rebinding.example/")
        assert connections == [PUBLIC], "the address that was checked"
        assert asked == ["rebinding.example"]

    def test_a_second_address_is_tried(self, connections: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        resolve_to(monkeypatch, [PUBLIC, "93.184.215.15", PUBLIC])
        with pytest.raises(InfrastructureError):
            Fetcher().get("example.org/without/scheme")
        assert connections == [PUBLIC, "93.184.215.15"]

    def test_what_is_allowed_explicitly(self) -> None:
        with serve(response("inside")) as server:
            found = Fetcher(allow=("127.0.0.0/8",)).get(f"http://127.0.0.1:{server.port}/")
            mapped = Fetcher(allow=("127.0.0.0/8",)).get(f"http://[::ffff:127.0.0.1]:{server.port}/")
        assert found.body == mapped.body == b"inside"
        with pytest.raises(Refused):
            Fetcher(allow=("127.0.0.0/8",)).get("http://10.0.0.1/")

    def test_bad_settings(self) -> None:
        with pytest.raises(ValueError, match="everything"):
            Fetcher(allow=("everything",))
        with pytest.raises(ValueError, match=r"Limits\(seconds=0\)"):
            Limits(seconds=0)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpcore", None)
    monkeypatch.delitem(sys.modules, "programs.web_transport")
    with pytest.raises(ImportError, match=r"pip install 'trgrpo-dspy\[web\]'"):
        importlib.import_module("programs.web_transport")
