"""A small web site to search and visit without the internet: 30 linked pages on islands that do not exist.

`site()` serves it on loopback over real HTTP: HTML with menus, tables and footers, and a search that speaks Serper's
protocol (`POST /search`). `questions(part)` asks about it. `python -m programs.web_site` serves it until Ctrl-C.

Its pages call themselves `http://kelmora.example/...`, whatever port serves them, so that what an agent sees is the
same in every run; `Site.fetcher` knows where that name leads. All facts are invented for this project.
"""

from __future__ import annotations

import argparse
import functools
import html
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

import dspy

from programs.web_fetch import Fetcher
from programs.web_index import LocalIndex
from programs.web_reading import read_page
from programs.web_search_engines import Result, Serper

__all__ = ["BASE", "Site", "index", "main", "pages", "questions", "running_site", "site"]

HOST = "kelmora.example"
BASE = f"http://{HOST}/"
"""What the addresses of the pages begin with."""
_DATA = Path(__file__).parent / "data"
_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
_MENU = {"Home": "index.html", "The islands": "islands.html", "Ferries": "ferries.html", "People": "people.html"}
_MAX_QUERY = 10_000


_PORTS: dict[int, int] = {}
"""Port of each site that is served, by its number: state, no setting, so that runs on two ports are the same run."""
_LOCK = threading.Lock()


@dataclass(frozen=True)
class Site:
    """The site as it is served; a value without its port, which differs from process to process."""

    number: int
    """The lowest that was free."""

    @classmethod
    def at(cls, port: int) -> Site:
        """The site that is served at a port from now on."""
        with _LOCK:
            number = next(n for n in range(len(_PORTS) + 1) if n not in _PORTS)
            _PORTS[number] = port
        return cls(number)

    def closed(self) -> None:
        """Forget the port, since the site is not served any more; whoever asks finds nobody there."""
        with _LOCK:
            del _PORTS[self.number]

    @property
    def address(self) -> tuple[str, int]:
        """Where it is served; a port where nobody listens once it is closed."""
        return "127.0.0.1", _PORTS.get(self.number, 9)

    @property
    def url(self) -> str:
        """The same as an address, without a slash at the end."""
        return "http://{}:{}".format(*self.address)

    @property
    def fetcher(self) -> Fetcher:
        """Visits the site under its own name, and public addresses."""
        return _SiteFetcher(site=self)

    @property
    def engine(self) -> _SiteSearch:
        """Searches the site, over HTTP."""
        return _SiteSearch(self)


@dataclass(frozen=True, kw_only=True)
class _SiteFetcher(Fetcher):
    """A fetcher that knows where the site is served."""

    site: Site

    def addresses(self, host: str, port: int) -> list[tuple[str, int]]:
        return [self.site.address] if host == HOST else super().addresses(host, port)


@dataclass(frozen=True)
class _SiteSearch:
    """The site's own search."""

    site: Site

    def search(self, query: str) -> list[Result]:
        return Serper(key="none-needed", endpoint=f"{self.site.url}/search").search(query)


@contextmanager
def site(port: int = 0) -> Iterator[Site]:
    """Serve the site on loopback while the block runs.

    Args:
        port: The port; 0 for any free one.
    """
    server, thread = _start(port)
    served = Site.at(server.server_address[1])
    try:
        yield served
    finally:
        served.closed()
        server.shutdown()
        thread.join()
        server.server_close()


@functools.cache
def running_site() -> Site:
    """The site, served as long as this process lives; nothing waits for it at the end."""
    return Site.at(_start(0)[0].server_address[1])


def _start(port: int) -> tuple[_Server, threading.Thread]:
    server = _Server(("127.0.0.1", port), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    return server, thread


def questions(part: str) -> list[dspy.Example]:
    """Questions on the site: 8 for "train", 4 for "val", 4 for "test"."""
    rows = [json.loads(line) for line in (_DATA / "web_questions.jsonl").read_text(encoding="utf-8").splitlines()]
    if part not in {row["split"] for row in rows}:
        raise ValueError(f"part={part!r} must be 'train', 'val' or 'test'")
    return [
        dspy.Example(question=row["question"], answer=row["answer"]).with_inputs("question")
        for row in rows
        if row["split"] == part
    ]


@functools.cache
def pages() -> dict[str, str]:
    """The pages as HTML, by path."""
    found = {}
    for part in (_DATA / "web_site.md").read_text(encoding="utf-8").split("=== ")[1:]:
        path, _, text = part.partition("\n")
        found[path.strip()] = _html(path.strip(), text.strip().splitlines())
    return found


@functools.cache
def index() -> LocalIndex:
    """The index that the site's search uses."""
    return LocalIndex(read_page(text.encode(), BASE + path) for path, text in pages().items())


def _html(path: str, lines: list[str]) -> str:
    """A page with menu and footer; its first line is the title, lines with bars are a table."""
    up = "../" * path.count("/")
    title = html.escape(lines[0].removeprefix("# "))
    menu = "".join(f'<li><a href="{up}{target}">{name}</a></li>' for name, target in _MENU.items())
    body = "\n".join(
        _table(block) if block[0].startswith("|") else _paragraph(block[0]) for block in _blocks(lines[1:])
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title} | Kelmora</title><style>nav li {{ display: inline }}</style></head>
<body>
<header><nav><ul>{menu}</ul></nav></header>
<main>
<article>
<h1>{title}</h1>
{body}
</article>
</main>
<footer><p>Kelmora tourist office, Rope Walk 3, Port Adle. <a href="{up}index.html">Imprint</a></p></footer>
</body>
</html>
"""


def _blocks(lines: list[str]) -> list[list[str]]:
    """Lines of a table together, every other line alone."""
    blocks: list[list[str]] = []
    for line in filter(None, lines):
        if line.startswith("|") and blocks and blocks[-1][0].startswith("|"):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    return blocks


def _table(rows: list[str]) -> str:
    cells = [[_inline(cell.strip()) for cell in row.strip("| ").split("|")] for row in rows]
    head = "".join(f"<th>{cell}</th>" for cell in cells[0])
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells[1:])
    return f"<table>\n<tr>{head}</tr>\n{body}\n</table>"


def _paragraph(line: str) -> str:
    return f"<p>{_inline(line)}</p>"


def _inline(text: str) -> str:
    return _LINK.sub(r'<a href="\2">\1</a>', html.escape(text, quote=False))


class _Server(ThreadingTCPServer):
    """A thread a connection, none of which holds up the end of the process."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    """Answers GET of a page, and POST of a search as Serper does."""

    protocol_version = "HTTP/1.1"
    server_version = "Kelmora"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/") or "index.html"
        found = pages().get(path)
        text = found if found is not None else "<html><body><h1>There is no such page.</h1></body></html>"
        self._send(200 if found is not None else 404, "text/html; charset=utf-8", text)

    def do_POST(self) -> None:
        size = int(self.headers.get("content-length") or 0)
        try:
            query = json.loads(self.rfile.read(min(size, _MAX_QUERY)))["q"]
            found = [asdict(result) for result in index().search(str(query))]
        except (ValueError, KeyError, TypeError):
            self.close_connection = True
            return self._send(400, "application/json", '{"message": "no query"}')
        rows = [{"title": r["title"], "link": r["url"], "snippet": r["snippet"]} for r in found]
        return self._send(200, "application/json", json.dumps({"organic": rows}))

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


def main() -> int:
    """Serve the site until Ctrl-C. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m programs.web_site", description="Serve the made-up web site.")
    parser.add_argument("port", nargs="?", type=int, default=8124, help="port on loopback (8124); 0 for any free one")
    port = parser.parse_args().port
    try:
        with site(port) as served:
            sys.stdout.write(f"The site is served at {served.url} (Ctrl-C ends it)\n")
            sys.stdout.flush()
            threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    except (OSError, OverflowError) as error:
        parser.exit(1, f"port {port} can't be used: {getattr(error, 'strerror', None) or error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
