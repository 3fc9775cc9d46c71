"""A server on loopback that does what a test says, down to the bytes and the way a connection ends."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Behaviour = Callable[[socket.socket, str], None]
"""Gets the connection and the path that was asked for, once the request is read."""


class Loopback:
    """Where it listens, and what it was asked."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked: list[str] = []
        self.requests: list[str] = []

    @property
    def hosts(self) -> dict[str, tuple[str, int]]:
        """The name `site.example` for it."""
        return {"site.example": ("127.0.0.1", self.port)}


@contextmanager
def serve(behaviour: Behaviour) -> Iterator[Loopback]:
    """Serve while the block runs; a thread a connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Loopback(listener.getsockname()[1])
    threads: list[threading.Thread] = []

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(60)
            request = b""
            while b"\r\n\r\n" not in request:
                if not (got := connection.recv(65536)):
                    return
                request += got
            head, _, body = request.partition(b"\r\n\r\n")
            length = next(
                (int(h[15:]) for h in head.decode().lower().split("\r\n") if h.startswith("content-length:")), 0
            )
            while len(body) < length:
                if not (got := connection.recv(65536)):
                    return
                body += got
            path = head.split()[1].decode()
            server.asked.append(path)
            server.requests.append((head + b"\r\n\r\n" + body).decode())
            behaviour(connection, path)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=answer, args=(connection,), daemon=True))
            threads[-1].start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for each in [thread, *threads]:
            each.join(60)


def response(
    body: bytes | str = b"", status: str = "200 OK", kind: str = "text/html; charset=utf-8", **headers: str
) -> Behaviour:
    """Answer with this."""
    content = body.encode() if isinstance(body, str) else body
    named = {"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in named.items() if value), "", ""]
    data = "\r\n".join(lines).encode() + content
    return lambda connection, path: connection.sendall(data)


def redirect(target: str) -> Behaviour:
    return response(status="302 Found", Location=target)


def reset(connection: socket.socket, path: str) -> None:
    """End the connection with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def drip(start: bytes, piece: bytes, pause: float = 0.02) -> Behaviour:
    """Send the start, then the same piece again and again until the other side has gone."""

    def behave(connection: socket.socket, path: str) -> None:
        connection.sendall(start)
        ended = threading.Event()
        while not ended.wait(pause):
            connection.sendall(piece)

    return behave
