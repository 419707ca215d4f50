"""Who may come in: the token for changes, the Host and Origin of browsers, the size of a body."""

import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response

from truetape.api.faults import answer
from truetape.settings import Settings

BODY_LIMIT_BYTES = 65_536
LOOPBACK_HOSTS = {"localhost", "127.0.0.1", "::1"}

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def _host(netloc: str) -> str | None:
    try:
        return urlsplit(f"//{netloc}").hostname
    except ValueError:
        return None


def _refusal(request: Request, settings: Settings) -> Response | None:
    host = _host(request.headers.get("host", ""))
    if settings.is_loopback and host not in LOOPBACK_HOSTS | {settings.host}:
        # A page of another site whose name was pointed at this machine (DNS rebinding).
        return answer(403, "This Host is not served here; use localhost or 127.0.0.1.")
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return None
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return answer(403, "A page of another site may not change anything here.")
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length) > BODY_LIMIT_BYTES:
        return answer(413, f"The body is larger than {BODY_LIMIT_BYTES} bytes.")
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


def install(app: FastAPI, settings: Settings) -> None:
    """Checks every request before anything else sees it."""

    @app.middleware("http")
    async def doors(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        refusal = _refusal(request, settings)
        response = refusal if refusal is not None else await call_next(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response
