"""The upper limit for any client: an aiohttp loop that asks and reads, classifies nothing and stores nothing.

It runs on the worker's own event loop (:class:`worker.runtime.LoopThread`), so that both have the same kind of loop. It asks for the
same members with the same headers. Prints one JSON object with the seconds and CPU seconds that it took.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator

import aiohttp
from yarl import URL

from ops.bench.population import member_guid, user_guid
from worker.runtime import LoopThread

HEADERS = {
    "Accept": "application/vnd.mx.atrium.v1+json",
    "MX-API-Key": "bench-key",
    "MX-Client-ID": "bench-client",
}


async def ask(base_url: str, *, requests: int, in_flight: int, stop_after: float) -> dict[str, float]:
    """Ask for ``requests`` windows, ``in_flight`` at a time. After ``stop_after`` seconds no request is begun."""
    numbers = iter(range(requests))
    began, cpu = time.monotonic(), time.process_time()

    async def go_on(session: aiohttp.ClientSession, numbers: Iterator[int]) -> None:
        for number in numbers:
            if time.monotonic() > began + stop_after:
                return
            path = f"/users/{user_guid(number)}/members/{member_guid(number)}/oauth_window_uri?referral_source=BROWSER"
            url = URL(base_url + path, encoded=True)
            async with session.get(url, headers=HEADERS, allow_redirects=False) as response:
                await response.read()
                if response.status != 200:
                    raise RuntimeError(f"the upstream answered {response.status}")

    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        await asyncio.gather(*(go_on(session, numbers) for _ in range(in_flight)))
        return {"seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}


def main() -> None:
    """``python -m ops.bench.bare URL --requests N --in-flight K [--stop-after SECONDS]``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    parser.add_argument("--stop-after", type=float, default=float("inf"))
    given = parser.parse_args()
    threads = LoopThread()
    asking = ask(given.url, requests=given.requests, in_flight=given.in_flight, stop_after=given.stop_after)
    print(json.dumps(threads.run(asking)))
    threads.close()


if __name__ == "__main__":
    main()
