"""The sandbox's own HTML pages: templates, and security headers."""

from http import HTTPStatus

import jinja2
from aiohttp import web

from worker.display_names import bdi

#: The pages need their own style and nothing else; there is no script to allow.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; base-uri 'none'; frame-ancestors 'self'"

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("worker.sandbox"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters["bdi"] = bdi


def page(template: str, *, status: HTTPStatus = HTTPStatus.OK, **context: object) -> web.Response:
    """A rendered template. It may contain one-time links, so it is not cached, and no Referer is sent from it."""
    return web.Response(
        status=status,
        text=_TEMPLATES.get_template(template).render(**context),
        content_type="text/html",
        headers=guarded(_POLICY),
    )


def guarded(policy: str) -> dict[str, str]:
    """Headers for a page under this Content-Security-Policy."""
    return {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
