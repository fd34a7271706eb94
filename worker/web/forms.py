"""Reads the form that a request posts."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

#: Bytes of a body, and seconds that it may take. The largest form of ours has a hundred bytes.
MOST_BYTES, MOST_SECONDS = 4096, 10.0


async def read_form(request: web.Request) -> Mapping[str, str]:
    """The fields, urlencoded or multipart; the first of each name. Files and other kinds of body give no fields.

    Raises 413 for a body that is too large, 408 for one that is too slow, 400 for one that cannot be read.
    """
    try:
        async with asyncio.timeout(MOST_SECONDS):
            posted = await request.post()
    except web.HTTPException:
        raise
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except Exception:  # noqa: BLE001 - the parsers raise errors of many types, and some quote the body
        raise web.HTTPBadRequest from None
    fields: dict[str, str] = {}
    for name, value in posted.items():
        if isinstance(value, str):
            fields.setdefault(name, value)
    return fields
