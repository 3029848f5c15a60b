"""A page to search a finished run in the browser, served on this machine:

    python -m lmindexer_jax.serve --workdir runs/mine
"""

import argparse
import pathlib
import signal
import socket
import statistics
import sys
import time

import uvicorn

from lmindexer_jax.console import Console, Mode, run_main
from lmindexer_jax.data.cache import keep_compiled
from lmindexer_jax.errors import UserError
from lmindexer_jax.evaluation.gloss import Gloss
from lmindexer_jax.retrieval.searcher import Searcher
from lmindexer_jax.serving.answers import Answers
from lmindexer_jax.serving.app import K, Limits, make_app
from lmindexer_jax.serving.connection import Connection

LOCAL = ("127.0.0.1", "localhost", "::1", "[::1]")
WARM = 20  # searches whose median is told
CONNECTIONS = 500  # open at a time
WAITING = 128  # that wait while there is no time for them yet
GRACE = 5  # seconds that answers under way get at the end


def parse(arguments: list[str]) -> argparse.Namespace:
    """Flags; a wrong one ends the program with exit code 2."""
    parser = argparse.ArgumentParser(prog="lmindexer-serve", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=pathlib.Path, help="of a run with a retriever")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines search, too")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--running", type=int, default=Limits.running, help="searches at a time")
    parser.add_argument("--waiting", type=int, default=Limits.waiting, help="searches that may wait; the next are refused")
    parser.add_argument("--console", type=Mode, choices=list(Mode), default=Mode.AUTO)
    return parser.parse_args(arguments)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on an address from now on: what connects waits in it until it is served, and no other server
    can take the address while this one still loads.

    Raises:
      UserError: the port is in use or not allowed, or there is no such address.
    """
    if not host:
        raise UserError("--host is empty; give an address, such as 127.0.0.1, or 0.0.0.0 for all of this machine's")
    if not 0 <= port < 1 << 16:
        raise UserError(f"port {port}: a port goes from 0 to {(1 << 16) - 1}")
    try:
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(WAITING)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise UserError(f"{host}:{port} cannot be listened on ({error.strerror or error}); give another by --port or --host") from None
    return bound


def open_answers(workdir: pathlib.Path, console: Console) -> Answers:
    """Everything that a search needs, in memory.

    Raises:
      UserError: no retriever in the workdir, or a damaged one.
    """
    searcher = Searcher.load(workdir)
    source = searcher.table.manifest.config["corpus"]
    keep_compiled(source["cache_dir"])
    if searcher.corpus is None:
        console.warn("the run's documents cannot be read any more: no texts, words and categories are shown")
    title = pathlib.Path(source["path"]).name or source["name"]
    return Answers(searcher, Gloss(searcher.table, searcher.corpus), title=title)


def warm(answers: Answers) -> float:
    """Compile, and return the median of some searches in milliseconds."""
    texts = answers.examples() or ["a query"]
    answers.search(texts[0], k=K)
    spent = []
    for number in range(WARM):
        started = time.perf_counter()
        answers.search(texts[number % len(texts)], k=K)
        spent.append(time.perf_counter() - started)
    return 1000 * statistics.median(spent)


def main() -> None:
    """Parse, open, warm up, serve until Ctrl-C or SIGTERM."""
    flags = parse(sys.argv[1:])
    console = Console(flags.console)
    if flags.running < 1 or flags.waiting < 0:
        raise UserError("serve: give --running of at least 1 and --waiting of at least 0")
    with listen(flags.host, flags.port) as bound:
        answers = open_answers(flags.workdir, console)
        console.note(f"{len(answers.searcher.table):,} documents; compiling the search ...")
        latency = warm(answers)
        limits = Limits(running=flags.running, waiting=flags.waiting)
        app = make_app(answers, limits=limits, hosts=LOCAL if flags.host in LOCAL else ("*",))
        config = uvicorn.Config(
            app, http=Connection, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none",
            limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=GRACE,
        )  # fmt: skip
        server = uvicorn.Server(config)

        def stop(*_) -> None:
            server.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn's own handlers call these again at the end
            signal.signal(number, stop)
        address = f"[{flags.host}]" if ":" in flags.host else flags.host
        console.success(f"ready: http://{address}:{bound.getsockname()[1]} (a search takes {latency:.1f} ms; Ctrl-C ends it)")
        server.run(sockets=[bound])
    console.note("stopped")


def run() -> None:
    """Entry point of the command `lmindexer-serve`."""
    run_main(main)


if __name__ == "__main__":
    run()
