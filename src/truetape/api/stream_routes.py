"""``/api/stream``: what has changed, as server-sent events, and where to read on after a break."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from truetape.api.faults import ApiError
from truetape.present import unseen_json
from truetape.publish import Feed, Unseen

RETRY_MS = 1000
BIGGEST_ID = 2**63 - 1


def stream_routes(feed: Feed) -> APIRouter:
    """The route of the stream."""
    api = APIRouter(tags=["stream"])

    async def begin(
        last_event_id: Annotated[str | None, Header(max_length=100)] = None,
    ) -> int:
        """The number after which to begin; asked before the answer begins, so that it can refuse."""
        if last_event_id is None:
            return await feed.position()
        if not last_event_id.isascii() or not last_event_id.isdigit():
            raise ApiError(400, "Last-Event-ID is no number of ours; leave it out to begin now.")
        return min(int(last_event_id), BIGGEST_ID)

    @api.get("/api/stream", response_class=EventSourceResponse)
    async def stream(after: Annotated[int, Depends(begin)]) -> AsyncIterator[ServerSentEvent]:
        """Events ``update``, ``correction``, ``health`` and ``gap``, each with its number as its id.

        ``Last-Event-ID`` resumes after a number; what is not kept any more is told as a ``gap``.
        """
        yield ServerSentEvent(comment="welcome", retry=RETRY_MS)
        async with feed.listening():
            while not feed.closed:
                found = await feed.after(after)
                if isinstance(found, Unseen):
                    after = found.resumes_at - 1
                    yield ServerSentEvent(event="gap", id=str(after), data=unseen_json(found))
                    continue
                for event in found:
                    after = event.sequence
                    yield ServerSentEvent(event=event.kind, id=str(after), raw_data=event.text)
                if not found:
                    await feed.news(after)

    return api
