"""The server of a study: one page per reader, behind a link that cannot be guessed."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from xreal.app.study.store import Reader, Store
from xreal.errors import InputError

__all__ = ["links", "serve", "study_app"]

_PAGE = Path(__file__).parent / "page"
_LARGEST_ANSWER = 4_000_000  # bytes; marks are the bulk of it
_LAST_PORT = 65535
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",  # the link is the reader's key
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
Handler = Callable[[Reader, Request], Response]


def study_app(store: Store) -> Starlette:
    """Return the ASGI application of a study.

    Below /r/TOKEN/: the page; GET state; GET picture/ID and outlines/ID; PUT answer/ID. All else is 404, so that a
    wrong token tells nothing.
    """

    def page(reader: Reader, request: Request) -> Response:
        return FileResponse(_PAGE / "index.html")

    def state(reader: Reader, request: Request) -> Response:
        return JSONResponse(store.state(reader))

    def picture(reader: Reader, request: Request) -> Response:
        outlines = request.path_params["what"] == "outlines"
        if (data := store.png(reader, request.path_params["id"], outlines)) is None:
            return _not_found()
        return Response(data, media_type="image/png")

    async def answer(request: Request) -> Response:
        reader = await run_in_threadpool(store.reader, request.path_params["token"])
        if reader is None:
            return _not_found()
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > _LARGEST_ANSWER:
                return JSONResponse({"error": "too long an answer"}, 413, _HEADERS)
        try:
            saved = await run_in_threadpool(store.save, reader, request.path_params["id"], json.loads(body))
        except ValueError as error:  # no JSON, or an InputError of what it holds
            return JSONResponse({"error": str(error)}, 422, _HEADERS)
        return JSONResponse({"saved": saved}, 200 if saved else 409, _HEADERS)

    def to_page(request: Request) -> Response:
        return RedirectResponse(request.path_params["token"] + "/")

    def guarded(handler: Handler) -> Callable[[Request], Response]:
        def handle(request: Request) -> Response:
            reader = store.reader(request.path_params["token"])
            response = _not_found() if reader is None else handler(reader, request)
            response.headers.update(_HEADERS)
            return response

        return handle

    return Starlette(
        routes=[
            Mount("/page", StaticFiles(directory=_PAGE)),
            Route("/r/{token}", to_page),
            Route("/r/{token}/", guarded(page)),
            Route("/r/{token}/state", guarded(state)),
            Route("/r/{token}/answer/{id}", answer, methods=["PUT"]),
            Route("/r/{token}/{what}/{id}", guarded(picture)),
        ]
    )


def _not_found() -> Response:
    return PlainTextResponse("Not found. Use the whole link that you were given.", 404)


def links(store: Store, base: str) -> list[tuple[str, str, str]]:
    """List name, progress such as "12 of 60", and link of every reader."""
    progress = store.progress()
    return [
        (reader.name, "{} of {}".format(*progress[reader.number]), f"{base.rstrip('/')}/r/{reader.token}/")
        for reader in store.readers()
    ]


def serve(store: Store, host: str, port: int, url: str | None, say: Callable[[str], None]) -> None:
    """Serve a study until it is interrupted; answers are kept whenever that happens.

    Args:
        store: the study.
        host: address to listen on; 127.0.0.1 keeps the study to this machine.
        port: 0 takes a free one.
        url: what readers' links begin with, where it is not http://HOST:PORT, as behind a proxy.
        say: tells the links.

    Raises:
        InputError: the address cannot be listened on.
    """
    if not 0 <= port <= _LAST_PORT:
        raise InputError(f"--port is {port}; expected 0 to {_LAST_PORT}")
    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port} ({error}); choose another --port or --host") from error
    name = socket.gethostname() if host == "0.0.0.0" else host
    base = url or f"http://{name}:{listening.getsockname()[1]}"
    for reader, progress, link in links(store, base):
        say(f"{reader}  {progress}  {link}")
    say("Ctrl+C stops; every answer is in the file as soon as it is given.")
    # No access log: it would hold the readers' links.
    server = uvicorn.Server(uvicorn.Config(study_app(store), log_level="warning", access_log=False))
    try:
        asyncio.run(server.serve(sockets=[listening]))
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
