"""The page and the interface behind it, as an ASGI application. No request names a file: there is one page, held in memory.

    GET /                                     the page
    GET /api/about                            what is searched
    GET /api/search?q=...&k=10                documents and beams; diverse=1 and category=A > B may be added, the latter also
                                              as category=A&category=B, where a ">" belongs to a name

A refusal is `{"error": "one line"}` with its status: 400 for a parameter or a name that is not the server's, 413 for a body,
500 for what went wrong here, 503 when too many are waiting. What never comes so far, uvicorn refuses in plain text: what is no
HTTP (400), and more connections than there may be (503).
"""

import base64
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Sequence

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmindexer_jax.errors import UserError
from lmindexer_jax.serving.answers import Answers

PAGE = pathlib.Path(__file__).with_name("page.html")
K = 10  # documents, if no number is asked for
SWITCH = {"0": False, "1": True}
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:]+)(:[0-9]*)?")  # a name or an address, and a port


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may ask for."""

    query: int = 1000  # characters; of a category too
    k: int = 50
    running: int = 2  # searches at a time
    waiting: int = 32  # searches that may wait for their turn; the next are refused


@dataclasses.dataclass(frozen=True)
class Asked:
    """The parameters of a search, checked."""

    query: str
    k: int
    category: tuple[str, ...]
    diverse: bool


def read(given: QueryParams, limits: Limits) -> Asked:
    """The parameters of a search.

    Raises:
      UserError: one is missing, unknown, given twice (but for the names of a category) or out of bounds.
    """
    known = ("q", "k", "category", "diverse")
    values = dict.fromkeys(known, "") | {"k": str(K), "diverse": "0"}
    seen = set()
    for name, value in given.multi_items():
        if name not in known:
            raise UserError(f"unknown parameter {name[:40]!r}; there are {', '.join(known)}")
        if name in seen and name != "category":
            raise UserError(f"{name} is given twice")
        seen.add(name)
        values[name] = value
    category = tuple(filter(None, map(str.strip, given.getlist("category"))))
    for name, length in (("q", len(values["q"])), ("category", sum(map(len, category)))):
        if length > limits.query:
            raise UserError(f"{name} has {length:,} characters; at most {limits.query:,} are read")
    if not values["q"].strip():
        raise UserError("q is empty; give a query, as in /api/search?q=lavender")
    if not re.fullmatch("[0-9]{1,6}", values["k"]) or not 1 <= int(values["k"]) <= limits.k:
        raise UserError(f"k goes from 1 to {limits.k}")
    if values["diverse"] not in SWITCH:
        raise UserError("diverse is 0 or 1")
    return Asked(values["q"].strip(), int(values["k"]), category, SWITCH[values["diverse"]])


class Gate:
    """Lets a few searches run at a time and a few more wait; the rest is refused at once."""

    def __init__(self, limits: Limits):
        """Nothing runs yet."""
        self._room, self._inside = limits.running + limits.waiting, 0
        self._threads = anyio.CapacityLimiter(limits.running)

    async def run(self, work):
        """The result of a function, run in a thread when its turn comes.

        Raises:
          HTTPException: 503, where too many are waiting.
        """
        if self._inside >= self._room:
            raise HTTPException(503, "too many searches are waiting; ask again in a moment", headers={"Retry-After": "1"})
        self._inside += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._threads)
        finally:
            self._inside -= 1


def make_app(answers: Answers, *, limits: Limits = Limits(), hosts: Sequence[str] = ("*",)) -> ASGIApp:
    """The application.

    Args:
      answers: what is asked.
      limits: see there.
      hosts: names under which it may be called, as the browser's Host header has them, in lower case, or "*" for any;
        another page's script that reaches a local address under its own name is turned away.
    """
    page = PAGE.read_text(encoding="utf-8")
    about = answers.about() | {"limits": dataclasses.asdict(limits)}
    gate = Gate(limits)

    async def show(request: Request) -> Response:
        return HTMLResponse(page)

    async def tell(request: Request) -> Response:
        return _json(about)

    async def search(request: Request) -> Response:
        asked = read(request.query_params, limits)

        def work() -> dict:
            return answers.search(asked.query, k=asked.k, category=asked.category, diverse=asked.diverse)

        return _json(await gate.run(work))

    routes = [Route("/", show), Route("/api/about", tell), Route("/api/search", search)]
    app = Starlette(routes=routes, exception_handlers={UserError: _refused, HTTPException: _refused, Exception: _failed})
    app.router.redirect_slashes = False
    return _guarded(app, _headers(page), hosts)


def _json(content: dict, status: int = 200, headers: dict | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    return Response(body, status, headers, "application/json")


def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return _json({"error": error.detail}, error.status_code, error.headers)
    return _json({"error": " ".join(str(error).split())}, 400)


def _failed(request: Request, error: Exception) -> Response:
    return _json({"error": "the search failed; the server's log says why"}, 500)


def _headers(page: str) -> dict[str, str]:
    """Of every answer. The page's own script and style are named by their hashes: no other can run."""

    def hashes(tag: str) -> str:
        parts = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'" for part in parts)

    policy = {
        "default-src": "'none'",
        "script-src": hashes("script"),
        "style-src": hashes("style"),
        "img-src": "data:",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }


def _guarded(app: ASGIApp, headers: dict[str, str], hosts: Sequence[str]) -> ASGIApp:
    """The application with these headers on whatever it answers, under these names alone, and deaf to bodies."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        answer = app
        if scope["type"] == "http":
            asked = Headers(scope=scope)
            if asked.get("content-length", "0") != "0" or "transfer-encoding" in asked:
                answer = _json({"error": "no body is read here; ask by GET"}, 413)
            elif not _called(asked.get("host", ""), hosts):
                answer = _json({"error": f"this server is not called {asked.get('host', '')[:100]!r}"}, 400)
        await answer(scope, receive, send_with_headers)

    return guarded


def _called(host: str, hosts: Sequence[str]) -> bool:
    """Whether a Host header has one of these names, with whatever port."""
    name = HOST.fullmatch(host.lower())
    return "*" in hosts or name is not None and name[1] in hosts
