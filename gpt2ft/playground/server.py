"""The playground's server: the page's files, and the calls that the page makes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Send

from ..generation.config import Sampling
from ..system.terminal import error_line, printable
from .access import LOOPBACK, Access
from .served_model import Event, ServedModel
from .text_request import TextRequest
from .writing import alternatives, written

PAGE = Path(__file__).parent / "page"
LARGEST_BODY = 1 << 18
SECONDS_TO_READ = 20
PORTS_TRIED = 20
SECONDS_TO_END = 1


class Playground:
    """The calls of the page: what there is, a text written on, what a token might have been."""

    def __init__(
        self, models: Sequence[ServedModel], sampling: Sampling, state: Callable[[], dict[str, Any]]
    ) -> None:
        self._models, self._sampling, self._state = models, sampling, state

    def app(self, token: str | None) -> Starlette:
        """All of it as an ASGI application; `token` is needed to call it, if there is one."""
        routes = [
            Route("/", lambda _: FileResponse(PAGE / "index.html")),
            Mount("/page", StaticFiles(directory=PAGE)),
            Route("/api/state", self.state),
            Route("/api/write", self.write, methods=["POST"]),
            Route("/api/alternatives", self.alternatives, methods=["POST"]),
        ]
        return Starlette(
            routes=routes,
            middleware=[Middleware(Access, token=token)],
            exception_handlers={
                HTTPException: _refused,
                ClientDisconnect: _gone,
                Exception: _failed,
            },
        )

    async def state(self, _: Request) -> Response:
        """The models and the settings."""
        return JSONResponse(self._state())

    async def write(self, request: Request) -> Response:
        """A text, an event a line."""
        wanted, model = await self._wanted(request)
        return Lines(_events(model.answer(lambda ready: written(ready, wanted))))

    async def alternatives(self, request: Request) -> Response:
        """The ten most probable tokens, when it is their turn."""
        wanted, model = await self._wanted(request)
        return Lines(_events(model.answer(lambda ready: alternatives(ready, wanted))))

    async def _wanted(self, request: Request) -> tuple[TextRequest, ServedModel]:
        """What a request asks for, and of which model."""
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST_BODY:
                raise HTTPException(413, f"a request has at most {LARGEST_BODY:,} bytes")
        try:
            wanted = TextRequest.from_json(body, self._sampling)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        if not 0 <= wanted.model < len(self._models):
            raise HTTPException(400, f"there is no model {wanted.model}")
        model = self._models[wanted.model]
        if model.is_full:
            raise HTTPException(503, "too many requests wait, try again later")
        return wanted, model


class Lines(StreamingResponse):
    """Events as lines of JSON, each sent at once; who leaves, or no longer reads, ends them."""

    media_type = "application/x-ndjson"

    def __init__(self, lines: AsyncGenerator[bytes, None]) -> None:
        super().__init__(lines)
        self._lines = lines

    async def stream_response(self, send: Send) -> None:
        async def send_soon(message: Message) -> None:
            # Who does not read would hold the model for everybody.
            await asyncio.wait_for(send(message), SECONDS_TO_READ)

        async with contextlib.aclosing(self._lines):
            with contextlib.suppress(TimeoutError):
                await super().stream_response(send_soon)


async def _events(events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    """Each event as a line; an error becomes the last one."""
    async with contextlib.aclosing(events) as found:
        try:
            async for event in found:
                yield _line(event)
        except Exception as error:  # of this text; the next may be better
            yield _line({"error": _told(error)})


def _line(event: Event) -> bytes:
    return json.dumps(event).encode() + b"\n"


def _told(error: Exception) -> str:
    """What an error says, which is also written to standard error."""
    print(f"gpt2ft: error: {printable(error_line(error))}", file=sys.stderr, flush=True)
    return error_line(error)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": _told(error)}, 500)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = error.detail.encode(errors="replace").decode()  # it may quote half a character
    return JSONResponse({"error": said}, error.status_code)


async def _gone(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


def listen(host: str, port: int | None, *, first: int) -> socket.socket:
    """A socket that listens at the port; without one at the first that is free, from `first` on.

    Raises `OSError`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = port or first + PORTS_TRIED
    for number in [port] if port is not None else range(first, last + 1):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, number))
            listener.listen()  # whoever calls before the server runs waits for it
            return listener
        except OSError as error:
            listener.close()
            if port is not None or number == last:
                raise OSError(
                    f"cannot listen at {host}, port {number}: {error.strerror}"
                ) from error
    raise AssertionError


def new_token(host: str) -> str | None:
    """A token that nobody can guess; None for loopback, where it needs none."""
    return None if host in LOOPBACK else secrets.token_urlsafe(24)


def serve(app: Starlette, listener: socket.socket) -> None:
    """Answer until Ctrl-C; a text that is being written then ends soon."""
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="critical",  # our own lines say what is wrong
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        loop="asyncio",
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
