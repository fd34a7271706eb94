"""The bank's HTTP answers: JSON, errors, and answers that a broken network cuts off.

MX does not document the body of an error. So the bodies differ on purpose: JSON of several shapes, plain text, HTML, and none. A
client must cope with each.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import web

from worker.sandbox.script import Step

_LINGER_NOT_AT_ALL = struct.pack("ii", 1, 0)
#: How many more bytes ``truncated`` promises than it sends.
_MISSING_BYTES = 400

_BAD_GATEWAY = "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
_MAINTENANCE = "<!doctype html><html><head><title>One moment</title></head><body><p>Please wait…</p></body></html>"


def answer(value: object) -> web.Response:
    """200 with JSON."""
    return web.Response(body=json.dumps(value).encode(), content_type="application/json")


def refusal(status: HTTPStatus, message: str) -> web.Response:
    """An error in the shape that MX uses most."""
    return _json(status, {"error": {"message": message}})


def _json(status: HTTPStatus, value: object) -> web.Response:
    return web.Response(status=status, body=json.dumps(value).encode(), content_type="application/json")


def _text(status: HTTPStatus, text: str, content_type: str = "text/plain") -> web.Response:
    return web.Response(status=status, text=text, content_type=content_type)


_ERRORS: dict[str, Callable[[], web.Response]] = {
    "401": lambda: refusal(HTTPStatus.UNAUTHORIZED, "Unauthorized"),
    "403": lambda: _text(HTTPStatus.FORBIDDEN, "Forbidden"),
    "406": lambda: refusal(HTTPStatus.NOT_ACCEPTABLE, "API version not accepted"),
    "409": lambda: _json(HTTPStatus.CONFLICT, {"error": "Another job is running for this member"}),
    "429": lambda: _json(HTTPStatus.TOO_MANY_REQUESTS, {"message": "Too many requests"}),
    "500": lambda: _json(HTTPStatus.INTERNAL_SERVER_ERROR, {"errors": [{"message": "Internal server error"}]}),
    "502": lambda: _text(HTTPStatus.BAD_GATEWAY, _BAD_GATEWAY, "text/html"),
    "503": lambda: _text(HTTPStatus.SERVICE_UNAVAILABLE, "MX is being updated"),
    "504": lambda: web.Response(status=HTTPStatus.GATEWAY_TIMEOUT),
    "html": lambda: _text(HTTPStatus.OK, _MAINTENANCE, "text/html"),
    "unsupported": lambda: refusal(HTTPStatus.BAD_REQUEST, "Member cannot use OAuth"),
    "gone": lambda: refusal(HTTPStatus.NOT_FOUND, "Resource not found"),
    "rejected": lambda: _json(HTTPStatus.UNPROCESSABLE_ENTITY, {"errors": ["The request was rejected"]}),
}


async def broken(request: web.Request, step: Step) -> tuple[str, web.StreamResponse] | None:
    """The name of the answer in the ledger and the answer, for a step without a member; ``None`` for any other step."""
    if step.kind == "reset":
        return "reset", _reset(request)
    if step.kind == "truncated":
        return "200", await _truncated(request)
    make = _ERRORS.get(step.kind)
    if make is None:
        return None
    response = make()
    if step.seconds is not None:
        response.headers["Retry-After"] = f"{step.seconds:g}"
    return str(response.status), response


def _reset(request: web.Request) -> web.Response:
    """Close the connection with SO_LINGER 0, so that the kernel sends RST and drops what was queued."""
    transport = request.transport
    if isinstance(transport, asyncio.Transport):
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT_AT_ALL)
        transport.abort()
    return web.Response()  # is never sent


async def _truncated(request: web.Request) -> web.StreamResponse:
    """Send half an answer, then close the connection."""
    half = b'{"member": {"aggregated_at": "2016-10-13T18:07:57+00:00", "connection_sta'
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(half) + _MISSING_BYTES
    response.force_close()
    await response.prepare(request)
    await response.write(half)
    if request.transport is not None:
        request.transport.close()
    return response
