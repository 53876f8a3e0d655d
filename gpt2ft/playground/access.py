"""Who may call the playground, and what each of its answers tells the browser."""

from __future__ import annotations

import hmac
import urllib.parse

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FROM_OUTSIDE = ("cross-site", "same-site")  # another port is the same site

# A page of files from here alone, in no frame; what it is told is kept nowhere.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Access:
    """Answers 403 to whoever may not call, and gives each answer its headers: ASGI middleware.

    Without a `token` the server is for this machine: the host that is called must be a name of
    loopback, so that no page of elsewhere gets at it by a name of its own (DNS rebinding). With a
    token the page needs it in its address, and each call of `/api/` in the header `Authorization`.
    In both cases a browser's request from a page of another origin is refused.
    """

    def __init__(self, app: ASGIApp, *, token: str | None) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            return  # no websockets, no start and end
        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is answered to whoever may not call; None if it may."""
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        is_api = path.startswith("/api/")
        # A link on another page may open the page; it may read and call nothing.
        is_opening = path == "/" and headers.get("sec-fetch-mode") == "navigate"
        reason, status = "", 403
        if self._token is None and not _is_loopback(host, scope["server"]):
            reason = f"the host {host} is not this machine's: open the link that was printed"
        elif not _is_own(headers.get("origin"), host) or (
            headers.get("sec-fetch-site") in FROM_OUTSIDE and not is_opening
        ):
            reason = "a page of another origin may not call this"
        elif self._token is not None and not self._is_told(scope, headers, is_api=is_api):
            reason = "the token is missing or another: open the whole link that was printed"
        elif scope["method"] == "POST" and not _is_json(headers.get("content-type", "")):
            reason, status = "send application/json", 415
        if not reason:
            return None
        if is_api:
            return JSONResponse({"error": reason}, status)
        return PlainTextResponse(f"gpt2ft: {reason}\n", status)

    def _is_told(self, scope: Scope, headers: Headers, *, is_api: bool) -> bool:
        """Whether the token was given, where it is needed: the page's other files hold nothing."""
        if is_api:
            given = headers.get("authorization", "").removeprefix("Bearer ")
        elif scope["path"] == "/":
            given = QueryParams(scope["query_string"]).get("token", "")
        else:
            return True
        return hmac.compare_digest(given.encode(), str(self._token).encode())


def _is_loopback(host: str, server: tuple[str, int]) -> bool:
    """Whether a Host header names loopback and the port that is listened at."""
    try:
        called = urllib.parse.urlsplit(f"//{host}")
        return called.hostname in LOOPBACK and (called.port or 80) == server[1]
    except ValueError:
        return False


def _is_own(origin: str | None, host: str) -> bool:
    """Whether an Origin header, if there is one, is that of the page itself."""
    return origin is None or origin in (f"http://{host}", f"https://{host}")


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"
