"""Webhooks of MX, and the process that stores them is killed in the middle: what was answered with 204 is there."""

import asyncio
import base64
from collections import Counter
from typing import Any

import aiohttp
import pytest

from tests.faults.records import Records
from tests.faults.schedule import LONG, Schedule
from tests.faults.web import Web
from tests.machine import Machine

AUTH = "mx:webhook-secret"
HEADERS = {"Authorization": f"Basic {base64.b64encode(AUTH.encode()).decode()}"}
KILLS, HINTS, CONNECTIONS = (20, 5_000, 200) if LONG else (2, 1_000, 100)


@pytest.mark.timeout(600 if LONG else 120)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_what_was_answered_is_stored_when_the_process_is_killed_in_the_middle(
    kind: str, machine: Machine, request: Any, schedule: Schedule
) -> None:
    if kind == "postgresql":
        machine.environment["DATABASE_URL"] = request.getfixturevalue("own_postgres").url
    assert machine("migrate").code == 0
    records = Records(machine.environment["DATABASE_URL"])
    web = Web(machine, MX_WEBHOOK_AUTH=AUTH)
    rng = schedule.rng
    answered: Counter[str] = Counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

        async def send(guid: str) -> None:
            said = {"type": "CONNECTION_STATUS", "connection_status": "DENIED", "member_guid": guid}
            try:
                async with session.post(f"{web.base}/webhooks/mx", json=said, headers=HEADERS) as answer:
                    assert answer.status == 204
                    answered[guid] += 1
            except aiohttp.ClientError:
                pass

        for kill in range(KILLS):
            web.start()
            names = [f"MBR-{kill}-{rng.randrange(HINTS)}" for _ in range(HINTS)]
            sending = [asyncio.create_task(send(name)) for name in names]
            enough = rng.randrange(HINTS // 10, HINTS // 2)
            before = answered.total()
            while answered.total() < before + enough:  # noqa: ASYNC110 - a counter
                await asyncio.sleep(0.001)
            web.kill()
            await asyncio.gather(*sending)
            assert before + enough <= answered.total() < before + HINTS
        stored = {row[0]: row[1] for row in records.all("SELECT member_guid, times FROM hints")}
        # Committed, and killed before the answer: MX sends it again. Never the other way round.
        assert not {name: count for name, count in answered.items() if stored.get(name, 0) < count}
        web.start()
        again = [f"MBR-{kill}-{n}" for kill in range(KILLS) for n in range(50)]
        await asyncio.gather(*(send(name) for name in again))
    assert records.one("SELECT count(*) FROM hints") == len(stored.keys() | set(again))
    assert {row[0] for row in records.all("SELECT DISTINCT state FROM hints")} == {"due"}
    assert all("Traceback" not in log for log in web.logs().values())
    records.close()
