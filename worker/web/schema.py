"""``/events.schema.json``: the JSON Schema of events, for those who receive them. Served if ``EVENTS_URL`` is set."""

import json

from aiohttp import web

from worker.policy import events
from worker.settings import Settings

PATH = "/events.schema.json"
_TEXT = json.dumps(events.schema(), indent=2)


def add_to(app: web.Application, prefix: str, settings: Settings) -> None:
    """Serve it below ``prefix``, if events are on."""
    if settings.events_url is not None:
        app.router.add_get(f"{prefix}{PATH}", show)


async def show(_: web.Request) -> web.Response:
    """The schema. It is the same in every installation."""
    return web.Response(text=_TEXT, content_type="application/schema+json")
