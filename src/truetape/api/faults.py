"""Faults over HTTP: always ``{"error", "details"}``, with a status that fits, never a stack trace."""

from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg_pool import PoolTimeout
from starlette.exceptions import HTTPException

from truetape import log
from truetape.connect import first_line, is_transient
from truetape.errors import UnreachableError, UsageError

logger = log.get(__name__)


class ApiError(Exception):
    """A refusal with its status and, where it helps, what to choose from."""

    def __init__(self, status: int, error: str, details: Any = None) -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.details = details


def answer(status: int, error: str, details: Any = None) -> JSONResponse:
    headers = {"Retry-After": "2"} if status == 503 else None
    return JSONResponse({"error": error, "details": details}, status_code=status, headers=headers)


def install(app: FastAPI) -> None:
    """Registers a handler for each kind of fault."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return answer(error.status, error.error, error.details)

    async def unusable(_: Request, error: Exception) -> JSONResponse:
        return answer(400, str(error))

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return answer(400, f"{where} is not valid: {first['msg'].lower()}.", [
            {"where": list(e["loc"]), "message": e["msg"]} for e in error.errors()
        ])  # fmt: skip

    async def unknown(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return answer(error.status_code, str(error.detail))

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
