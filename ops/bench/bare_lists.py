"""The upper limit for a sync: an aiohttp loop that asks for the same pages as a sync, reads them, and stores nothing.

It runs on the worker's own event loop, as :mod:`ops.bench.bare` does. It parses only the GUIDs of a page of users, which the next
requests need. Prints one JSON object with the requests, the seconds and the CPU seconds that it took.
"""

import argparse
import asyncio
import json
import time

import aiohttp
from yarl import URL

from ops.bench.bare import HEADERS
from worker.runtime import LoopThread
from worker.stages.sync_passes import USERS_A_PAGE
from worker.stages.user_members import MEMBERS_A_PAGE


async def ask(base_url: str, *, in_flight: int) -> dict[str, float]:
    """Ask for every page of users, and for the members of each."""
    waiting: asyncio.Queue[str | None] = asyncio.Queue(2 * USERS_A_PAGE)
    began, cpu, requests = time.monotonic(), time.process_time(), 0
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def get(path: str) -> bytes:
            nonlocal requests
            requests += 1
            async with session.get(
                URL(base_url + path, encoded=True), headers=HEADERS, allow_redirects=False
            ) as response:
                return await response.read()

        async def pages() -> None:
            page, pages = 1, 1
            while page <= pages:
                said = json.loads(await get(f"/users?page={page}&records_per_page={USERS_A_PAGE}"))
                page, pages = page + 1, said["pagination"]["total_pages"]
                for user in said["users"]:
                    await waiting.put(user["guid"])
            for _ in range(in_flight):
                await waiting.put(None)

        async def members() -> None:
            while (guid := await waiting.get()) is not None:
                await get(f"/users/{guid}/members?page=1&records_per_page={MEMBERS_A_PAGE}")

        await asyncio.gather(pages(), *(members() for _ in range(in_flight)))
    return {"requests": requests, "seconds": time.monotonic() - began, "cpu": time.process_time() - cpu}


def main() -> None:
    """``python -m ops.bench.bare_lists URL --in-flight K``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--in-flight", type=int, required=True)
    given = parser.parse_args()
    threads = LoopThread()
    print(json.dumps(threads.run(ask(given.url, in_flight=given.in_flight))))
    threads.close()


if __name__ == "__main__":
    main()
