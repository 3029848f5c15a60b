"""Who asks nothing is let go in time; who asks is not."""

import asyncio
import contextlib
import http.client
import socket
import time

import pytest
import server

from lmindexer_jax.serving.connection import Connection


class Hasty(Connection):
    patience = 1.5


async def answer(scope, receive, send):
    await asyncio.sleep(1.5 * Hasty.patience if scope["path"] == "/slow" else 0)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(scope="module")
def port():
    with server.serving(answer, http=Hasty, limit_concurrency=5) as port:
        yield port


def ended(connection: socket.socket) -> bool:
    """Whether the other side closes it."""
    connection.settimeout(20)
    try:
        return connection.recv(100) == b""
    except TimeoutError:
        return False


def ask(port: int, path: str = "/") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nhost: a\r\n"])
def test_silent_connections_do_not_lock_the_others_out(port, begun):
    with contextlib.ExitStack() as open_ones:
        silent = [open_ones.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(5)]
        for connection in silent:
            connection.sendall(begun)
        assert ask(port) == 503, "as many as there may be"
        assert all(map(ended, silent)) and ask(port) == 200


def test_what_trickles_does_not_stretch_the_time(port):
    request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        with pytest.raises(OSError):
            for byte in 4 * b"x-more: 1\r\n":  # of the next request's head
                connection.sendall(bytes([byte]))
                time.sleep(Hasty.patience / 5)


def test_a_long_answer_and_another_request_after_it_have_their_time(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        for path in ("/slow", "/", "/slow"):
            connection.request("GET", path)
            assert connection.getresponse().read() == b"ok"
