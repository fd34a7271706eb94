"""Values of applications that cannot be read are counted by column in `status`, and named by `explain`."""

from datetime import timedelta
from typing import Any

from worker.cli.explain import explanation
from worker.cli.status import overview
from worker.stages.fetch import fetch
from worker.stages.sweep import sweep
from worker.store.queries.unreadable import UnreadableStore


async def test_what_is_not_understood_is_counted_by_column_without_its_text(bench_for: Any) -> None:
    bench = await bench_for()
    is_sqlite = bench.runtime.database.rows.is_sqlite
    for n, (zone, channel, status, locale) in enumerate(
        [
            ("PST", "sms", "DENIED!", "??"),
            ("Mars/Olympus", None, " denied", "en_US"),
            ("Eastern Standard Time", "Email ", "2", "EN-us"),
        ]
    ):
        await bench.member(f"m{n}", connection_status=status)
        await bench.sql(
            "UPDATE users SET timezone = :z, channel = :c, locale = :l WHERE user_guid = :u",
            z=zone,
            c=channel,
            l=locale,
            u=f"USR-m{n}",
        )
        await bench.sql(
            "INSERT INTO devices (user_guid, device_kind, device_address) VALUES ('USR-x', :k, 'a')",
            k=["FCM", "ios", "pager"][n],
        )
    moment = "'soon'" if is_sqlite else "CAST('-infinity' AS timestamptz)"
    await bench.sql(f"UPDATE members SET token_expires_at = {moment} WHERE member_guid = 'MBR-m0'")
    counts = {(kind.column, kind.what): kind.count for kind in await UnreadableStore(bench.runtime.database).counts()}
    assert counts == {
        ("devices.device_kind", "no push service"): 1,
        ("members.connection_status", "no status of MX"): 1,
        ("members.token_expires_at", "no moment"): 1,
        ("users.channel", "no channel"): 1,
        ("users.locale", "no language"): 1,
        ("users.timezone", "no time zone"): 2,
    }
    shown = (await overview(bench.runtime))["not_understood"]
    assert {(kind["column"], kind["what"]): kind["count"] for kind in shown} == counts
    assert not any(word in str(shown) for word in ("PST", "sms", "Mars", "pager", "soon", "DENIED!"))
    told = await explanation(bench.runtime, "MBR-m0")
    assert "token_expires_at holds no moment" in told["verdict"]
    assert [kind["column"] for kind in told["not_understood"]] == ["users.channel", "users.locale", "users.timezone"]


async def test_a_user_whose_zone_is_not_understood_waits_for_day_in_their_whole_country(bench_for: Any) -> None:
    bench = await bench_for(
        quiet_hours="00:00-23:59", smtp_url="smtp://127.0.0.1:9?tls=none", email_from="no-reply@ledgerly.example"
    )
    await bench.member("a", connection_status="denied")
    await bench.sql("UPDATE users SET timezone = 'PST', locale = 'de_DE' WHERE user_guid = 'USR-a'")
    await sweep(bench.runtime)
    await fetch(bench.runtime)
    row = (await bench.sql("SELECT outcome, next_attempt_at FROM reconnections"))[0]
    assert row[0] == "quiet_hours"
    assert "quiet" in str((await explanation(bench.runtime, "MBR-a"))["holds"]).lower()


async def test_an_unreadable_column_neither_picks_nor_heals_and_is_not_emptied(bench_for: Any) -> None:
    bench = await bench_for()
    junk = "'2026-09-31'" if bench.runtime.database.rows.is_sqlite else "CAST('0044-03-15 BC' AS timestamptz)"
    yesterday = bench.moment(bench.runtime.clock.now() - timedelta(days=1))
    await bench.member("picked", token_expires_at=yesterday)
    await bench.member("well", connection_status="CONNECTED")
    await sweep(bench.runtime)
    await bench.sql(f"UPDATE members SET token_expires_at = {junk}")
    report = await sweep(bench.runtime)
    assert report is not None
    assert (report.opened, report.closed) == (0, 0)
    assert await bench.states() == {"MBR-picked": "due"}
    await bench.sql("UPDATE members SET token_expires_at = NULL WHERE member_guid = 'MBR-picked'")
    report = await sweep(bench.runtime)
    assert report is not None
    assert report.closed == 1
    assert await bench.one("SELECT count(*) FROM members WHERE token_expires_at IS NOT NULL") == 1


async def test_infinity_is_never(bench_for: Any) -> None:
    bench = await bench_for(expiry_notice_days="7,2")
    never = "'infinity'" if bench.runtime.database.rows.is_sqlite else "CAST('infinity' AS timestamptz)"
    yesterday = bench.moment(bench.runtime.clock.now() - timedelta(days=1))
    await bench.member("renewed", token_expires_at=yesterday)
    await bench.member("well", connection_status="CONNECTED")
    await sweep(bench.runtime)
    await bench.sql(f"UPDATE members SET token_expires_at = {never}, token_revoked_at = {never}")
    report = await sweep(bench.runtime)
    assert report is not None
    assert (report.opened, report.closed) == (0, 1)
    assert await UnreadableStore(bench.runtime.database).counts() == []
