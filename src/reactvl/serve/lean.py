"""Routes of the hot path: typed and documented by a function's signature as FastAPI's are, at a tenth of the cost.

FastAPI resolves dependencies and validates answers on every request, which takes longer than the search. A lean function's
parameters are `body` (a pydantic model, parsed from the JSON bytes), `choices` (one, from the query string) and `picture`
(the body's raw bytes); what it returns is encoded by msgspec. The same function, given to FastAPI, documents the route.
"""

import asyncio
import contextlib
import typing
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

import msgspec
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

JSON = "application/json"
encode = msgspec.json.Encoder().encode
CLOSE = {"connection": "close"}
DRAINED, DRAIN_SECONDS = 64 << 20, 2.0  # what is read of a refused body, so that its sender gets to read why


class Refused(HTTPException):
    """An answer other than what was asked for: its status and why."""


class Lean(NamedTuple):
    """A route of the hot path. watched: its work is long, and given up when whoever asked for it leaves."""

    method: str
    path: str
    function: Callable[..., Awaitable[Any]]
    watched: bool = False


def lean(declared: Lean, limit: int, seconds: float) -> Route:
    """The route that calls a function with what its signature names; a body has at most `limit` bytes and as many
    `seconds` to arrive."""
    method, path, function, watched = declared
    hints = typing.get_type_hints(function)
    body, choices, picture = (hints.get(name) for name in ("body", "choices", "picture"))

    async def endpoint(request: Request) -> Response:
        request.scope["route"] = route  # as FastAPI does for its own, which Timed counts by
        given: dict[str, Any] = {}
        if choices is not None:
            given["choices"] = parsed(choices, dict(request.query_params))
        if body is not None:
            given["body"] = parsed(body, await read_body(request, limit, seconds))
        if picture is not None:
            if request.headers.get("content-type", "").startswith("multipart/"):
                raise Refused(415, "send the picture's bytes as the body: curl --data-binary @cat.jpg", CLOSE)
            given["picture"] = await read_body(request, limit, seconds)
        work = function(**given)
        return Response(encode(await (unless_left(request, work) if watched else work)), media_type=JSON)

    route = Route(path, endpoint, methods=[method])
    return route


async def unless_left(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """What `work` returns; it is cancelled when the connection is closed before."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(499, "whoever asked has left")
        return task.result()
    finally:
        task.cancel()
        left.cancel()


def parsed(model: type[BaseModel], given: bytes | dict[str, str]) -> BaseModel:
    """The model's values of a JSON text or of a query string's; Refused with 422 for what it does not allow."""
    try:
        return model.model_validate_json(given) if isinstance(given, bytes) else model.model_validate(given)
    except ValidationError as fault:
        raise Refused(422, said(fault.errors(include_url=False, include_input=False, include_context=False))) from None


def said(errors: list[dict[str, Any]]) -> str:
    """`query.0.weight: Input should be ...`: the first three faults, each with its place."""
    lines = []
    for error in errors[:3]:
        place = ".".join(str(part) for part in error["loc"] if part not in ("body", "query_params"))
        lines.append(f"{place}: {error['msg']}" if place else error["msg"])
    more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
    return "; ".join(lines) + more


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body. Refused with 413 when it is, or says that it is, above `limit` bytes, with 408 when it does not
    arrive in time, with 400 when the sender leaves before its end."""
    said_length = int(request.headers.get("content-length", 0))  # the server has checked that it is a number
    chunks, size, rest = [], 0, said_length <= DRAINED
    try:
        async with asyncio.timeout(seconds):
            while said_length <= limit:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the request ended before its body did")
                size += len(message["body"])
                if size > limit:
                    rest = message.get("more_body", False)
                    break
                chunks.append(message["body"])
                if not message.get("more_body"):
                    return b"".join(chunks)
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {seconds:g} s", CLOSE) from None
    if rest:
        await _drain(request)
    raise Refused(413, f"the body is above the limit of {limit:,} bytes (`reactvl serve --max-upload`)", CLOSE)


async def _drain(request: Request) -> None:
    """Read a little of what is refused: a sender whose connection is cut while it writes never reads the answer."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while size < DRAINED:
                message = await request.receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
