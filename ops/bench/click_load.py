"""Customers who open a page or press its button: ``python -m ops.bench.click_load URL TOKENS get|post --rate R | --in-flight N --seconds S``.

With ``--rate`` presses begin at fixed moments, however slow the answers are, and each is timed from its moment. So a server that
stops for a second delays every press of that second in the result. Prints JSON.
"""

import argparse
import asyncio
import json
import secrets
import time
from collections import Counter
from itertools import count
from pathlib import Path

import aiohttp


class Load:
    """Requests and how long they took."""

    def __init__(self, session: aiohttp.ClientSession, tokens: list[str], method: str) -> None:
        self._session = session
        self._tokens = tokens
        self._method = method
        self._numbers = count()
        #: Seconds of each request.
        self.took: list[float] = []
        #: 0: no answer within 30 s.
        self.statuses: Counter[int] = Counter()

    async def one(self, began: float) -> None:
        """One request for the next link, by a customer with their own IP address. ``began`` is its moment."""
        number = next(self._numbers)
        headers = {"X-Forwarded-For": f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"}
        path = f"/r/{self._tokens[number % len(self._tokens)]}"
        data = {"nonce": secrets.token_urlsafe(16)} if self._method == "post" else None
        request = self._session.request(self._method, path, data=data, headers=headers, allow_redirects=False)
        try:
            async with request as answer:
                await answer.read()
            status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        self.took.append(time.monotonic() - began)
        self.statuses[status] += 1

    async def at_rate(self, rate: float, seconds: float) -> None:
        """Begin ``rate`` requests a second."""
        began = time.monotonic()
        under_way = set()
        for number in range(int(rate * seconds)):
            at = began + number / rate
            await asyncio.sleep(max(0.0, at - time.monotonic()))
            task = asyncio.create_task(self.one(at))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def in_flight(self, n: int, seconds: float) -> None:
        """Keep ``n`` requests in flight."""
        until = time.monotonic() + seconds

        async def customer() -> None:
            while (now := time.monotonic()) < until:
                await self.one(now)

        await asyncio.gather(*(customer() for _ in range(n)))


async def main() -> None:
    """Run the load and print the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("tokens", type=Path)
    parser.add_argument("method", choices=("get", "post"))
    parser.add_argument("--rate", type=float)
    parser.add_argument("--in-flight", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(given.url, connector=connector, timeout=aiohttp.ClientTimeout(30)) as session:
        load = Load(session, given.tokens.read_text(encoding="ascii").split(), given.method)
        began = time.monotonic()
        if given.rate:
            await load.at_rate(given.rate, given.seconds)
        else:
            await load.in_flight(given.in_flight, given.seconds)
        seconds = time.monotonic() - began
    print(json.dumps({"seconds": seconds, "took": sorted(load.took), "statuses": load.statuses}))


if __name__ == "__main__":
    asyncio.run(main())
