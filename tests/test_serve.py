"""The command that serves: its refusals and its end; (slow) under load, and what a browser makes of the page."""

import concurrent.futures
import errno
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import urllib.parse

import browser
import pytest
import retrievers

from lmindexer_jax import serve
from lmindexer_jax.errors import UserError
from lmindexer_jax.retrieval.searcher import Searcher

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return retrievers.make(tmp_path_factory.mktemp("serve"))


def command(*flags):
    return [sys.executable, "-m", "lmindexer_jax.serve", *map(str, flags)]


class Served:
    """The command in a process of its own."""

    def __init__(self, workdir, *flags):
        self.process = subprocess.Popen(
            command("--workdir", workdir, "--port", 0, *flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said = []
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.match(r"ready: (http://127\.0\.0\.1:(\d+)) \(a search takes [\d.]+ ms", line):
                self.address, self.port = found[1], int(found[2])
                return
        raise AssertionError(self.process.stderr.read())

    def memory(self) -> int:
        """Resident megabytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) // 1024

    def end(self, number=signal.SIGTERM):
        """Exit code, and what it said on standard error."""
        self.process.send_signal(number)
        rest, errors = self.process.communicate(timeout=60)
        self.said.append(rest)
        return self.process.returncode, errors


@pytest.fixture(scope="module")
def served(workdir):
    served = Served(workdir)
    yield served
    if served.process.poll() is None:
        served.process.kill()
        served.process.communicate()


def test_a_bad_workdir_and_a_port_in_use_are_one_line(workdir, tmp_path, monkeypatch, capsys):
    def ends(*flags):
        monkeypatch.setattr(sys, "argv", ["lmindexer-serve", *map(str, flags)])
        with pytest.raises(SystemExit) as ended:
            serve.run()
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert "let the run finish first" in ends("--workdir", tmp_path, "--port", 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port} cannot be listened on (Address already in use)" in ends("--workdir", workdir, "--port", port)
    assert "cannot be listened on" in ends("--workdir", workdir, "--host", "no.such.host.invalid")
    assert "a port goes from 0 to 65535" in ends("--workdir", workdir, "--port", 65536)
    assert "--running of at least 1" in ends("--workdir", workdir, "--running", 0)
    assert "--host is empty" in ends("--workdir", workdir, "--host", "")
    with pytest.raises(UserError, match="cannot be listened on"):
        serve.listen("203.0.113.1", 0)


def test_an_address_is_taken_before_anything_is_loaded():
    with serve.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(UserError, match=rf"127\.0\.0\.1:{port} cannot be listened on \(Address already in use\)"):
            serve.listen("127.0.0.1", port)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as early:
            early.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with first.accept()[0] as connection:
                assert connection.recv(3) == b"GET", "what came early was kept"


def test_a_host_without_ipv6_is_one_line(monkeypatch):
    def none_here(*_):
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(serve.socket, "socket", none_here)
    with pytest.raises(UserError, match=r"::1:0 cannot be listened on \(Address family not supported by protocol\)"):
        serve.listen("::1", 0)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(workdir, number):
    served = Served(workdir)
    connection = http.client.HTTPConnection("127.0.0.1", served.port)
    connection.request("GET", "/api/search?q=t1w3")
    assert connection.getresponse().status == 200
    code, errors = served.end(number)  # with a connection that is still open
    connection.close()
    assert (code, errors) == (0, "") and served.said[-1] == "stopped\n"


@pytest.mark.slow
def test_a_connection_that_asks_nothing_is_closed(served):
    with socket.create_connection(("127.0.0.1", served.port)) as silent:
        silent.settimeout(60)
        assert silent.recv(1) == b""


@pytest.mark.slow
def test_under_load_answers_stay_right_and_memory_bounded(workdir, served):
    (said,) = [line for line in served.said if "ready" in line]
    assert "(a search takes 0.0 ms" not in said
    queries = [f"t{n % 4}w{n % 6} s{n % 4}{n % 3}w{n % 5}" for n in range(40)]
    wanted = [[hit.document for hit in hits] for hits in Searcher.load(workdir).search(queries, k=10)]

    def client(number: int) -> list[int]:
        connection, statuses = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60), []
        for turn in range(60):
            n = (7 * number + turn) % len(queries)
            connection.request("GET", "/api/search?" + urllib.parse.urlencode({"q": queries[n], "k": 10}))
            answer = connection.getresponse()
            content = json.loads(answer.read())
            statuses.append(answer.status)
            if answer.status == 200:
                assert [hit["document"] for hit in content["hits"]] == wanted[n]
            else:
                assert answer.status == 503 and "waiting" in content["error"]
        connection.close()
        return statuses

    def nuisance(number: int) -> None:
        """Requests that are refused, each in its way, and what is no request or too large a one."""
        ask = lambda **parameters: "/api/search?" + urllib.parse.urlencode(parameters)  # noqa: E731
        wrong = (ask(), ask(q="x" * 5000), ask(q="x", k=10**9), ask(q="x", category="none"), "/api/search?q=%ff&q=%00")
        lost = ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "/page.html")
        for turn in range(10):
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
            for status, paths in ((400, wrong), (404, lost)):
                connection.request("GET", paths[(number + turn) % len(paths)])
                answer = connection.getresponse()
                assert answer.status in (status, 503) and b"root:" not in answer.read()
            connection.close()
            long = b"GET /?" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 20000
            body = b"POST /api/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50000000\r\n\r\n" + b"x" * 1_000_000
            raw = (*long, body, b"\0" * 5000, b"POST /", b"")[(number + turn) % 6]
            with socket.create_connection(("127.0.0.1", served.port), timeout=30) as bad:
                try:
                    bad.sendall(raw)
                    bad.shutdown(socket.SHUT_WR)
                    assert bad.recv(100)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 413")
                except OSError as error:  # turned away before it had said all
                    assert error.errno in (errno.ECONNRESET, errno.EPIPE, errno.ENOTCONN)

    def crowd(size: int, *, nuisances: int = 0) -> list[int]:
        with concurrent.futures.ThreadPoolExecutor(size + nuisances) as pool:
            others = [pool.submit(nuisance, number) for number in range(nuisances)]
            statuses = sum(pool.map(client, range(size)), [])
            for other in others:
                other.result()
            return statuses

    assert crowd(8) == [200] * 480
    before = served.memory()
    assert set(crowd(16)) == {200}, "16 connections cannot fill a queue of 32"
    many = crowd(60)
    assert set(many) <= {200, 503} and many.count(200) > 500
    assert served.memory() - before < 60
    assert set(crowd(16, nuisances=16)) == {200}, "what is refused harms nobody else"
    assert served.memory() - before < 60
    assert crowd(1) == [200] * 60


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(served, tmp_path, width):
    with browser.Browser(tmp_path, width=width) as page:
        page.open(served.address)
        page.until("document.body && document.body.dataset.ready === 'start'")
        assert page.do("document.activeElement.id") == "q" and page.do("document.querySelectorAll('#examples button').length") > 0
        page.write("t0w1 t1w1 t2w1 t3w1")
        page.press("Enter", 13)
        page.until("document.body.dataset.ready === 'answer'")
        assert page.do("location.search") == "?q=t0w1+t1w1+t2w1+t3w1"
        assert page.do("document.querySelectorAll('.hit').length") == 10
        assert page.do("document.querySelectorAll('.column').length") == 3
        assert page.do("document.querySelectorAll('.column:nth-of-type(1) .beam').length") == 4
        assert page.do("document.querySelectorAll('.hit .why li').length") == 30
        assert "documents in" in page.do("document.getElementById('status').textContent")
        marks = page.do("[...document.querySelectorAll('.why mark')].map(each => each.textContent)")
        assert marks and set(marks) <= {"t0w1", "t1w1", "t2w1", "t3w1"}
        # Texts stay texts.
        assert "<b>bold</b> </script>" in page.do("document.querySelector('.hit .text').textContent")
        assert page.do("document.querySelectorAll('.text b').length") == 0
        seen = "(id => { const box = document.getElementById(id).getBoundingClientRect(); return box.width > 0 && box.height > 0; })"
        assert page.do(f"{seen}('hits')") and page.do(f"{seen}('columns')") is (width > 940)
        if width < 940:
            page.do("document.querySelector('#switch [data-view=beams]').click()")
            assert page.do(f"{seen}('columns')") and not page.do(f"{seen}('hits')")
        # A link for every beam that follows another, each between its ends.
        beams = page.do("document.querySelectorAll('.column:not(:nth-of-type(1)) .beam').length")
        assert page.do("document.querySelectorAll('#columns path').length") == beams > 10
        assert page.do("document.documentElement.scrollWidth <= innerWidth"), "nothing hangs over the edge"
        # By keys alone: walk into the tree, read what a beam stands for, keep it lit, let it go.
        page.do("document.querySelector('.beam[tabindex=\"0\"]').focus()")
        page.press("ArrowRight", 39)
        prefix = page.do("document.activeElement.dataset.prefix")
        assert prefix.count("-") == 1 and page.do("document.querySelector('#told .code').textContent") == prefix
        page.press("Enter", 13)
        assert page.do("document.activeElement.getAttribute('aria-pressed')") == "true"
        lit = page.do("[...document.querySelectorAll('.beam.lit')].map(each => each.dataset.prefix)")
        assert prefix in lit and prefix.split("-")[0] in lit and all(each == prefix[0] or each.startswith(prefix) for each in lit)
        page.press("Escape", 27)
        assert page.do("document.querySelectorAll('.beam.lit').length") == 0
        # Below one category, by its name under a document; and away again.
        page.do("document.querySelector('.crumbs button').click()")
        page.until("document.body.dataset.ready === 'answer' && !document.getElementById('within').hidden")
        assert "category=topic" in page.do("location.search")
        assert page.do("document.querySelectorAll('.column:nth-of-type(1) .beam').length") == 1
        page.do("document.getElementById('within').click()")
        page.until("document.body.dataset.ready === 'answer'")
        assert page.do("document.querySelectorAll('.column:nth-of-type(1) .beam').length") == 4
        assert page.said == []
        # As one types; and an empty query leads back to the start.
        page.do("document.getElementById('q').value = ''; document.getElementById('q').focus()")
        page.write("t2w1")
        page.until("new URLSearchParams(location.search).get('q') === 't2w1' && document.body.dataset.ready === 'answer'")
        page.do("history.back()")
        page.until("document.getElementById('q').value !== 't2w1'")
        assert page.said == []
