"""Serves the pages and their files. A page asks nobody but us, the one of the calls included."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"

# Everything comes from here. (The charts set styles of their own elements.)
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
PAGES = {"/": "index.html", "/docs": "docs.html"}


def install(app: FastAPI) -> None:
    """``/`` is the dashboard, ``/docs`` tells every call; what they need is below ``/static``."""
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    for path, file in PAGES.items():
        app.add_api_route(path, _page(file), include_in_schema=False)


def _page(file: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return FileResponse(
            STATIC / file, headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        )

    return page
