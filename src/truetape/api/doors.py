"""Who may come in: the token for changes, the Host and Origin of browsers, the size of a body."""

import secrets
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from truetape.api.faults import SAFE, answer
from truetape.settings import Settings

BODY_LIMIT_BYTES = 65_536
READING = ("GET", "HEAD", "OPTIONS")
LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "::1"}


def _host(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def _is_ours(origin: str, host: str | None) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def _refusal(request: Request, settings: Settings) -> Response | None:
    host = _host(request.headers.get("host", ""))
    if settings.is_loopback and host not in LOOPBACK_HOSTS | {settings.host}:
        # A page of another site whose name was pointed at this machine (DNS rebinding).
        return answer(403, "This Host is not served here; use localhost or 127.0.0.1.")
    if request.method in READING:
        return None
    origin = request.headers.get("origin")
    if origin is not None and not _is_ours(origin, request.headers.get("host")):
        return answer(403, "A page of another site may not change anything here.")
    if settings.api_token is not None:
        given = request.headers.get("authorization", "")
        wanted = f"Bearer {settings.api_token.get_secret_value()}"
        if not secrets.compare_digest(given.encode(), wanted.encode()):
            refused = answer(
                401, "This call changes something: send Authorization: Bearer <token>."
            )
            refused.headers["WWW-Authenticate"] = "Bearer"
            return refused
    return None


async def _whole_body(receive: Receive) -> Receive | None:
    """The body once it is all here, however it was sent; None where it is too large, or nobody sends it
    any more."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_LIMIT_BYTES:
            return None
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay


class Doors:
    """Checks every request before anything else sees it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (refusal := _refusal(Request(scope), self._settings)) is not None:
            await refusal(scope, receive, send_safely)
            return
        if scope["method"] not in READING:
            body = await _whole_body(receive)
            if body is None:
                too_large = answer(413, f"The body is larger than {BODY_LIMIT_BYTES} bytes.")
                await too_large(scope, receive, send_safely)
                return
            receive = body
        await self._app(scope, receive, send_safely)


def install(app: FastAPI, settings: Settings) -> None:
    app.add_middleware(Doors, settings=settings)
