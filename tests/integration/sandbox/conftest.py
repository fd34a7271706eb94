"""A sandbox on free ports, which runs in the test's event loop and is reached over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import aiosmtplib
import pytest

from worker.sandbox.server import Addresses, SandboxConfig, serve

HEADERS = {
    "Accept": "application/vnd.mx.atrium.v1+json",
    "MX-API-Key": "key-of-the-test",
    "MX-Client-ID": "client-of-the-test",
}


@dataclass(kw_only=True)
class Sandbox:
    """A running sandbox, and clients for its HTTP and SMTP servers."""

    addresses: Addresses
    http: aiohttp.ClientSession
    mail_dir: Path

    def url(self, path):
        return f"{self.addresses.base_url}{path}"

    def get(self, path, *, headers=HEADERS, **options):
        return self.http.get(self.url(path), headers=headers, allow_redirects=False, **options)

    async def window(self, member="MBR-1", user="USR-1", **query):
        """Status and body of one request for a window."""
        path = f"/users/{user}/members/{member}/oauth_window_uri"
        async with self.get(path, params=query) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text

    async def mint(self, member="MBR-1", user="USR-1", **query):
        """The ``state`` of a fresh window."""
        status, body = await self.window(member, user, **query)
        assert status == 200
        return parse_qs(urlsplit(body["member"]["oauth_window_uri"]).query)["state"][0]

    async def member(self, member="MBR-1", user="USR-1"):
        async with self.get(f"/users/{user}/members/{member}") as response:
            assert response.status == 200
            return (await response.json())["member"]

    async def json(self, path):
        async with self.get(path, headers={}) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def control(self, *, expect=200, **command):
        async with self.http.post(self.addresses.control, json=command) as response:
            answer = await response.json()
            assert response.status == expect, answer
            return answer

    async def decide(self, state, decision="allow"):
        """Press a button on the consent page; returns status, page and headers."""
        form = {"state": state, "decision": decision}
        async with self.http.post(self.url("/oauth/authorize"), data=form, allow_redirects=False) as response:
            return response.status, await response.text(), response.headers

    def smtp(self, **options):
        return aiosmtplib.SMTP(
            hostname="127.0.0.1", port=urlsplit(self.addresses.smtp_url).port, start_tls=False, timeout=20, **options
        )


Start = Callable[..., Awaitable[Sandbox]]


@pytest.fixture
async def start(tmp_path) -> AsyncIterator[Start]:
    """Starts sandboxes: ``await start([{…}, …], latency=…)``; they stop with the test."""
    tasks = []
    sessions = []

    async def run(members=None, **config):
        number = len(tasks)
        population = tmp_path / f"population-{number}.jsonl"
        population.write_text("".join(f"{json.dumps(record)}\n" for record in members or [one()]))
        config.setdefault("mail_dir", tmp_path / f"mail-{number}")
        config.setdefault("aggregation_seconds", 0.05)
        ready = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(
            serve(
                SandboxConfig(
                    population=population,
                    api_key=HEADERS["MX-API-Key"],
                    client_id=HEADERS["MX-Client-ID"],
                    **config,
                ),
                ready.set_result,
            )
        )
        tasks.append(task)
        await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        session = aiohttp.ClientSession()
        sessions.append(session)
        return Sandbox(addresses=ready.result(), http=session, mail_dir=config["mail_dir"])

    yield run
    for session in sessions:
        await session.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def one(member_guid="MBR-1", *script, **fields):
    record = {"user_guid": "USR-1", "member_guid": member_guid, **fields}
    return record | ({"script": list(script)} if script else {})


@pytest.fixture
def member():
    """Makes a population record: ``member("MBR-1", "429:1", "ok", institution_name=…)``."""
    return one


@pytest.fixture
async def sandbox(start) -> Sandbox:
    """A sandbox with one member, ``MBR-1`` of ``USR-1``, whose windows never fail."""
    return await start()
