"""The worker writes the application's columns of a member only when MX says that it is back, on every path."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.mx.answers import MemberRead, MemberState, Window
from worker.stages.deliver import deliver
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.stages.verify import verify

_COLUMNS = "connection_status, error_code, token_revoked_at, token_expires_at, is_oauth"
_AGO = datetime(2020, 1, 1, tzinfo=UTC)
_URI = "https://bank.example/oauth?state=1"


class Saying:
    """MX without a network: the same fields for every member."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    async def oauth_window(self, _user: str, guid: str) -> Window:
        return Window(uri=_URI, member=MemberState(guid=guid, **self._fields))

    async def read_member(self, _user: str, guid: str) -> MemberRead:
        return MemberRead(member=MemberState(guid=guid, **self._fields))

    async def probe(self) -> None:
        return None

    async def close(self) -> None:
        pass


async def _says(bench: Any, **fields: Any) -> None:
    await bench.runtime.mx.close()
    bench.runtime.mx = Saying(**fields)


async def _row(bench: Any) -> tuple[Any, ...]:
    return tuple((await bench.sql(f"SELECT {_COLUMNS} FROM members"))[0])


async def _by_fetch(bench: Any) -> None:
    await fetch(bench.runtime)


async def _by_sweep(bench: Any) -> None:
    await sweep(bench.runtime)


async def _by_verify(bench: Any) -> None:
    await bench.sql(
        "UPDATE reconnections SET state = 'notified', next_check_at = :ago, next_attempt_at = :later",
        ago=bench.stored(_AGO),
        later=bench.stored(_AGO.replace(year=2099)),
    )
    await verify(bench.runtime)


def _by_deliver(age: str) -> Any:
    async def run(bench: Any) -> None:
        said, bench.runtime.mx = bench.runtime.mx, Saying(connection_status="DENIED")
        await fetch(bench.runtime)
        bench.runtime.mx = said
        minutes = {"read": 5, "minted": 60}[age]
        fetched = bench.stored(bench.runtime.clock.now() - timedelta(minutes=minutes))
        await bench.sql("UPDATE windows SET fetched_at = :fetched", fetched=fetched)
        await deliver(bench.runtime)

    return run


@pytest.mark.parametrize(
    ("run", "status", "error"),
    [
        (_by_fetch, "DELAYED", 1000),
        (_by_fetch, None, None),
        (_by_fetch, "CLOSED", 2003),
        (_by_sweep, "DELAYED", 1000),
        (_by_sweep, "UPDATED", None),
        (_by_sweep, None, None),
        (_by_sweep, "CLOSED", 2003),
        (_by_sweep, "connected ", 1),
    ],
)
async def test_what_the_application_says_ends_a_reconnection_and_is_not_rewritten(
    bench_for: Any, run: Any, status: str | None, error: int | None
) -> None:
    bench = await bench_for()
    await bench.member("a", connection_status="DENIED", token_expires_at=bench.moment(_AGO.replace(year=2099)))
    await sweep(bench.runtime)
    await bench.sql("UPDATE members SET connection_status = :status, error_code = :error", status=status, error=error)
    before = await _row(bench)
    await run(bench)
    assert (await bench.states())["MBR-a"] in {"reconnected", "cancelled"}
    assert await _row(bench) == before


@pytest.mark.parametrize("run", [_by_fetch, _by_sweep], ids=["fetch", "sweep"])
async def test_a_renewed_notice_leaves_the_member_as_the_application_wrote_it(bench_for: Any, run: Any) -> None:
    bench = await bench_for(expiry_notice_days="7")
    now = bench.runtime.clock.now()
    await bench.member("a", connection_status="CONNECTED", token_expires_at=bench.moment(now + timedelta(days=5)))
    await sweep(bench.runtime)
    await bench.sql(
        "UPDATE members SET connection_status = 'DELAYED', error_code = 1000, token_expires_at = :renewed",
        renewed=bench.moment(now + timedelta(days=95)),
    )
    before = await _row(bench)
    await run(bench)
    assert await bench.states() == {"MBR-a": "reconnected"}
    assert await bench.one("SELECT outcome FROM reconnections") == "renewed"
    assert await _row(bench) == before


#: Every path that may learn from MX that a member is back. All share one rule and one writer.
_PATHS = {
    "fetch": _by_fetch,
    "verify": _by_verify,
    "read before delivery": _by_deliver("read"),
    "minted before delivery": _by_deliver("minted"),
}
_MAIL = {"smtp_url": "smtp://127.0.0.1:9", "email_from": "a@mail.example"}


@pytest.mark.each_database
@pytest.mark.parametrize(
    ("path", "codes"),
    [
        *((path, (2004, None, None)) for path in _PATHS),
        ("fetch", (1000, None, 1000)),
        ("fetch", (None, None, None)),
        ("fetch", (2004, 1000, 1000)),
        ("verify", (2004, 1000, 1000)),
        ("read before delivery", (2004, 1000, 1000)),
    ],
)
async def test_what_mx_says_of_a_member_that_is_back_is_written_and_what_it_disproves_is_cleared(
    bench_for: Any, path: str, codes: tuple[int | None, int | None, int | None]
) -> None:
    error, says, left = codes
    bench = await bench_for(**_MAIL)
    now = bench.runtime.clock.now()
    old, new = now - timedelta(days=2), now + timedelta(days=60)
    await bench.member(
        "a",
        connection_status="DENIED",
        error_code=error,
        token_revoked_at=bench.moment(old),
        token_expires_at=bench.moment(new),
    )
    await sweep(bench.runtime)
    before = await _row(bench)
    await _says(bench, connection_status="CONNECTED", successfully_aggregated_at=now, error_code=says)
    await _PATHS[path](bench)
    assert await bench.states() == {"MBR-a": "reconnected"}
    assert await _row(bench) == ("CONNECTED", left, None, before[3], before[4])
    defer = await sweep(bench.runtime)
    assert defer is not None
    assert defer.opened == 0


@pytest.mark.parametrize("path", _PATHS)
async def test_a_break_that_is_newer_than_mxs_word_stays(bench_for: Any, path: str) -> None:
    bench = await bench_for(**_MAIL)
    now = bench.runtime.clock.now()
    await bench.member("a", token_revoked_at=bench.moment(now - timedelta(days=2)))
    await sweep(bench.runtime)
    await bench.sql("UPDATE members SET token_revoked_at = :at", at=bench.moment(now - timedelta(minutes=1)))
    await _says(bench, connection_status="CONNECTED", successfully_aggregated_at=now - timedelta(hours=1))
    await _PATHS[path](bench)
    assert await bench.one("SELECT count(*) FROM members WHERE token_revoked_at IS NOT NULL") == 1
    await sweep(bench.runtime)
    assert list((await bench.states()).values())[-1] == "due"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        *((path, {"connection_status": "CONNECTED", "successfully_aggregated_at": _AGO}) for path in _PATHS),
        ("fetch", {"connection_status": "CONNECTED", "error_code": 2004}),
        ("fetch", {"connection_status": "UPDATED", "is_being_aggregated": True}),
        ("fetch", {"connection_status": None}),
    ],
)
async def test_where_mx_does_not_say_that_a_member_is_back_nothing_is_written(
    bench_for: Any, path: str, says: dict[str, Any]
) -> None:
    bench = await bench_for(**_MAIL)
    now = bench.runtime.clock.now()
    await bench.member("a", connection_status="DENIED", error_code=2005, token_revoked_at=bench.moment(now))
    await sweep(bench.runtime)
    before = await _row(bench)
    await _says(bench, **({"successfully_aggregated_at": now + timedelta(hours=1)} | says))
    await _PATHS[path](bench)
    assert (await bench.states())["MBR-a"] in {"due", "ready", "notified"}
    assert await _row(bench) == before
