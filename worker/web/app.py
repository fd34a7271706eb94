"""The web application: routes, and what they share."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from aiohttp import web

from worker.errors import SettingsError
from worker.runtime import Runtime
from worker.stages.click import ASK_SECONDS, GIVEN_UP_AFTER
from worker.web import schema
from worker.web.api import ApiRoutes
from worker.web.client import Clients, PublicHost
from worker.web.credentials import Credentials
from worker.web.done import DoneRoutes
from worker.web.forms import MOST_BYTES, MOST_SECONDS
from worker.web.guard import UNSUBSCRIBE, WEBHOOKS, Guard
from worker.web.headers import POLICY, common_headers
from worker.web.health import HealthRoutes
from worker.web.limits import Limits
from worker.web.links import LinkRoutes
from worker.web.optout import OptOutRoutes
from worker.web.overload import Overload
from worker.web.pages import Pages
from worker.web.webhooks import WebhookRoutes

#: Seconds that a press may take: a slow body, a double click whose first press died, MX, and the database before and after MX.
_PRESS_SECONDS = MOST_SECONDS + GIVEN_UP_AFTER + ASK_SECONDS + 5.0
#: Seconds that an opt-out may take. A mailbox provider posts most of them, and may not try twice.
_OPT_OUT_SECONDS = 55.0


def make_app(runtime: Runtime) -> web.Application:
    """The application on this runtime. Raises :class:`SettingsError` without ``PUBLIC_BASE_URL``, or for an invalid template."""
    settings = runtime.settings
    base_url = settings.public_base_url
    if base_url is None:
        raise SettingsError(
            "settings: PUBLIC_BASE_URL is missing: `reconnect web` serves the links in messages, and none are made without it"
        )
    pages, limits = Pages(settings), Limits(settings)
    prefix = urlsplit(base_url).path
    clients = Clients(settings.forwarded_allow_ips)
    guard = Guard(
        host=PublicHost(base_url),
        clients=clients,
        limits=limits,
        pages=pages,
        press_seconds=_PRESS_SECONDS,
        opt_out_seconds=_OPT_OUT_SECONDS,
        prefix=prefix,
        has_api=bool(settings.api_keys),
    )
    app = web.Application(middlewares=[web.middleware(guard)], client_max_size=MOST_BYTES)
    overload = Overload(runtime.database)
    links, optout = LinkRoutes(runtime, pages, limits, overload), OptOutRoutes(runtime, pages, limits, overload)
    done, health = DoneRoutes(runtime, pages), HealthRoutes(settings)
    webhooks = None
    if settings.mx_webhook_auth is not None:
        webhooks = WebhookRoutes(runtime, Credentials(settings.mx_webhook_auth.get_secret_value()), clients, limits)
    api = ApiRoutes(runtime, clients, limits, overload) if settings.api_keys else None
    for at in dict.fromkeys(("", prefix)):  # a proxy may remove the prefix, or not
        app.router.add_get(f"{at}/r/{{token}}", links.show)
        app.router.add_post(f"{at}/r/{{token}}", links.press)
        app.router.add_get(f"{at}{UNSUBSCRIBE}", optout.show)
        app.router.add_post(f"{at}{UNSUBSCRIBE}", optout.change)
        app.router.add_get(f"{at}/done", done.show)
        if api is not None:
            api.add_to(app, at)
        app.router.add_get(f"{at}/healthz", health.alive)
        app.router.add_get(f"{at}/readyz", health.ready)
        schema.add_to(app, at, settings)
        if webhooks is not None:
            app.router.add_post(f"{at}{WEBHOOKS}", webhooks.receive)
    headers = common_headers(https=base_url.lower().startswith("https:"))

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        own_policy = response.headers.get(POLICY)
        response.headers.update(headers)
        if own_policy is not None:
            response.headers[POLICY] = own_policy

    async def closing(_: web.Application) -> AsyncIterator[None]:
        yield
        if webhooks is not None:
            await webhooks.close()
        await done.close()
        await health.close()
        await limits.close()

    app.on_response_prepare.append(add_headers)
    app.cleanup_ctx.append(closing)
    return app
