"""Faults over HTTP: always ``{"error", "details"}``, with a status that fits, never a stack trace.

And how they, and answers that are checked by nobody, stand in the OpenAPI document.
"""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import psycopg
from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from psycopg_pool import PoolTimeout
from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from starlette.exceptions import HTTPException

from truetape import log
from truetape.connect import first_line, is_transient
from truetape.errors import UnreachableError, UsageError

logger = log.get(__name__)

T = TypeVar("T")

SAFE = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every answer."""


class Problem(BaseModel):
    """Every refusal; ``details`` is what there is to choose from, or null."""

    error: str
    details: Any


class _Unchecked:
    """Pydantic documents the type and leaves the value alone: our answers are right by their tests, and
    looking at each of 10,000 candles once more would take longer than reading them."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        documented = handler(source)
        return core_schema.any_schema(
            metadata={"pydantic_js_annotation_functions": [lambda _, to_json: to_json(documented)]}
        )


UNCHECKED = _Unchecked()
Told = Annotated[T, UNCHECKED]
"""An answer of this shape."""

CHANGES = Security(
    HTTPBearer(
        scheme_name="token", auto_error=False,
        description="TRUETAPE_API_TOKEN, where the service has one.",
    )
)  # fmt: skip
"""Documents that a call wants the token; who may come in, ``doors`` says."""

_PROBLEMS = {
    400: "The request is not valid, or says too little.",
    401: "The token is missing or wrong.",
    403: "The Host is not served here, or the page is one of another site.",
    404: "There is no such thing.",
    409: "Several are meant; details lists them.",
    413: "The body is too large.",
    429: "Too many requests; Retry-After says in how many seconds to come again.",
    503: "A database is out of reach.",
}
_HEADERS = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Refusals as the OpenAPI document has them."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": _PROBLEMS[status], "content": content}
        | ({"headers": {_HEADERS[status]: {"schema": {"type": "string"}}}} if status in _HEADERS else {})
        for status in statuses
    }  # fmt: skip


ANYWHERE = problems(403, 429, 503)
"""What any call may be answered."""


class ApiError(Exception):
    """A refusal with its status and, where it helps, what to choose from."""

    def __init__(self, status: int, error: str, details: Any = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.details = details


def answer(status: int, error: str, details: Any = None) -> JSONResponse:
    headers = SAFE | ({"Retry-After": "2"} if status == 503 else {})
    return JSONResponse({"error": error, "details": details}, status_code=status, headers=headers)


def _without_422(described: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """FastAPI documents a refusal of its own shape for every parameter; ours are 400."""

    def openapi() -> dict[str, Any]:
        document = described()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        schemas = document["components"]["schemas"]
        for theirs in ("HTTPValidationError", "ValidationError"):
            schemas.pop(theirs, None)
        schemas["Problem"] = Problem.model_json_schema()
        return document

    return openapi


def install(app: FastAPI) -> None:
    """Registers a handler for each kind of fault, and documents them."""
    app.openapi = _without_422(app.openapi)  # type: ignore[method-assign]

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return answer(error.status, error.error, error.details)

    async def unusable(_: Request, error: Exception) -> JSONResponse:
        return answer(400, str(error))

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        sentence = f"{where} is not valid: {first['msg'].lower()}."
        if first["type"] == "model_attributes_type":
            sentence = "The body is no JSON object; send one, with the header Content-Type: application/json."
        return answer(400, sentence, [
            {"where": list(e["loc"]), "message": e["msg"]} for e in error.errors()
        ])  # fmt: skip

    async def unknown(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        told = answer(error.status_code, str(error.detail))
        told.headers.update(error.headers or {})  # Allow, where the method is not.
        return told

    async def unreachable(_: Request, error: Exception) -> JSONResponse:
        return answer(503, f"A database is out of reach: {first_line(error)}.")

    async def database(request: Request, error: Exception) -> JSONResponse:
        if is_transient(error):
            return await unreachable(request, error)
        if isinstance(error, psycopg.DataError):
            return answer(400, f"The request cannot be answered: {first_line(error)}.")
        logger.error("http.failed", path=request.url.path, error=first_line(error))
        return answer(500, "The database refused a query of ours; the log has the reason.")

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(UsageError, unusable)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(UnreachableError, unreachable)
    app.add_exception_handler(PoolTimeout, unreachable)
    app.add_exception_handler(TimeoutError, unreachable)
    app.add_exception_handler(psycopg.Error, database)
