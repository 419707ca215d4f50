"""Routes that know what they may be asked: of a misspelt parameter the answer would be another question's."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from truetape.api.faults import ApiError


class KnownParameters(APIRoute):
    """Answers 400 where the query has a parameter that the call does not know."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer, known = super().get_route_handler(), {p.alias for p in self.dependant.query_params}

        async def checked(request: Request) -> Response:
            for name in request.query_params:
                if name not in known:
                    there = ", ".join(sorted(known)) or "none"
                    raise ApiError(400, f"{name} is no parameter of this call; there are: {there}.")
            return await answer(request)

        return checked
