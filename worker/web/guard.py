"""Runs before every handler: checks host and limits per address, sets a time limit, answers errors, writes the access log."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import hdrs, web

from worker.errors import WorkerError
from worker.web.client import Clients, PublicHost
from worker.web.health import CHALLENGE
from worker.web.limits import Limit, Limits
from worker.web.overload import TurnedAway
from worker.web.pages import Pages
from worker.web.problems import Problems

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HEALTH = frozenset({"/healthz", "/readyz"})
UNSUBSCRIBE = "/u/{token}"
#: Its handler counts requests, because it knows which are authorised.
WEBHOOKS = "/webhooks/mx"
#: For programs. Its handlers count requests by key, and its answers are JSON.
API = "/api/"

#: Seconds that a page may take. After that the customer has left.
VIEW_SECONDS = 10.0


class Guard:
    """A middleware. Every error is answered with what to do next: a page for customers, problem details under ``/api/``."""

    def __init__(
        self,
        *,
        host: PublicHost,
        clients: Clients,
        limits: Limits,
        pages: Pages,
        press_seconds: float,
        opt_out_seconds: float,
        prefix: str,
        has_api: bool = False,
    ) -> None:
        """``press_seconds``: how long a press of a button may take; ``opt_out_seconds``: how long an opt-out may take.

        ``prefix``: the path of ``PUBLIC_BASE_URL``. ``has_api``: whether there is anything under ``/api/``.
        """
        self._opt_out_seconds = opt_out_seconds
        self._host = host
        self._clients = clients
        self._limits = limits
        self._pages = pages
        self._press_seconds = press_seconds
        self._prefix = prefix
        self._problems = Problems() if has_api else None

    async def __call__(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer a request, and log it: the route, never the path, and nothing about the client."""
        began = time.monotonic()
        resource = request.match_info.route.resource
        # The path of an unknown address is not logged either: a mistyped link contains its token.
        route = resource.canonical.removeprefix(self._prefix) if resource is not None else "unknown"
        response = await self._safely(request, handler, route)
        # Thousands of webhooks are stored; worker.web.intake logs their number.
        if route not in HEALTH and (route, response.status) != (WEBHOOKS, 204):
            took = round((time.monotonic() - began) * 1000, 1)
            method = request.method if request.method in hdrs.METH_ALL else "other"
            log.info("web_request", route=route, method=method, status=response.status, ms=took)
        return response

    async def _safely(self, request: web.Request, handler: Handler, route: str) -> web.StreamResponse:
        try:
            async with asyncio.timeout(self._time_limit(request, route)):
                return await self._checked(request, handler, route)
        except web.HTTPException as error:
            return self._refused(request, error, self._answers(request))
        except TurnedAway:
            return self._answers(request).later(request)
        except WorkerError as error:
            log.warning("web_not_available", route=route, why=str(error))
            return self._answers(request).later(request)
        except TimeoutError:
            log.warning("web_too_slow", route=route)
            return self._answers(request).later(request)
        except Exception:
            log.exception("web_request_failed", route=route)
            return self._answers(request).later(request, status=500)

    async def _checked(self, request: web.Request, handler: Handler, route: str) -> web.StreamResponse:
        if (route not in HEALTH or CHALLENGE in request.headers) and not self._is_meant(request):
            text = "This is not the address of these pages. Open the link in your message again.\n"
            return web.Response(status=421, text=text)
        if route not in HEALTH and route != WEBHOOKS and not route.startswith(API):
            address = self._clients.of(request.remote, request.headers.getall(hdrs.X_FORWARDED_FOR, []))
            if address is not None and (wait := await self._limits.wait(_limit(request, route), address)) is not None:
                return self._answers(request).busy(request, wait)
        return await handler(request)

    def _time_limit(self, request: web.Request, route: str) -> float:
        if _is_view(request):
            return VIEW_SECONDS
        return self._opt_out_seconds if route == UNSUBSCRIBE else self._press_seconds

    def _is_meant(self, request: web.Request) -> bool:
        hosts = request.headers.getall(hdrs.HOST, [])
        target = request.raw_path
        # A request may carry the host in its first line too (RFC 9112, 3.2.2).
        absolute = [] if target.startswith(("/", "*")) else [target.partition("://")[2].partition("/")[0]]
        return self._host.is_meant(hosts) and all(self._host.is_meant([host]) for host in absolute)

    def _answers(self, request: web.Request) -> Pages | Problems:
        """Pages for customers, problem details for programs."""
        asks_api = request.path.removeprefix(self._prefix).startswith(API)
        return self._problems if asks_api and self._problems is not None else self._pages

    def _refused(self, request: web.Request, error: web.HTTPException, answers: Pages | Problems) -> web.StreamResponse:
        response = answers.unknown(request) if error.status == 404 else answers.refused(request, error.status)  # noqa: PLR2004
        if hdrs.ALLOW in error.headers:
            response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return response


def _is_view(request: web.Request) -> bool:
    return request.method in {hdrs.METH_GET, hdrs.METH_HEAD}


def _limit(request: web.Request, route: str) -> Limit:
    if _is_view(request):
        return Limit.VIEWS
    return Limit.ONE_CLICKS if route == UNSUBSCRIBE else Limit.PRESSES
