"""What stands between the network and an index: token, hosts, rates, sizes, a log of who did what."""

import hmac
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi.responses import JSONResponse
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reid_da.atomic import open_own
from reid_da.serve.settings import ServeSettings

logger = logging.getLogger(__name__)

_MOST_CLIENTS = 10_000
OPEN_PATHS = frozenset({"/", "/page.js", "/page.css", "/icon.svg", "/health"})
"""What is answered without a token: the page, which holds no data, and whether the server lives."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_EXTRA_BYTES = 2**16
"""Of a request with an upload, beside the upload itself."""


class RateLimit:
    """A number of requests a minute for each client, with bursts of that size.

    Args:
        per_minute: requests; 0 for no limit.
        clock: seconds.
    """

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def allows(self, client: str) -> bool:
        """Whether one more request of a client is allowed; it counts if so."""
        if not self._per_minute:
            return True
        now = self._clock()
        with self._lock:
            left, since = self._left.pop(client, (float(self._per_minute), now))
            left = min(self._per_minute, left + (now - since) * self._per_minute / 60)
            allowed = left >= 1
            self._left[client] = (left - allowed, now)
            if len(self._left) > _MOST_CLIENTS:
                self._left.popitem(last=False)
        return allowed


class AuditLog:
    """A file of JSON lines: when, who, what, and with which result; never pictures or vectors.

    Args:
        file: appended to; None for no log.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        if file is not None:
            with open_own(file, "a"):
                pass

    def write(self, client: str, action: str, **details: Any) -> None:
        """Append a line and hand it to the system.

        Raises:
            OSError: the disk is full: then what was asked for is not done.
        """
        if self._file is None:
            return
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"time": stamp, "client": client, "action": action, **details}, allow_nan=False)
        with self._lock, open_own(self._file, "a", encoding="utf-8") as stream:
            stream.write(line + "\n")


class Guard:
    """Middleware that looks at every request before anything of it is read.

    Args:
        app: what is guarded.
        settings: of the server.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self._app, self._settings = app, settings
        self._rate = RateLimit(settings.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._refusal(request)
        if refusal is not None:
            status, reason = refusal
            await JSONResponse({"error": reason}, status_code=status, headers=_HEADERS)(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                added = [
                    (n.lower().encode(), v.encode()) for n, v in _HEADERS.items() if n.lower().encode() not in names
                ]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        await self._app(scope, _limited(receive, self._settings.max_upload + _EXTRA_BYTES), send_with_headers)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Status and reason of a request that is not answered."""
        settings = self._settings
        host = request.headers.get("host", "")
        if settings.hosts is not None and _without_port(host) not in settings.hosts:
            return 421, "this server is not called by that name"
        client = request.client.host if request.client else "unknown"
        if not self._rate.allows(client):
            return 429, f"more than {settings.requests_per_minute} requests a minute; wait a little"
        if request.method not in ("GET", "HEAD") and not _is_same_origin(request):
            return 403, "requests from other pages are refused"
        if settings.token is not None and request.url.path not in OPEN_PATHS:
            given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), settings.token.encode()):
                return 401, "a token is needed: Authorization: Bearer TOKEN"
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > settings.max_upload + _EXTRA_BYTES:
            return 413, f"larger than {settings.max_upload:,} bytes"
        return None


def _without_port(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if name and port.isdecimal() else host


def _is_same_origin(request: Request) -> bool:
    """Whether a request comes from the server's own page, or from a program that is no browser."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    return site in ("same-origin", "none") and (
        origin is None or origin.partition("://")[2] == request.headers.get("host")
    )


class UploadTooLargeError(Exception):
    """A body is larger than its limit, whatever its header says."""


def _limited(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise UploadTooLargeError
        return message

    return counted
