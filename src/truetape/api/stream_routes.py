"""``/api/stream``: what has changed, as server-sent events, and where to read on after a break."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Annotated, Any, TypeVar

import psycopg
from fastapi import APIRouter, Depends, Header
from fastapi.responses import Response, StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from psycopg_pool import PoolTimeout
from pydantic import WithJsonSchema

from truetape import log
from truetape.api.faults import ANYWHERE, ApiError, problems
from truetape.connect import first_line
from truetape.present import unseen_json
from truetape.publish import Feed, Unseen
from truetape.store.outbox import Event

logger = log.get(__name__)

T = TypeVar("T")

RETRY_MS = 1000
CHUNK_BYTES = 16 * 1024
"""No more of these wait in the server for a slow listener than one."""
KEEPALIVE_SECONDS = 15.0
BIGGEST_ID = 2**63 - 1
KINDS = ("update", "correction", "health", "gap")
_ID = {"type": "string", "pattern": "^[0-9]+$"}
_EVENT = {
    "type": "object",
    "properties": {
        "event": {"enum": KINDS},
        "id": _ID,
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"type": "object"},
        },
    },
    "required": ["event", "id", "data"],
}
_TOLD: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"itemSchema": _EVENT}}}
}
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


_under_way: set[asyncio.Task[Any]] = set()


async def _to_its_end(look: Coroutine[Any, Any, T]) -> T:
    """What is asked of the database is asked to its end, whoever leaves. A listener that leaves is
    cancelled again and again, each time in the midst of what a connection has to say to that."""
    task = asyncio.create_task(look)
    _under_way.add(task)
    task.add_done_callback(_under_way.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        raise


def _chunks(events: list[Event]) -> Iterator[bytes]:
    """Events as they are sent: those of a block all at once, not each on its own way through all layers."""
    chunk = b""
    for event in events:
        chunk += format_sse_event(event=event.kind, id=str(event.sequence), data_str=event.text)
        if len(chunk) > CHUNK_BYTES:
            yield chunk
            chunk = b""
    if chunk:
        yield chunk


async def _events(feed: Feed, after: int) -> AsyncIterator[bytes]:
    yield format_sse_event(comment="welcome", retry=RETRY_MS)
    async with feed.listening():
        while not feed.closed:
            found: list[Event] | Unseen | None = feed.recent(after)
            if found is None:
                try:
                    found = await _to_its_end(feed.older(after))
                except (psycopg.Error, PoolTimeout) as error:
                    logger.warning("stream.ended", error=first_line(error))
                    return  # A listener comes again by itself.
            if isinstance(found, Unseen):
                after = found.resumes_at - 1
                told = json.dumps(unseen_json(found))
                yield format_sse_event(event="gap", id=str(after), data_str=told)
                continue
            for chunk in _chunks(found):
                yield chunk
            if found:
                after = found[-1].sequence
            else:
                try:
                    async with asyncio.timeout(KEEPALIVE_SECONDS):
                        await feed.news(after)
                except TimeoutError:
                    yield KEEPALIVE_COMMENT


def stream_routes(feed: Feed) -> APIRouter:
    """The route of the stream."""
    api = APIRouter(tags=["stream"], responses=ANYWHERE | problems(400))

    async def begin(
        last_event_id: Annotated[
            str | None, Header(max_length=100), WithJsonSchema(_ID | {"maxLength": 100})
        ] = None,
    ) -> int:
        """The number after which to begin; asked before the answer begins, so that it can refuse."""
        if last_event_id is None:
            return await feed.position()
        if not last_event_id.isascii() or not last_event_id.isdigit():
            raise ApiError(400, "Last-Event-ID is no number of ours; leave it out to begin now.")
        return min(int(last_event_id), BIGGEST_ID)

    # Not FastAPI's own events: who leaves while they are on their way is a fault in its log.
    @api.get("/api/stream", response_class=Response, responses=_TOLD)
    async def stream(after: Annotated[int, Depends(begin)]) -> StreamingResponse:
        """Events ``update``, ``correction``, ``health`` and ``gap``, each with its number as its id.

        ``Last-Event-ID`` resumes after a number; what is not kept any more is told as a ``gap``.
        """
        return StreamingResponse(
            _events(feed, after), media_type="text/event-stream", headers=_HEADERS
        )

    return api
