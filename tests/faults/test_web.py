"""The web process is killed at each point of a click, and its stores go away under a load of clicks; scanners change nothing."""

import asyncio
import email
import email.policy
import re
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.faults.crew import Worker
from tests.faults.records import Records
from tests.faults.schedule import LONG, Schedule
from tests.faults.servers import OwnPostgres, OwnValkey
from tests.faults.test_canaries import Monitor
from tests.faults.web import (
    Customers,
    LostAnswers,
    Pressed,
    Web,
    checksum,
    customers_of,
    each_uri_belongs_to_one_click,
    make_links,
    new_secret,
    press_for,
    statuses,
    stored_messages,
)
from tests.machine import Machine, wait_until
from worker.policy.links import hash_of
from worker.sandbox.script import STEPS

OPEN = "('due', 'leased', 'ready', 'notified')"


def _swept(machine: Machine) -> None:
    ran = machine("sweep")
    assert ran.code == 0, ran.err


def _user(n: int) -> str:
    return f"USR-{n:06}"


def _minted(machine: Machine) -> dict[str, int]:
    """Windows by member, as the bank counts them."""
    return {guid: counts["minted"] for guid, counts in machine.ledger(members=True)["members"].items()}


# A process killed


@pytest.mark.timeout(900 if LONG else 200)
async def test_a_web_process_may_be_killed_at_any_point_of_a_click(
    machine: Machine, populated: Any, own_postgres: OwnPostgres, schedule: Schedule, tmp_path: Path
) -> None:
    points = ["before the record", "while MX is asked", "MX answered", "stored", "committed", "answered"]
    records = populated(len(points), "--drop-bodies", url=own_postgres.url)
    _swept(machine)
    lost = machine.stack.enter_context
    relay = lost(LostAnswers(f"{_folder_of(own_postgres)}/.s.PGSQL.5432", tmp_path / ".s.PGSQL.5432"))
    web = Web(machine, DATABASE_URL=own_postgres.url.replace(_folder_of(own_postgres), str(tmp_path)))
    tokens = dict(zip(points, make_links(records, [_user(n) for n in range(len(points))]), strict=True))
    guids = {point: f"MBR-{n:06}" for n, point in enumerate(points)}
    nonces = {point: new_secret() for point in points}
    machine.control(member=list(guids.values()), script=["slow:4", "ok"])
    machine.control(member=guids["while MX is asked"], script=["slow:30", "ok"])
    machine.control(member=guids["answered"], script=["ok"])
    lost_answer = lost(LostAnswers(web.port))
    lost_answer.word = b"POST"
    web.start()
    with ExitStack() as locks:
        async with customers_of(web) as customers:
            _lock(locks, own_postgres, f"SELECT 1 FROM links WHERE token_hash = '{hash_of(tokens[points[0]])}'")

            async def press(point: str) -> Pressed:
                port = lost_answer.port if point == "answered" else None
                return await customers.press(tokens[point], nonces[point], port=port)

            dying = [asyncio.create_task(press(point)) for point in points]
            await _until(lambda: records.one("SELECT count(*) FROM clicks WHERE minted") == 5, "five presses' record")
            _lock(locks, own_postgres, _row_of("reconnections", guids["MX answered"]))
            # This lock blocks the update of the click, but not the foreign key check of a new window.
            _lock(locks, own_postgres, _row_of("clicks", guids["stored"]), "NO KEY UPDATE")
            relay.word = b"INSERT INTO windows"  # one statement, which is a transaction of its own
            await _until(lambda: _waiting(records) == 3, "three that wait for a lock")
            await _until(lambda: _has_window(records, guids["committed"]), "the commit")
            await _until(lambda: _has_window(records, guids["answered"]), "the other commit")
            # For the customer at "answered" the connection may have ended already.
            done = [(point, str(task.result())) for point, task in zip(points, dying, strict=True) if task.done()]
            assert [point for point, _ in done if point != "answered"] == [], done
            assert relay.kept
            schedule.note("killed")
            web.kill()
            relay.word = None
            died = await asyncio.gather(*dying)
            assert {press.status for press in died} == {0}
            locks.close()
            web.start()
            # The button of the same page is pressed again. The dead process's window is either handed out now or not used.
            again = await asyncio.gather(*(press(point) for point in points if point != "answered"))
            again.append(await customers.press(tokens["answered"], nonces["answered"]))
            assert statuses(again) == {"303": 6}, list(map(str, again))
            # Another load of the page gets a URI of its own, and the first page keeps its URI.
            other = await asyncio.gather(*(customers.press(tokens[point]) for point in points))
            repeated = await asyncio.gather(*(customers.press(tokens[point], nonces[point]) for point in points))
        assert statuses(other) == {"303": 6}
        assert [press.uri for press in repeated] == [press.uri for press in sorted(again, key=_place(tokens))]
        assert each_uri_belongs_to_one_click([*again, *other, *repeated]) == 2 * len(points)
    minted = _minted(machine)
    # A committed window was not minted again.
    assert {point: minted[guid] for point, guid in guids.items() if point in {"committed", "answered"}} == {
        "committed": 2, "answered": 2,
    }  # fmt: skip
    assert records.one(f"SELECT count(*) FROM reconnections WHERE state IN {OPEN} AND attempts = 0") == len(points)
    assert records.one("SELECT count(*) FROM clicks WHERE outcome IS NULL") == 0
    assert "Traceback" not in "".join(web.logs().values())


# Stores that go away

RATE, SECONDS_OF_LOAD, LINKS = (200.0, 3, 1_200) if LONG else (20.0, 0, 40)


@pytest.mark.longest
@pytest.mark.timeout(900 if LONG else 240)
async def test_database_and_redis_may_go_away_under_clicks(
    machine: Machine, populated: Any, own_valkey: OwnValkey, own_postgres: OwnPostgres, schedule: Schedule
) -> None:
    records = populated(LINKS, "--drop-bodies", "--latency", "0.05", url=own_postgres.url)
    web = Web(machine)
    with Worker(machine, schedule):  # messages with our links, so that clicks also get stored windows
        _swept(machine)
        wait_until(lambda: len(stored_messages(records)) == LINKS, what="the messages", seconds=60, grain=0.3)
    tokens = [
        token
        for id_, owner in stored_messages(records).items()
        for token in make_links(records, [owner], notification_id=id_)
    ]
    web.start()
    web.start()

    def both_away() -> None:
        own_valkey.kill()
        own_postgres.stop("immediate")
        schedule.pause(0.5, 3.0)
        own_postgres.start()
        own_valkey.start()

    def valkey_away() -> None:
        own_valkey.kill()
        schedule.pause(0.5, 2.0)
        own_valkey.start()

    def web_killed() -> None:
        for _ in range(5 if LONG else 1):
            schedule.note("web killed")
            web.kill()
            web.start()

    deeds = {
        "Valkey killed, restarted empty": valkey_away,
        "PostgreSQL restarted, fast": lambda: own_postgres.restart("fast"),
        "PostgreSQL restarted, immediate": lambda: own_postgres.restart("immediate"),
        "both killed at once": both_away,
        "a web process killed": web_killed,
    }
    enough = asyncio.Event()
    async with customers_of(web) as customers:
        load = asyncio.create_task(press_for(customers, tokens, schedule.rng, rate=RATE, until=enough))
        for name, deed in deeds.items():
            await asyncio.to_thread(schedule.pause, 0.5 + SECONDS_OF_LOAD, 1.0 + SECONDS_OF_LOAD)
            schedule.note(name)
            await asyncio.to_thread(deed)
        await asyncio.to_thread(schedule.pause, 0.5, 1.0)
        enough.set()
        presses = await load
        print(statuses(presses), schedule)
        # A customer without an answer presses again: a browser offers to send the same form again.
        cut_off = [press for press in presses if not press.has_a_way_on]
        assert [str(press) for press in cut_off if not _met_a_kill(press, schedule)] == []
        assert min(statuses(presses)[status] for status in ("303", "503")) > 0, "no fault was met"
        # After the faults every link leads to its bank.
        again = [*((token, None) for token in tokens[:LINKS]), *((press.token, press.nonce) for press in cut_off)]
        after: list[Pressed] = []
        for at in range(0, len(again), 50):  # fewer at once than a process accepts
            after += await asyncio.gather(*(customers.press(*page) for page in again[at : at + 50]))
        assert set(statuses(after)) <= {"303", "429"}, statuses(after)
        assert statuses(after)["303"] > 0.9 * LINKS
    given = each_uri_belongs_to_one_click([*presses, *after])
    _expect_each_window_went_to_one_click(machine, records, [*presses, *after])
    assert given > LINKS
    assert records.one(f"SELECT count(*) FROM reconnections WHERE state IN {OPEN}") == LINKS
    logs = "".join(web.logs().values())
    assert "web_request_failed" not in logs
    assert "Traceback" not in logs
    assert all(process.poll() is None for process in web.processes)


def _met_a_kill(press: Pressed, schedule: Schedule) -> bool:
    """Whether the press failed because its web process was killed."""
    gone = press.status == 0 and press.why in {"ServerDisconnectedError", "ClientOSError", "ClientConnectorError"}
    return gone and schedule.is_near(press.at, words=["web killed"], before=timedelta(seconds=15), after=timedelta(0))


def _expect_each_window_went_to_one_click(machine: Machine, records: Records, presses: list[Pressed]) -> None:
    """For each member, no more URIs were handed out than stored, and no more stored than the bank minted."""
    members = {
        row.token_hash: row.member_guid
        for row in records.all(
            "SELECT k.token_hash, r.member_guid FROM links k JOIN reconnections r ON r.user_guid = k.user_guid"
        )
    }
    given: dict[str, set[str]] = {}
    for press in presses:
        if press.status == 303:
            given.setdefault(members[hash_of(press.token)], set()).add(press.uri)
    minted = _minted(machine)
    assert {guid: len(uris) for guid, uris in given.items() if len(uris) > minted[guid]} == {}
    handed_out = records.all(
        "SELECT r.member_guid, count(*) FROM windows w JOIN reconnections r ON r.id = w.reconnection_id"
        " WHERE w.click_id IS NOT NULL GROUP BY 1"
    )
    assert all(len(given.get(guid, ())) <= count <= minted[guid] for guid, count in handed_out)
    wrong = records.one(
        "SELECT count(*) FROM windows w JOIN clicks c ON c.id = w.click_id WHERE c.reconnection_id <> w.reconnection_id"
    )
    assert wrong == 0


# MX's answers, and the search for secrets afterwards

#: By MX's answer to a click: the status of the page, and the reconnection's new state.
ANSWERS = {
    "ok": (303, ""), "scan": (303, ""), "link_seconds:5": (303, ""), "slow:0.2": (303, ""), "moved:MBR-anew": (303, ""),
    "connected": (200, "reconnected"), "unsupported": (200, "unsupported"), "gone": (200, "gone"), "rejected": (200, "quarantined"),
    "hostile:newline": (200, "quarantined"), "hostile:foreign_host": (200, "quarantined"), "hostile:userinfo": (200, "quarantined"),
} | dict.fromkeys(
    ["409", "500", "502", "504", "reset", "truncated", "html", "null_uri", "missing_uri", "empty_uri", "401", "403", "406", "503",
     "503:2", "429:1", "429"], (503, "")
)  # fmt: skip


@pytest.mark.longest
@pytest.mark.timeout(600 if LONG else 240)
async def test_each_answer_of_mx_gives_a_page_with_a_way_on_and_leaves_no_secret_anywhere(
    machine: Machine, populated: Any, own_valkey: OwnValkey, own_postgres: OwnPostgres, schedule: Schedule
) -> None:
    assert {word.partition(":")[0] for word in ANSWERS} == {word.partition(":")[0] for word in STEPS}
    records = populated(len(ANSWERS), url=own_postgres.url)
    web = Web(machine, MX_ALLOWED_URI_HOSTS="*.sandbox.example")
    guids = {word: f"MBR-{n:06}" for n, word in enumerate(ANSWERS)}
    with closing(Monitor(own_valkey)) as seen:
        with Worker(machine, schedule, loglevel="DEBUG"):
            _swept(machine)
            wait_until(
                lambda: len(stored_messages(records)) == len(ANSWERS), what="the messages", seconds=60, grain=0.3
            )
        tokens = _tokens_in_mails(machine)
        for word, guid in guids.items():
            machine.control(member=guid, script=[word, word, "ok"])  # one quick retry is made
        web.start()
        presses, shown = [], []
        async with customers_of(web) as customers:
            for n, (word, (status, becomes)) in enumerate(ANSWERS.items()):
                token = tokens[f"person{n:06}@mail.example"]
                stored, fresh = [await customers.press(token) for _ in range(2)]
                assert (stored.status, fresh.status, fresh.has_a_way_on) == (303, status, True), (word, str(fresh))
                state = records.one("SELECT state FROM reconnections WHERE member_guid = :g", g=guids[word])
                assert (state, word) == (becomes or "notified", word)
                owed = records.one(
                    "SELECT owed_at IS NOT NULL FROM reconnections WHERE member_guid = :g", g=guids[word]
                )
                assert (owed, word) == (status == 503, word)
                presses += [stored, fresh]
                shown.append(str([await customers.get(f"/{kind}/{token}") for kind in "ru"]))
            # Every link whose reconnection is still open leads to the bank as soon as MX answers.
            for n, (word, (_, becomes)) in enumerate(ANSWERS.items()):
                last = await _served(customers, tokens[f"person{n:06}@mail.example"], 200 if becomes else 303)
                assert last.status == (200 if becomes else 303), (word, str(last))
                presses.append(last)
        heard = seen.end()
    each_uri_belongs_to_one_click(presses)
    canaries = [*tokens.values(), *(press.nonce for press in presses), "oauth/authorize", "response_type=code"]
    canaries += [press.uri.partition("state=")[2] for press in presses if press.status == 303]
    places = web.logs() | {
        "worker.log": (machine.folder / "worker.log").read_text(),
        "Redis": heard,
        "pages": str([(press.text, press.headers) for press in presses if press.status != 303]),
        "headers": str([(n, v) for press in presses for n, v in press.headers.items() if n != "Location"]),
        "database": str(_rows(records)),
    }
    assert '"route": "/r/{token}"' in places["web-1.log"]
    assert "reconnect.fetch" in places["worker.log"]
    assert "reconnect:limits" in places["Redis"]
    assert {(name, canary) for name, text in places.items() for canary in canaries if canary in text} == set()
    assert not [uri for uri in ("oauth/authorize", "response_type") for text in shown if uri in text]
    assert "web_request_failed" not in places["web-1.log"]


async def _served(customers: Customers, token: str, wanted: int) -> Pressed:
    """Press until MX's ``Retry-After`` has passed."""
    for _ in range(20):
        press = await customers.press(token)
        if press.status == wanted:
            break
        await asyncio.sleep(0.5)
    return press


def _tokens_in_mails(machine: Machine) -> dict[str, str]:
    found = {}
    for path in (machine.folder / "mails").rglob("*.eml"):
        mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        body = mail.get_body(("plain",))
        assert body is not None
        ((token,),) = {tuple(set(re.findall(r"/r/([A-Za-z0-9_-]{22})", body.get_content())))}
        found[str(mail["To"].addresses[0].addr_spec)] = token
    return found


def _rows(records: Records) -> list[Any]:
    tables = [name for (name,) in records.all("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    return [records.all(f'SELECT t::text FROM "{table}" t') for table in tables]


# Scanners

LOOKS = 10_000 if LONG else 400


@pytest.mark.longest
@pytest.mark.timeout(600 if LONG else 200)
async def test_thousands_of_looks_at_live_links_mint_nothing_and_change_no_row(
    machine: Machine, populated: Any, own_postgres: OwnPostgres, schedule: Schedule
) -> None:
    records = populated(40, "--drop-bodies", url=own_postgres.url, users=20)
    _swept(machine)
    web = Web(machine)
    tokens = make_links(records, [_user(n) for n in range(20)])
    web.start()
    web.start()
    async with customers_of(web, connections=30) as customers:
        assert (
            await customers.press(tokens[0])
        ).status == 200  # two banks and none is chosen: the page is shown, and the press is recorded
        before, asked = checksum(records), machine.ledger()["requests"]
        looks = [
            (
                f"/{schedule.rng.choice('rrru')}/{schedule.rng.choice(tokens)}",
                schedule.rng.choice(["GET", "GET", "HEAD"]),
            )
            for _ in range(LOOKS)
        ]
        found = await asyncio.gather(*(customers.get(path, method=method) for path, method in looks))
    assert {status for status, _, _ in found} == {200}
    nonces = {text.partition('name="nonce" value="')[2][:22] for _, text, _ in found}
    assert len(nonces - {""}) > LOOKS / 4, "each load of the page has a nonce of its own"
    assert checksum(records) == before
    assert machine.ledger()["requests"] == asked
    assert not machine.ledger()["windows_minted"]


def _place(tokens: dict[str, str]) -> Callable[[Pressed], int]:
    places = {token: place for place, token in enumerate(tokens.values())}
    return lambda press: places[press.token]


def _folder_of(postgres: OwnPostgres) -> str:
    return postgres.url.partition("host=")[2].partition("&")[0]


def _row_of(table: str, guid: str) -> str:
    if table == "reconnections":
        return f"SELECT 1 FROM reconnections r WHERE member_guid = '{guid}'"
    return f"SELECT 1 FROM clicks r WHERE reconnection_id = (SELECT id FROM reconnections WHERE member_guid = '{guid}')"


def _lock(stack: ExitStack, postgres: OwnPostgres, rows: str, strength: str = "UPDATE") -> None:
    connection = stack.enter_context(closing(psycopg.connect(postgres.url)))
    assert connection.execute(f"{rows} FOR {strength}").fetchall()


def _waiting(records: Records) -> int:
    return int(records.one("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


def _has_window(records: Records, guid: str) -> bool:
    return bool(records.one("SELECT count(*) FROM windows WHERE click_id IS NOT NULL AND member_guid = :g", g=guid))


async def _until(condition: Callable[[], Any], what: str) -> None:
    """Wait in a thread, since presses run in this event loop."""
    await asyncio.to_thread(wait_until, condition, what=what)
