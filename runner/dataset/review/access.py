"""Who may open the review page: whoever has its address with the token, and only from the page's own origin."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.files import user_cache_dir

TOKEN = "token"
"""The parameter of the address that holds the token."""
SECURITY_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Other pages may not show this page in a frame, and do not learn its address, which contains the token."""
NO_TOKEN = (
    "This page needs the token of its server. Open the address that `runner review` printed; the address ends with "
    "?token=…"
)
OTHER_ORIGIN = "A page of another origin may not use this server."
WEBSOCKET_REFUSED = 4403
"""Close code of a refused WebSocket connection; applications may use 4000 to 4999 (RFC 6455, 7.4.2)."""


def review_token(dataset: Path) -> str:
    """Return the token of a user for the review of a data set.

    The token is kept in the user's cache, so that pages stay usable when the server is started again. Only this user
    can read it there.
    """
    folder = user_cache_dir("review-tokens")
    if folder is None:
        return secrets.token_urlsafe()
    file = folder / hashlib.sha256(str(dataset.resolve()).encode()).hexdigest()[:32]
    with suppress(OSError):
        if not file.stat().st_mode & 0o077 and (kept := file.read_text(encoding="utf-8")):
            return kept
    token = secrets.token_urlsafe()
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        unfinished.touch(mode=0o600, exist_ok=False)
        unfinished.write_text(token, encoding="utf-8")
        unfinished.replace(file)
    return token


class AccessMiddleware:
    """Refuses requests and WebSocket connections without the token, or of a page of another origin.

    The first request has the token in its address; a cookie holds it for the following ones, as for Jupyter's pages.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        """Wrap an application.

        Args:
            app: The application.
            token: The token.
            port: The port of the server; cookies are shared by all ports of a host, so its name contains the port.
        """
        self._app, self._token, self._cookie = app, token, f"runner-review-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or connection."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        request = HTTPConnection(scope)
        has_token_in_address = self._is_token(request.query_params.get(TOKEN, ""))
        if not _is_own_origin(request.headers):
            await self._refuse(scope, receive, send, OTHER_ORIGIN)
        elif not has_token_in_address and not self._is_token(request.cookies.get(self._cookie, "")):
            await self._refuse(scope, receive, send, NO_TOKEN)
        else:
            await self._app(scope, receive, self._with_headers(send, set_cookie=has_token_in_address))

    def _is_token(self, candidate: str) -> bool:
        return secrets.compare_digest(candidate.encode(), self._token.encode())

    def _with_headers(self, send: Send, *, set_cookie: bool) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(SECURITY_HEADERS)
                if set_cookie:
                    headers.append("Set-Cookie", f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict")
            await send(message)

        return send_with_headers

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, reason: str) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": WEBSOCKET_REFUSED, "reason": reason})
            return
        await PlainTextResponse(reason, 403, SECURITY_HEADERS)(scope, receive, send)


def _is_own_origin(headers: Headers) -> bool:
    """Whether a request comes from a page of this server, or from no page. Browsers name the page's origin."""
    origin, host = headers.get("origin"), headers.get("host")
    return origin is None or origin in {f"http://{host}", f"https://{host}"}
