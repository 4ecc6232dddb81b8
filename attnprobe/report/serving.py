"""`attnprobe view`: the page of a run for one reader, with maps read when they are asked for."""

import html
import secrets
import tempfile
import threading
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from attnprobe.errors import AttnprobeError, MeasureError, ReportError, SelectionError
from attnprobe.report.address import Address
from attnprobe.report.page import page_html

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
except ModuleNotFoundError as error:
    raise ReportError(
        f"viewing a run needs {error.name}", fix='run: pip install "attnprobe[view]"'
    ) from error

STATUS: Mapping[type[AttnprobeError], int] = {SelectionError: 404, MeasureError: 409}
"""What a request is answered with that asks for what is not there, or not stored."""
HEADERS = {
    "cache-control": "no-store",  # what a run holds is nobody's but the reader's
    "referrer-policy": "no-referrer",  # the link is the key
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "frame-ancestors 'none'",  # the page names the rest itself
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Sent with every answer."""


@runtime_checkable
class Answers(Protocol):
    """What the page asks: `report.Payload`, or a stand-in."""

    def answer(self, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return a piece of the page."""
        ...


def new_token() -> str:
    """Return a key that nobody guesses, fit for a link."""
    return secrets.token_urlsafe(32)


def view_app(payload: Answers, title: str, token: str, address: Address) -> ASGIApp:
    """Put the server together: the page at `/TOKEN/`, its pieces at `/TOKEN/api/NAME`.

    Nothing can be changed through it. Requests without the token get what a stranger gets
    anywhere, 404; those that call this machine by a foreign name are refused.
    """
    page = page_html(title)
    one_at_a_time = threading.Lock()  # HDF5 reads for one thread

    def show_page(request: Request) -> Response:
        return HTMLResponse(page)

    def show_piece(request: Request) -> Response:
        try:
            with one_at_a_time:
                found = payload.answer(request.path_params["name"], request.query_params)
        except AttnprobeError as error:
            return PlainTextResponse(str(error), STATUS.get(type(error), 500))
        return JSONResponse(found)

    routes = [
        Route(f"/{token}/", show_page),
        Route(f"/{token}/api/{{name}}", show_piece),
    ]
    return Guard(Starlette(routes=routes), token, address)


class Guard:
    """Lets through what reads, names this machine and has the token, and nothing else."""

    def __init__(self, app: ASGIApp, token: str, address: Address) -> None:
        self.app, self.token, self.address = app, token, address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            return
        refused = self._refused(scope)
        await (refused or self.app)(scope, receive, send_with_headers)

    def _refused(self, scope: Scope) -> Response | None:
        """Say why a request is turned away; None if it is let through."""
        if not self.address.is_named(Headers(scope=scope).get("host", "")):
            return PlainTextResponse("This machine goes by another name.", 421)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("This is for reading.", 405, {"allow": "GET, HEAD"})
        given = scope["path"].removeprefix("/").partition("/")[0]
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            return PlainTextResponse("Not Found", 404)
        return None


def serve(app: ASGIApp, address: Address) -> uvicorn.Server:
    """Make the server; `run(sockets=[address.socket])` answers until it is interrupted.

    Links are not logged, as they hold the token, and no proxy's word is taken for who asks.
    """
    return uvicorn.Server(
        uvicorn.Config(
            app,
            access_log=False,
            http="h11",
            lifespan="off",
            log_level="warning",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=2,
            ws="none",
        )
    )


@contextmanager
def opened_in_browser(link: str) -> Iterator[bool]:
    """Open a link in the reader's browser, and yield whether there was one to open it.

    The browser is given a file that only its owner can read and that leads to the link: everyone
    on the machine can see what programs are started with.
    """
    with tempfile.TemporaryDirectory(prefix="attnprobe-view-") as folder:
        leads_on = Path(folder) / "view.html"
        leads_on.write_text(
            '<!DOCTYPE html><meta charset="utf-8"><title>attnprobe</title>'
            f'<meta http-equiv="refresh" content="0; url={html.escape(link)}">',
            encoding="utf-8",
        )
        yield webbrowser.open(leads_on.as_uri())
