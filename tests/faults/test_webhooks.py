"""MX's webhooks while the web process is killed: every webhook that was answered with 204 is stored."""

import asyncio
import base64
from collections import Counter
from typing import Any

import aiohttp
import pytest

from tests.faults.crew import Worker
from tests.faults.records import Records
from tests.faults.schedule import LONG, Schedule
from tests.faults.web import Web
from tests.machine import Machine, wait_until

AUTH = "mx:webhook-secret"
HEADERS = {"Authorization": f"Basic {base64.b64encode(AUTH.encode()).decode()}"}
KILLS, HINTS, CONNECTIONS = (20, 5_000, 200) if LONG else (2, 1_000, 100)


@pytest.mark.timeout(600 if LONG else 120)
@pytest.mark.parametrize("kind", ["postgresql", "sqlite"] if LONG else ["postgresql"])
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
        # A hint may be committed without an answer, and MX sends it again. It is never answered without being committed.
        assert not {name: count for name, count in answered.items() if stored.get(name, 0) < count}
        web.start()
        again = [f"MBR-{kill}-{n}" for kill in range(KILLS) for n in range(50)]
        await asyncio.gather(*(send(name) for name in again))
    assert records.one("SELECT count(*) FROM hints") == len(stored.keys() | set(again))
    assert {row[0] for row in records.all("SELECT DISTINCT state FROM hints")} == {"due"}
    assert all("Traceback" not in log for log in web.logs().values())
    records.close()


@pytest.mark.longest
@pytest.mark.timeout(900 if LONG else 240)
async def test_nothing_wrong_is_sent_whatever_comes_in_whatever_order_while_workers_are_killed(
    machine: Machine, schedule: Schedule
) -> None:
    """Late, doubled, reordered, malformed and unauthorised hints about members that are well, broken, or unknown."""
    each = 200 if LONG else 30
    kinds = {"well": "CONNECTED", "broken": "DENIED", "unhinted": "DENIED", "strange": "CHALLENGED"}
    rows = [
        {"user_guid": f"USR-{kind}-{n}", "member_guid": f"MBR-{kind}-{n}", "connection_status": status}
        for kind, status in kinds.items()
        for n in range(each)
    ]
    lines = [f"{row['user_guid']},{row['member_guid']},CONNECTED,{row['user_guid']}@mail.example" for row in rows]
    (machine.folder / "members.csv").write_text(
        "\n".join(["user_guid,member_guid,connection_status,email", *lines]) + "\n"
    )
    machine.start_sandbox(rows)
    web = Web(machine, MX_WEBHOOK_AUTH=AUTH)
    for ran in machine.each("migrate", "import members.csv"):
        assert ran.code == 0, ran.out
    web.start()
    wrong = {"Authorization": f"Basic {base64.b64encode(b'mx:guess').decode()}"}
    sent: list[tuple[dict[str, str], Any]] = [(HEADERS, "{not json")] * 20
    for row in rows:
        guid, hinted = row["member_guid"], "unhinted" not in row["member_guid"]
        hint = {"member_guid": guid, "user_guid": row["user_guid"], "action": "CHANGED"}
        said: list[Any] = [
            hint | {"type": "CONNECTION_STATUS", "connection_status": status} for status in ("DENIED", "IMPAIRED")
        ]
        said += [{"type": "AGGREGATION", "member_guid": guid, "user_guid": row["user_guid"], "job_guid": "JOB-1"}]
        said += [{"type": "MEMBER", "action": "deleted", "guid": guid, "user_guid": row["user_guid"]}, said[0]]
        sent += [(HEADERS if hinted else wrong, body) for body in said]
    schedule.rng.shuffle(sent)
    answers: Counter[int] = Counter()
    with Worker(machine, schedule) as worker:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50)) as session:

            async def send(headers: dict[str, str], body: Any) -> None:
                options = {"data": body} if isinstance(body, str) else {"json": body}
                more = headers | ({"Content-Type": "application/json"} if isinstance(body, str) else {})
                async with session.post(f"{web.base}/webhooks/mx", headers=more, **options) as answer:
                    answers[answer.status] += 1

            third = len(sent) // 3
            for part in (sent[:third], sent[third : 2 * third], sent[2 * third :], sent[::7]):
                await asyncio.gather(*(send(*one) for one in part))
                await asyncio.to_thread(worker.kill_a_child)
        records = Records(machine.environment["DATABASE_URL"])

        def is_over() -> bool:
            assert machine("sweep").code == 0  # recovers the leases of dead workers
            left = "SELECT count(*) FROM hints WHERE state IN ('due', 'leased')"
            return not records.one(left) and machine.mails()["count"] >= each

        await asyncio.to_thread(wait_until, is_over, what="the end of all hints", seconds=60)
        pending = "SELECT count(*) FROM notifications WHERE state IN ('pending', 'sending')"
        await asyncio.to_thread(wait_until, lambda: not records.one(pending), what="the last mail")
    told = machine.mails()["recipients"]
    assert set(answers) == {204, 401}
    broken = {f"USR-broken-{n}@mail.example".lower() for n in range(each)}
    unknown = records.one("SELECT count(*) FROM notifications WHERE state = 'unknown'")
    assert {address.lower() for address in told} == broken
    assert max(told.values()) == 1 or unknown  # a mail whose worker was killed may have been sent
    states = {row[0]: row[1] for row in records.all("SELECT member_guid, connection_status FROM members")}
    assert states == {
        row["member_guid"]: "CONNECTED" if "unhinted" in row["member_guid"] else row["connection_status"]
        for row in rows
    }
    assert records.one("SELECT count(*) FROM hints WHERE member_guid LIKE 'MBR-unhinted%'") == 0
    assert records.one("SELECT sum(times) FROM hints WHERE kind = 'UNREADABLE'") >= 20
    records.close()
