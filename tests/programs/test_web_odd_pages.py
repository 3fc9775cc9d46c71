"""What an agent is told of odd pages: encodings, compression, length, frames, refusals, other files."""

from __future__ import annotations

import gzip
import random
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("resiliparse", reason="needs the extra: pip install 'trgrpo-dspy[web]'")

from support.growth import assert_linear
from support.loopback import Behaviour, drip, redirect, reset, response, serve

from programs.web_fetch import Fetched, Fetcher, Limits
from programs.web_pages import visit_tool
from programs.web_reading import read_page
from trgrpo_dspy import InfrastructureError

FRENCH = "L'\u00e9t\u00e9, le phare est ferm\u00e9 \u00e0 midi. O\u00f9 est la cl\u00e9 du gar\u00e7on?"
CHINESE = "\u706f\u5854\u5728\u5c71\u4e0a\uff0c\u4ece\u516b\u70b9\u5f00\u653e\u3002"
JAPANESE = "\u706f\u53f0\u306f\u516b\u6642\u306b\u958b\u304d\u307e\u3059\u3002"
RUSSIAN = "\u041c\u0430\u044f\u043a \u043e\u0442\u043a\u0440\u044b\u0442 \u0441 \u0432\u043e\u0441\u044c\u043c\u0438."
POLISH = "Za\u017c\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144 w latarni."
LAMP = "<p>The keeper of the lamp was called Josun Ware, and he wrote down the weather every day.</p>"
CUT = "only the beginning of this long page was read"


def html(text: str, head: str = "") -> str:
    return f"<!DOCTYPE html><html><head>{head}<title>T</title></head><body><p>{text}</p></body></html>"


def page(text: str, encoding: str, charset: str = "", head: str = "") -> Behaviour:
    kind = f"text/html; charset={charset}" if charset else "text/html"
    return response(html(text, head).encode(encoding), kind=kind)


def site(**pages: Behaviour) -> Behaviour:
    return lambda connection, path: pages.get(path.strip("/"), response("none", status="404 N"))(connection, path)


def visit(behaviour: Behaviour, goal: str = "the lamp keeper", **limits: float) -> str:
    with serve(behaviour) as server:
        fetcher = Fetcher(limits=Limits(**{"seconds": 60, **limits}), hosts=server.hosts)
        return visit_tool(fetcher)("http://site.example/a", goal)


def leads(content: str, body: str = "") -> Behaviour:
    return response(f'<meta http-equiv="Refresh" content="{content}">{body}')


NOISE = random.Random(0).randbytes(20_000)
ZIPPED = gzip.compress(html(LAMP).encode())
MEMBERS = b"".join(map(gzip.compress, (b"<p>One", b"", b" Two", LAMP.encode())))
EARLY = gzip.compress(LAMP.encode() + NOISE.hex().encode())[:-900]
RAW = zlib.compressobj(wbits=-15)
DEFLATED = RAW.compress(LAMP.encode()) + RAW.flush()
LATIN2 = "<meta charset=latin2>"
HTTP_EQUIV = '<meta http-equiv="Content-Type" content="text/html; charset=x-sjis">'
NO_TEXT = r"can't be visited: it is no text but {}, whatever the server calls it\."
REFUSED = r"can't be visited: the server does not give it out \(HTTP status {}\)"
ENCODINGS: dict[str, tuple[Behaviour, str]] = {
    "in UTF-8, as the header says": (page(FRENCH, "utf-8", "utf-8"), FRENCH),
    "with a byte order mark of UTF-8": (page(FRENCH, "utf-8-sig"), FRENCH),
    "with a byte order mark of UTF-16": (page(FRENCH, "utf-16"), FRENCH),
    "with a mark against the header": (page("caf\u00e9", "utf-8-sig", "shift_jis"), "caf\u00e9"),
    "in UTF-16, little-endian, and nothing says so": (page(CHINESE, "utf-16-le"), CHINESE),
    "in UTF-16, big-endian, as the header nearly says": (page(FRENCH, "utf-16-be", "utf-16"), FRENCH),
    "in Latin-1, as a meta element says": (page(FRENCH, "cp1252", head="<meta charset='iso-8859-1'>"), FRENCH),
    "whose meta element comes late": (page(POLISH, "latin2", head=f"<!--{'a' * 9000}-->{LATIN2}"), POLISH),
    "in Shift_JIS, by http-equiv": (page(JAPANESE, "shift_jis", head=HTTP_EQUIV), JAPANESE),
    "in GBK, called GB2312": (page(CHINESE + "\u9555", "gbk", "gb2312"), CHINESE),
    "in ISO-2022-JP": (page(JAPANESE, "iso-2022-jp", "iso-2022-jp"), JAPANESE),
    "with an XML declaration": (response(f"<?xml version='1.0' encoding='latin2'?>{html(POLISH)}".encode("latin2"),
                                         kind="application/xhtml+xml"), POLISH),
    "with a declaration that can't be": (page(FRENCH, "utf-8", head="<meta charset='utf-16'>"), FRENCH),
    "in Latin-1, and the header says UTF-8": (page(FRENCH, "cp1252", "utf-8"), FRENCH),
    "in UTF-8, and the header says Latin-1": (page("caf\u00e9", "utf-8", "iso-8859-1"), "caf\u00e9"),
    "in UTF-8, and the header says Shift_JIS": (page(FRENCH * 2, "utf-8", "shift_jis"), FRENCH),
    "in an unknown encoding": (page(FRENCH, "utf-8", "no-such-charset"), FRENCH),
    "in what is a codec, but no encoding": (page("caf\u00e9", "utf-8", "punycode"), "caf\u00e9"),
    "in UTF-7, which browsers dropped": (page("caf\u00e9", "utf-8", "utf-7"), "caf\u00e9"),
    "in Russian, and nothing says how": (page(RUSSIAN * 5, "cp1251"), RUSSIAN),
    "with one broken byte": (response(html(FRENCH).encode() + b"\xff" + FRENCH.encode()), FRENCH),
    "with another declaration in a comment": (
        page(POLISH, "latin2", head=f"<!-- <meta charset=big5> -->{LATIN2}"), POLISH),
    "without a media type": (response(html(FRENCH).encode("utf-16"), kind=""), FRENCH),
}  # fmt: skip
TOLD: dict[str, tuple[Behaviour, str]] = {
    "a PDF called text/html": (response(b"%PDF-1.7\n%\xe2\xe3\n" + NOISE), NO_TEXT.format("application/pdf")),
    "a PDF": (response(b"%PDF-1.7", kind="application/pdf"), r"no text but application/pdf, which can't be read here"),
    "a picture called text/html": (response(b"\x89PNG\r\n\x1a\n" + NOISE), NO_TEXT.format("image/png")),
    "an archive called text/plain": (
        response(b"PK\x03\x04" + NOISE, kind="text/plain"), NO_TEXT.format("application/zip")),
    "a gzip file called text/plain": (response(ZIPPED, kind="text/plain"), NO_TEXT.format("application/gzip")),
    "noise called text/html": (response(NOISE, kind="text/html"), "no text, or in an encoding that can't be told"),
    "zeros": (response(bytes(3000)), "no text, or in an encoding"),
    "a feed": (response("<rss><title>Lamps</title></rss>", kind="application/rss+xml"), "<title>Lamps</title>"),
    "nothing": (response("  "), "can't be visited: it is empty"),
    "an application": (response("<p id=app></p><noscript>Turn scripts on</noscript><script>x</script>"), "Turn sc"),
    "an application that says nothing": (response("<div id=app></div>"), r"\(no text: it may be made by scripts"),
    "gzip": (response(ZIPPED, Content_Encoding="gzip"), "Josun Ware"),
    "gzip in members": (response(MEMBERS, Content_Encoding="x-gzip"), "Josun Ware"),
    "gzip with something behind it": (response(ZIPPED + b"\0\0padding", Content_Encoding="gzip"), "Josun Ware"),
    "gzip that ends too early": (response(EARLY, Content_Encoding="gzip"), CUT),
    "deflate": (response(zlib.compress(LAMP.encode()), Content_Encoding="deflate"), "Josun Ware"),
    "deflate without its header": (response(DEFLATED, Content_Encoding="deflate"), "Josun Ware"),
    "a compression nobody asked for": (response("x", Content_Encoding="br"), "it is compressed as 'br'"),
    "a broken compression": (response(b"\x1f\x8bno stream", Content_Encoding="gzip"), "its compression is broken"),
    "countless members": (response(gzip.compress(b"") * 1200, Content_Encoding="gzip"), "its compression is broken"),
    "a long script before the text": (response(f"<script>{'var x;' * 300_000}</script>{LAMP}"), "Josun Ware"),
    "long styles before the text": (response(f"<style>{'a{b:c}' * 80_000}</style>{LAMP}"), "Josun Ware"),
    "a long comment before the text": (response(f"<!--{'x' * 500_000}-->{LAMP}"), "Josun Ware"),
    "a long picture before the text": (response(f"<svg>{'<path/>' * 90_000}</svg>{LAMP}"), "Josun Ware"),
    "a text that is too long": (response("<p>harbour</p>" * 60_000), CUT),
    "a page that does not end": (drip(b"HTTP/1.1 200 OK\r\n\r\n<html>", b"<p>harbour" * 5_000, 0), CUT),
    "a page of endless depth": (response(LAMP + "<div>" * 5_000 + "deep"), f"(?s)Josun Ware.*{CUT}"),
    "a page of some depth": (response("<div>" * 400 + LAMP), "Josun Ware"),
    "a page that leads on": (site(a=leads("0; URL=b"), b=response(LAMP)), "example/b\n.*\n?.*Josun"),
    "a header that leads on": (site(a=response("", Refresh="1;url='/b'"), b=response(LAMP)), "example/b\n.*\n?.*Josun"),
    "pages that lead on in a circle": (site(a=leads("0;url=b"), b=leads("0;url=a")), "no text"),
    "a page that leads on to an address inside": (leads("0;http://10.0.0.1/"), "10.0.0.1 is a private"),
    "a page that reloads itself": (leads("0", LAMP), "(?s)example/a\n.*Josun"),
    "a page that leads on later": (leads("300; url=b", LAMP), "(?s)example/a\n.*Josun"),
    "frames": (site(a=response("<frameset><frame src=b><frame src=c></frameset>"),
                    b=response("<a href=x>Menu</a>"), c=response(LAMP)), "(?s)Josun.*Menu: http://site.example/x"),
    "a frame that holds everything": (site(a=response("<iframe src='/b'></iframe>"), b=response(LAMP)), "Josun Ware"),
    "a frame beside the text": (response(f"{LAMP * 9}<iframe title=Map src=/map></iframe>"),
                                "(?s)Josun Ware.*- frame Map: http://site.example/map"),
    "frames of which one is gone": (
        site(a=response("<iframe src=b></iframe><iframe src=c></iframe>"), c=response(LAMP)), "Josun Ware"),
    "links from another base": (response(f"<base href=/deep/>{LAMP}<a href=x>On</a>"), "- On: .*/deep/x"),
    "a list that unfolds": (response("<form><button>Who?</button><p>Josun</p></form>"), "Who[?]\nJosun"),
    "a list, which is no menu": (response(f"<article>{LAMP}<ul><li>Oil<li>Wick</ul></article>"), "(?s)Oil.*Wick"),
    "code": (response("<pre>if lit:\n\t\tlamp = 1</pre>"), "if lit:\nlamp = 1"),
    "markup as text": (response("<xmp><b>lamp</b></xmp>"), "<b>lamp</b>"),
    "a table": (response("<table><tr><td>Edda Rusk</td><td>1944</td></tr></table>"), "Edda Rusk [|] 1944"),
    "what nobody sees": (response("<p hidden>one</p><p style='display:none'>two</p><p>lamp</p>"), "a\nlamp\n"),
    "a page with a zero": (response(f"{LAMP}\0"), "Josun Ware"),
    **{f"status {status}": (response("no", status=f"{status} X"), REFUSED.format(status))
       for status in (304, 400, 401, 403, 451, 501, 505, 526, 999)},
    **{f"status {status}": (response("no", status=f"{status} X"), rf"it does not exist \(HTTP status {status}\)")
       for status in (404, 410)},
    "a wall": (response("Just a moment", status="503 X", cf_mitigated="challenge"), "only given to browsers"),
    "a wall that says success": (response(status="202 A", x_amzn_waf_action="challenge"), "only given to browsers"),
    "redirects in a circle": (redirect("/a"), "can't be visited: it redirects more than 5 times"),
    "a redirect inside": (redirect("http://10.0.0.1/"), "can't be visited: 10.0.0.1 is a private"),
}  # fmt: skip
OUTAGES: dict[str, Behaviour] = {
    "a reset": reset,
    "half of a page": response("short", Content_Length="100"),
    "a header that drips": drip(b"", b"HTTP"),
    "frames that can't be reached": site(a=response("<iframe src=b></iframe>"), b=reset),
    **{f"status {n}": response("later", status=f"{n} X") for n in (408, 425, 429, 500, 502, 503, 511, 522)},
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_page(name: str) -> None:
    behaviour, text = ENCODINGS[name]
    assert text in visit(behaviour, "phare \u706f")


@pytest.mark.parametrize("name", TOLD)
def test_told_of(name: str) -> None:
    behaviour, said = TOLD[name]
    assert re.search(said, text := visit(behaviour)), text
    assert len(text) < 6000 and "\ufffd" not in text


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_is(name: str) -> None:
    with pytest.raises(InfrastructureError):
        visit(OUTAGES[name], seconds=1)


def test_one_time_limit_for_all_pages_of_a_visit() -> None:
    def hangs(connection: socket.socket, path: str) -> None:
        connection.recv(1)

    deadlines = []

    class Noting(Fetcher):
        def get(self, url: str, deadline: float | None = None) -> Fetched:
            deadlines.append(deadline)
            return super().get(url, deadline)

    framed = response("<iframe src=b></iframe><iframe src=c></iframe>")
    with serve(site(a=leads("0; URL=d"), d=framed, b=hangs, c=hangs)) as server:
        before = time.monotonic()
        with pytest.raises(InfrastructureError):
            visit_tool(Noting(limits=Limits(seconds=1.0), hosts=server.hosts))("http://site.example/a", "lamp")
    assert len(deadlines) > 1 and len(set(deadlines)) == 1, "none has a limit of its own"
    assert before + 1.0 <= deadlines[0] <= time.monotonic()


HOSTILE: dict[str, Callable[[], str]] = {
    "elements in elements": lambda: "<div>" * 700_000,
    "ends of elements": lambda: "<div>" * 480 + "</b>" * 700_000,
    "deep paragraphs": lambda: "<div>" * 480 + "<p>" * 1_000_000,
    "attributes": lambda: "<p " + " ".join(f"a{n}=1" for n in range(300_000)) + ">x",
    "fonts": lambda: "".join(f"<font size={n}><p>" for n in range(150_000)),
    "options": lambda: "<select>" + "<option>x" * 400_000,
    "forms": lambda: "<form><div></form>" * 200_000,
    "links": lambda: "".join(f"<a href='/x{n}'>link {n}</a>" for n in range(120_000)),
    "text in links": lambda: "<a href=x><object>" * 900 + "word " * 700_000,
    "tables": lambda: "<table>" + "<a>x" * 900_000,
    "brackets": lambda: "<" * 3_900_000,
    "declarations": lambda: "<meta charset=x>" * 200_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_page_takes_long_to_read(name: str) -> None:
    """An HTML5 parser alone takes minutes for some of these."""
    body = HOSTILE[name]().encode()
    assert_linear(lambda part: read_page(part, "http://site.example/"), lambda size: body[:size], len(body), seconds=30)


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes a certificate")
def test_a_false_certificate_is_no_outage(tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("key", "cert")]
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=site.example -keyout {} -out {}"
    subprocess.run(command.format(*files).split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files[1], files[0])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fetcher = Fetcher(limits=Limits(seconds=60), hosts={"site.example": listener.getsockname()[:2]})
        with context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False) as tls:

            def handshake() -> None:
                connection, _ = tls.accept()
                with connection:
                    connection.settimeout(60)
                    try:
                        connection.do_handshake()
                    except OSError:
                        return

            thread = threading.Thread(target=handshake)
            thread.start()
            told = visit_tool(fetcher)("https://site.example/", "lamp")
            thread.join()
    assert "its certificate is not valid: self" in told
