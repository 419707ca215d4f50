"""Routes that know what they may be asked: of a misspelt parameter the answer would be another question's."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from truetape.api.faults import ApiError


class KnownParameters(APIRoute):
    """Answers 400 where the query has a parameter that the call does not know, or one twice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        assert not self.dependant.dependencies, "what they take is not looked for here"
        known = {p.alias for p in self.dependant.query_params}

        async def checked(request: Request) -> Response:
            asked = [name for name, _ in request.query_params.multi_items()]
            for name in asked:
                if name not in known:
                    there = ", ".join(sorted(known)) or "none"
                    raise ApiError(
                        400, f"{name[:100]!r} is no parameter of this call; there are: {there}."
                    )
                if asked.count(name) > 1:
                    raise ApiError(400, f"{name} is given more than once; say it once.")
            return await answer(request)

        return checked
