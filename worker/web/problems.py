"""Error answers of the API: problem details (RFC 9457), in JSON."""

from http import HTTPStatus

from aiohttp import hdrs, web

from worker.web.pages import RETRY_AFTER

KIND = "application/problem+json"


def problem(status: int, detail: str, *, retry_after: float | None = None) -> web.Response:
    """``status`` with a sentence for the client's programmer; ``retry_after`` in seconds."""
    headers = {} if retry_after is None else {hdrs.RETRY_AFTER: str(max(round(retry_after), 1))}
    fields = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return web.json_response(fields, status=status, headers=headers, content_type=KIND)


class Problems:
    """The guard's answers to programs, under ``/api/``; :class:`worker.web.pages.Pages` has those to customers."""

    def unknown(self, _request: web.Request) -> web.Response:
        """No such address."""
        return problem(404, "There is nothing at this address; /api/v1/openapi.json has all there is.")

    def later(self, _request: web.Request, *, status: int = 503) -> web.Response:
        """The database is away, or this process fails or is overloaded."""
        return problem(status, "This did not work. Try again later.", retry_after=RETRY_AFTER)

    def busy(self, _request: web.Request, seconds: float) -> web.Response:
        """Too many requests."""
        return problem(429, "Too many requests.", retry_after=seconds)

    def refused(self, _request: web.Request, status: int) -> web.Response:
        """A request that is not allowed, such as a wrong method."""
        return problem(status, "The API takes no such request; see /api/v1/openapi.json.")
