"""Answers of the API to what it cannot do: problem details (RFC 9457), in JSON."""

from http import HTTPStatus

from aiohttp import hdrs, web

from worker.web.pages import RETRY_AFTER

KIND = "application/problem+json"


def problem(status: int, detail: str, *, retry_after: float | None = None) -> web.Response:
    """``status`` with a sentence for whoever wrote the client; ``retry_after`` in seconds."""
    headers = {} if retry_after is None else {hdrs.RETRY_AFTER: str(max(round(retry_after), 1))}
    fields = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return web.json_response(fields, status=status, headers=headers, content_type=KIND)


class Problems:
    """What :class:`worker.web.pages.Pages` is for customers, for programs: the guard's answers to requests under ``/api/``."""

    def unknown(self, _request: web.Request) -> web.Response:
        """No such address."""
        return problem(404, "There is nothing at this address; /api/v1/openapi.json has all there is.")

    def later(self, _request: web.Request, *, status: int = 503) -> web.Response:
        """Something of ours is away."""
        return problem(status, "This did not work. Try again later.", retry_after=RETRY_AFTER)

    def busy(self, _request: web.Request, seconds: float) -> web.Response:
        """Too many requests."""
        return problem(429, "Too many requests.", retry_after=seconds)

    def refused(self, _request: web.Request, status: int) -> web.Response:
        """A method that the address does not have, a body that is too large."""
        return problem(status, "The API takes no such request; see /api/v1/openapi.json.")
